// The form, one job at a time, and its result.

import { show } from "./compare.js";

const POLL = 250; // ms
const PATIENCE = 40; // polls in a row that may go unanswered
const at = (id) => document.getElementById(id);
const form = at("form"), photo = at("photo"), drop = at("drop");
let offer; // what GET /api/models tells
let file; // the chosen photo
let job; // { id }, while one is under way; the id is empty until the server has told it
let times = {}; // depth -> seconds, of the shown photo and model
let timed = ""; // what they belong to
let links = []; // object URLs of what is shown

class Sentence extends Error {}
class Silence extends Sentence {}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Silence("The server does not answer.");
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: `the server answered with status ${answer.status}` }));
  throw new Sentence(sentence(error));
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;
const chosen = (name) => form.elements[name].value;
const model = () => offer.models.find((one) => one.name === at("model").value);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function complain(error) {
  if (!(error instanceof Sentence)) console.error(error);
  at("error").textContent = error instanceof Sentence ? error.message : "This page has failed; reload it.";
}

// --- the form ---

function choose(taken) {
  file = taken;
  const size = file.size < 1e5 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
  const name = document.createElement("strong");
  name.textContent = file.name;
  at("chosen").replaceChildren(name, `, ${size}`);
  photo.required = false;
  at("error").textContent = "";
  if (!job) at("status").textContent = ""; // it told of the photo before
}

function listModels() {
  const fitting = offer.models.filter((one) => one.scale === Number(chosen("scale")));
  at("model").replaceChildren(...fitting.map((one) =>
    new Option(one.words + (one.default ? " (default)" : ""), one.name, one.default, one.default)));
  listDepths();
}

function listDepths() {
  for (const depth of form.elements.depth) {
    depth.disabled = !(depth.value in model().blocks);
    if (depth.disabled && depth.checked) form.elements.depth.value = "full";
  }
}

photo.addEventListener("click", () => { photo.value = ""; }); // so that the same file can be chosen again
photo.addEventListener("change", () => photo.files.length && choose(photo.files[0]));
at("scales").addEventListener("change", listModels);
at("model").addEventListener("change", listDepths);
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => { // a photo that misses the field must not replace the page
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
  });
}
addEventListener("drop", (event) => {
  const dropped = event.dataTransfer.files;
  if (dropped.length > 1) complain(new Sentence("One photo at a time, please."));
  else if (dropped.length) choose(dropped[0]);
});

// --- a job ---

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (job || !offer || !file) return;
  const mine = job = { id: "" };
  busy(true);
  try {
    await run(mine, file);
  } catch (error) {
    if (job === mine) {
      if (mine.id) ask(`api/jobs/${mine.id}`, { method: "DELETE" }).catch(() => {}); // nobody waits for it now
      at("status").textContent = "";
      complain(error);
    }
  }
  if (job === mine) busy(false);
});

// Ends early once `job` is no longer `mine`: it was cancelled, and another may run already.
async function run(mine, taken) {
  at("error").textContent = "";
  if (taken.size > offer.max_bytes) throw new Sentence(`The photo has more than ${offer.max_bytes / 1e6} MB.`);
  await taken.slice(0, 1).arrayBuffer().catch(() => { throw new Sentence("The photo has changed or gone; choose it again."); });
  const fields = new FormData();
  for (const name of ["scale", "model", "depth", "format"]) fields.append(name, chosen(name));
  fields.append("photo", taken);
  let view = await (await ask("api/jobs", { method: "POST", body: fields })).json();
  mine.id = view.id;
  if (job !== mine) return void await ask(`api/jobs/${view.id}`, { method: "DELETE" });
  while (view.state === "waiting" || view.state === "running") {
    tell(view);
    view = await poll(`api/jobs/${view.id}`);
    if (job !== mine) return;
  }
  if (view.state === "failed") throw new Sentence(sentence(view.error));
  const result = await (await ask(`api/jobs/${view.id}/result`)).blob();
  if (job === mine) present(view, taken, result);
}

// A few answers may be lost, as when a laptop changes networks; the job goes on meanwhile.
async function poll(path) {
  for (let lost = 1; ; lost++) {
    await pause(POLL);
    try {
      return await (await ask(path)).json();
    } catch (error) {
      if (!(error instanceof Silence) || lost === PATIENCE) throw error;
    }
  }
}

function tell(view) {
  const words = view.state === "waiting" ? `Waiting; ${view.ahead} ahead` : view.progress < 1 ? "Enlarging" : "Writing the file";
  if (at("status").textContent !== words) at("status").textContent = words; // a change is read out
  if (view.state === "running") at("progress").value = view.progress;
}

function busy(on) {
  const had = document.activeElement;
  if (!on) job = undefined;
  at("progress").hidden = at("cancel").hidden = !on;
  at("start").hidden = on;
  if (on) {
    at("progress").removeAttribute("value");
    at("status").textContent = "Sending";
  }
  if (had === at("start")) at("cancel").focus();
  if (had === at("cancel")) at("start").focus();
}

at("cancel").addEventListener("click", () => {
  const { id } = job;
  busy(false);
  at("status").textContent = "Cancelled";
  if (id) ask(`api/jobs/${id}`, { method: "DELETE" }).catch(complain);
});
addEventListener("pagehide", () => job?.id && fetch(`api/jobs/${job.id}`, { method: "DELETE", keepalive: true }));

// --- the result ---

function present(view, taken, result) {
  links.forEach(URL.revokeObjectURL);
  links = [taken, result].map((blob) => URL.createObjectURL(blob));
  at("result").hidden = false;
  at("result-title").textContent = `Before and after: ${taken.name}`;
  show(...links, view.width, view.height);
  const download = at("download");
  download.href = links[1];
  download.textContent = `Download ${at("format").querySelector(`[value=${view.format}]`).label.split(":")[0]}`;
  download.download = `${taken.name.replace(/\.[^.]*$/, "")}_x${view.scale}.${view.format}`;
  listTimes(view, taken);
  at("status").textContent = `Done in ${view.seconds.toFixed(1)} s: ${view.width} × ${view.height} pixels`;
}

function listTimes(view, taken) {
  const key = [taken.name, taken.size, taken.lastModified, view.model].join("/");
  if (timed !== key) times = {};
  timed = key;
  times[view.depth] = view.seconds;
  at("times-caption").textContent = `Time with ${view.model}`;
  const { blocks } = offer.models.find((one) => one.name === view.model);
  at("times").replaceChildren(...Object.keys(blocks).map((depth) => {
    const row = document.createElement("tr");
    const time = depth in times ? `${times[depth].toFixed(2)} s` : "not tried yet";
    for (const text of [depth === view.depth ? `${depth} (shown)` : depth, blocks[depth], time]) row.insertCell().textContent = text;
    return row;
  }));
}

try {
  offer = await (await ask("api/models")).json();
  at("limits").textContent =
    `PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF; up to ${offer.max_bytes / 1e6} MB, and ${offer.max_pixels / 1e6} megapixels in the result`;
  at("kept").textContent = offer.kept_seconds / 60;
  listModels();
} catch (error) {
  complain(error);
}
