// The view before and after: one picture over the other, split by a line; zoom and position hold for both.

const MOST = 8; // screen pixels for one of the result
const STEP = Math.SQRT2;
const MOVE = 60; // screen pixels for an arrow key

const at = (id) => document.getElementById(id);
const view = at("view"), split = at("split"), line = at("line");
const pictures = [at("before"), at("after")];
const place = { width: 1, height: 1, zoom: 1, x: 0, y: 0, fitted: true };

export function show(before, after, width, height) {
  Object.assign(place, { width, height, fitted: true });
  seeBefore(true);
  at("before").onerror = () => seeBefore(false); // a TIFF in most browsers
  at("before").src = before;
  at("after").src = after;
  view.style.aspectRatio = `${width} / ${height}`;
  draw();
}

function seeBefore(able) {
  for (const part of document.querySelectorAll(".of-before")) part.hidden = !able;
  at("no-before").hidden = able;
}

function draw() {
  const { clientWidth: w, clientHeight: h } = view;
  if (!w || !h) return;
  const fit = Math.min(w / place.width, h / place.height);
  place.zoom = place.fitted ? fit : Math.min(Math.max(place.zoom, Math.min(fit, 1 / devicePixelRatio)), MOST);
  const size = [place.width * place.zoom, place.height * place.zoom];
  place.x = size[0] <= w ? (w - size[0]) / 2 : Math.min(0, Math.max(w - size[0], place.x));
  place.y = size[1] <= h ? (h - size[1]) / 2 : Math.min(0, Math.max(h - size[1], place.y));
  for (const picture of pictures) {
    picture.style.width = `${size[0]}px`;
    picture.style.height = `${size[1]}px`;
    picture.style.transform = `translate(${place.x}px, ${place.y}px)`;
  }
  at("before-pane").style.clipPath = `inset(0 ${100 - split.value}% 0 0)`;
  line.style.left = `${split.value}%`;
  split.setAttribute("aria-valuetext", `${split.value} % before`);
  view.classList.toggle("zoomed", !place.fitted);
  at("zoom").value = `${Math.round(place.zoom * 100)} %`;
}

// Keeps the point (x, y) of the view, by default its middle, where it is.
function zoomTo(zoom, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const old = place.zoom;
  zoom = Math.min(zoom, MOST);
  Object.assign(place, { zoom, fitted: false, x: x - (x - place.x) * zoom / old, y: y - (y - place.y) * zoom / old });
  draw();
}

function fit() {
  place.fitted = true;
  draw();
}

function move(dx, dy) {
  place.x += dx;
  place.y += dy;
  draw();
}

split.addEventListener("input", draw);
at("zoom-in").addEventListener("click", () => zoomTo(place.zoom * STEP));
at("zoom-out").addEventListener("click", () => zoomTo(place.zoom / STEP));
at("zoom-full").addEventListener("click", () => zoomTo(1 / devicePixelRatio));
at("zoom-fit").addEventListener("click", fit);
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return; // the page scrolls; a pinch on a touchpad comes with ctrlKey
  event.preventDefault();
  const box = view.getBoundingClientRect();
  zoomTo(place.zoom * (event.deltaY < 0 ? STEP : 1 / STEP), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

const KEYS = {
  ArrowLeft: () => move(MOVE, 0), ArrowRight: () => move(-MOVE, 0), ArrowUp: () => move(0, MOVE), ArrowDown: () => move(0, -MOVE),
  "+": () => zoomTo(place.zoom * STEP), "=": () => zoomTo(place.zoom * STEP), "-": () => zoomTo(place.zoom / STEP), 0: fit,
};
view.addEventListener("keydown", (event) => {
  const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : KEYS[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

let dragged; // "line" or "picture"
view.addEventListener("pointerdown", (event) => {
  dragged = event.target === line ? "line" : "picture";
  view.setPointerCapture(event.pointerId);
});
view.addEventListener("pointermove", (event) => {
  if (dragged === "picture") move(event.movementX, event.movementY);
  if (dragged === "line") {
    const box = view.getBoundingClientRect();
    split.value = (event.clientX - box.left) / box.width * 100;
    draw();
  }
});
for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, () => { dragged = undefined; });
new ResizeObserver(draw).observe(view);
