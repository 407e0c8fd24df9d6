"""The HTTP interface, on a real engine and on jobs that wait until they are told to go on."""

import io
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import quantsr
from quantsr import photos, zoo
from quantsr.photos import PhotoError
from quantsr.web.jobs import KEPT_RESULTS, Job, Jobs
from quantsr.web.server import WORDS, Settings, create_app

SMALL = Settings(max_bytes=200_000, max_pixels=1_000_000, queue=2, threads=1, upload_seconds=5)


def client_of(settings: Settings = SMALL, jobs: Jobs | None = None) -> TestClient:
    return TestClient(create_app(settings, jobs), base_url="http://localhost:8000")


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def post(client: TestClient, photo: bytes, **fields: str) -> Any:
    return client.post("/api/jobs", files={"photo": ("photo.png", photo)}, data=fields)


def finished(client: TestClient, id: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while (view := client.get(f"/api/jobs/{id}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        time.sleep(0.01)
    return view


# --- what it is for ---


@pytest.mark.parametrize("scale, depth", [(2, "full"), (3, "half"), (4, "quarter")])
def test_the_result_is_what_the_library_makes(
    client: TestClient, picture: Callable[..., np.ndarray], scale: int, depth: str
) -> None:
    photo = picture(20, 270)
    answer = post(client, encoded(photo), scale=str(scale), depth=depth)
    assert answer.status_code == 202
    view = finished(client, answer.json()["id"])
    assert (view["state"], view["progress"], view["error"]) == ("done", 1, None)
    assert (view["width"], view["height"], view["scale"], view["depth"]) == (270 * scale, 20 * scale, scale, depth)
    result = client.get(f"/api/jobs/{view['id']}/result")
    assert result.headers["content-type"] == "image/png"
    assert result.headers["content-disposition"].startswith("attachment")
    wanted = quantsr.load(f"quantsr-c-x{scale}-w4a4").upscale(photo, depth=depth)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(result.content))), wanted)


@pytest.mark.parametrize("format, kind", [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_the_result_is_of_the_format_that_was_asked_for(
    client: TestClient, picture: Callable[..., np.ndarray], format: str, kind: str
) -> None:
    view = finished(client, post(client, encoded(picture(40, 30)), depth="quarter", format=format).json()["id"])
    assert (view["state"], view["format"]) == ("done", format)
    answer = client.get(f"/api/jobs/{view['id']}/result")
    assert answer.headers["content-type"] == f"image/{kind.lower()}"
    assert f'photo_x4.{format}"' in answer.headers["content-disposition"]
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == (kind, (120, 160))


def test_a_format_that_cannot_hold_the_photo_is_told(client: TestClient) -> None:
    view = finished(client, post(client, encoded(np.zeros((8, 8, 4), np.uint8)), format="jpg").json()["id"])
    assert (view["state"], view["error"]) == (
        "failed",
        "JPEG holds no transparency; choose the format PNG, WebP, TIFF or AVIF",
    )
    view = finished(client, post(client, encoded(np.zeros((4200, 1), np.uint8)), format="webp").json()["id"])
    assert (view["state"], view["progress"]) == ("failed", 0)
    assert view["error"] == "the result has a side of 16800 pixels, WEBP holds 16383"


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_phones_photo_comes_back_upright_and_whole(
    client: TestClient, picture: Callable[..., np.ndarray], kind: str
) -> None:
    exif = Image.Exif()
    exif[274] = 6  # stored lying on its left side
    options = {"lossless": True} if kind == "WEBP" else {}
    photo = encoded(picture(16, 24), kind, exif=exif, icc_profile=b"a profile", **options)
    answer = post(client, photo, scale="2")
    view = finished(client, answer.json()["id"])
    assert (view["width"], view["height"]) == (32, 48)
    result = Image.open(io.BytesIO(client.get(f"/api/jobs/{view['id']}/result").content))
    assert result.size == (32, 48)
    assert result.info["icc_profile"] == b"a profile"
    assert result.getexif().get(274, 1) == 1
    wanted = quantsr.load("quantsr-c-x2-w4a4").upscale(np.rot90(picture(16, 24), -1).copy())
    np.testing.assert_array_equal(np.array(result), wanted)


def test_transparency_comes_back(client: TestClient, picture: Callable[..., np.ndarray]) -> None:
    photo = np.dstack([picture(16, 24), picture(16, 24, 1)[..., 0]])
    view = finished(client, post(client, encoded(photo), scale="2").json()["id"])
    result = np.array(Image.open(io.BytesIO(client.get(f"/api/jobs/{view['id']}/result").content)))
    np.testing.assert_array_equal(result, quantsr.load("quantsr-c-x2-w4a4").upscale(photo))


def test_the_words_of_models_agree_with_scores_and_sizes(client: TestClient) -> None:
    scores = json.loads(zoo.SCORES.read_text())

    def psnr(name: str, depth: str) -> float:
        return sum(score["psnr"] for score in scores[name]["scores"][depth].values())

    def size(name: str) -> int:
        return zoo.find(name).stat().st_size

    models = client.get("/api/models").json()["models"]
    for scale in (2, 3, 4):
        said = {model["words"]: model["name"] for model in models if model["scale"] == scale}
        best, middle, smallest = (said.pop(words) for words in WORDS.values() if not words.startswith("transformer"))
        assert size(smallest) == min(map(size, (best, middle, smallest, *said.values())))
        assert size(smallest) < size(middle) < size(best)
        for depth in ("full", "half", "quarter"):
            assert psnr(best, depth) > psnr(middle, depth) > psnr(smallest, depth)
            for name in said.values():
                assert psnr(name, depth) < psnr(name.replace("-t-", "-c-"), depth), name


@pytest.mark.parametrize(
    ("fields", "scale"), [({}, 4), ({"model": "quantsr-c-x2-w4a4"}, 2), ({"scale": "", "model": ""}, 4)], ids=str
)
def test_the_scale_is_4_or_what_the_model_does(client: TestClient, fields: dict[str, str], scale: int) -> None:
    answer = post(client, encoded(np.zeros((8, 8, 3), np.uint8)), **fields)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["scale"], answer.json()["model"]) == (scale, f"quantsr-c-x{scale}-w4a4")


def test_models_and_limits_are_told(client: TestClient) -> None:
    offer = client.get("/api/models").json()
    assert {model["name"] for model in offer["models"]} == set(quantsr.zoo.bundled())
    assert sorted(model["scale"] for model in offer["models"] if model["default"]) == [2, 3, 4]
    assert (offer["max_bytes"], offer["max_pixels"]) == (SMALL.max_bytes, SMALL.max_pixels)


# --- what it refuses ---


def test_an_upload_over_the_limit_is_refused(client: TestClient) -> None:
    answer = post(client, bytes(SMALL.max_bytes + 70_000))
    assert (answer.status_code, answer.json()) == (413, {"error": "the photo has more than 0.2 MB"})


def test_an_upload_of_unknown_length_is_cut_off_at_the_limit(client: TestClient) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="photo"; filename="x.png"\r\n\r\n'
        for _ in range(1000):
            sent += 10_000
            yield bytes(10_000)

    answer = client.post("/api/jobs", content=body(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413


def lying(side: int) -> bytes:
    """A PNG of 8x8 pixels whose head tells of more."""
    photo = bytearray(encoded(np.zeros((8, 8, 3), np.uint8)))
    photo[16:24] = side.to_bytes(4, "big") * 2
    photo[29:33] = zlib.crc32(photo[12:29]).to_bytes(4, "big")
    return bytes(photo)


def test_bombs_are_refused_before_decoding(client: TestClient) -> None:
    answer = post(client, lying(300), scale="4")
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("the result would have 1.5 megapixels and this server makes at most 1;")
    start = time.monotonic()
    assert post(client, lying(30_000)).status_code == 413
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "photo",
    [
        b"",
        b"<svg/>",
        b"%!PS-Adobe",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0" + b"\xff" * 200,
        b"RIFF0000WEBPVP8 ",
    ],
    ids=["empty", "svg", "postscript", "png head", "jpeg head", "tiff of nonsense", "webp head"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_what_is_no_photo_is_refused(client: TestClient, photo: bytes) -> None:
    answer = post(client, photo)
    assert answer.status_code == 415
    assert answer.json()["error"].startswith("this file is not a photo")


def test_an_animation_is_refused(client: TestClient) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    answer = post(client, file.getvalue())
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("got several frames") and "/" not in answer.json()["error"]


def test_a_torn_photo_fails_alone(client: TestClient, picture: Callable[..., np.ndarray]) -> None:
    whole = encoded(picture(32, 32))
    torn = finished(client, post(client, whole[: len(whole) // 2]).json()["id"])
    assert torn["state"] == "failed"
    assert torn["error"].startswith("not a readable image") and "/" not in torn["error"]
    assert client.get(f"/api/jobs/{torn['id']}/result").status_code == 409
    assert finished(client, post(client, whole).json()["id"])["state"] == "done"


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"scale": "5"}, "scale"),
        ({"scale": "4 "}, "scale"),
        ({"depth": "deep"}, "depth"),
        ({"model": "../../etc/passwd"}, "got model '../../etc/passwd', wanted one of the models: quantsr-c-x2-w2a2, "),
        (
            {"scale": "2", "model": "quantsr-c-x4-w4a4"},
            "got model 'quantsr-c-x4-w4a4', wanted one of the models for x2",
        ),
    ],
    ids=str,
)
def test_wrong_fields_are_refused_in_a_sentence(client: TestClient, fields: dict[str, str], told: str) -> None:
    answer = post(client, encoded(np.zeros((8, 8, 3), np.uint8)), **fields)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(told)


def test_hostile_forms_are_refused(client: TestClient) -> None:
    photo = ("photo", ("../../../etc/cron.d/x\0.png", encoded(np.zeros((8, 8, 3), np.uint8))))
    assert client.post("/api/jobs", files=[photo, photo]).status_code == 400
    many = {f"field{i}": "x" for i in range(50)}
    assert client.post("/api/jobs", files=[photo], data=many).status_code == 400
    assert client.post("/api/jobs", files=[photo], data={"model": "x" * 5000}).status_code == 400
    assert client.post("/api/jobs", data={"photo": "no file"}).status_code == 415
    assert client.post("/api/jobs", content=b"{}", headers={"content-type": "application/json"}).status_code == 415
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert client.post("/api/jobs", content=b"--a\r\n\r\n", headers=broken).status_code in (400, 422)
    assert client.post("/api/jobs", files=[photo]).status_code == 202


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil", ""])
def test_other_hosts_are_refused_on_loopback(client: TestClient, host: str) -> None:
    for path in ("/", "/api/models"):
        assert client.get(path, headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_loopback_has_three_names(client: TestClient, host: str) -> None:
    assert client.get("/api/models", headers={"host": host}).status_code == 200


def test_bound_elsewhere_every_name_is_good() -> None:
    with client_of(Settings(host="0.0.0.0")) as client:
        assert client.get("/api/models", headers={"host": "nas.home:8000"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9000", "http://["])
def test_pages_from_elsewhere_start_nothing(client: TestClient, origin: str) -> None:
    photo = {"photo": ("x.png", encoded(np.zeros((8, 8, 3), np.uint8)))}
    assert client.post("/api/jobs", files=photo, headers={"origin": origin}).status_code == 403
    assert client.delete("/api/jobs/x", headers={"origin": origin}).status_code == 403
    assert client.delete("/api/jobs/x", headers={"origin": "http://localhost:8000"}).status_code == 404


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/models", "/api/jobs/none", "/nothing", "/../server.py"])
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path, headers={"origin": "http://evil.example"}).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert not [name for name in headers if name.startswith("access-control-")]


def test_refused_uploads_leave_no_file(queue: TestClient) -> None:
    folder = Path(queue.jobs._folder.name)  # type: ignore[attr-defined]
    assert post(queue, b"nothing").status_code == 415
    assert post(queue, lying(3000)).status_code == 413
    assert list(folder.iterdir()) == []


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    static = Path(quantsr.__file__).parent / "web" / "static"
    for file in static.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text and " style=" not in text and "<script>" not in text, file.name


def test_only_the_pages_own_files_are_served(client: TestClient) -> None:
    for path in ("/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "//etc/passwd", "/docs", "/redoc"):
        assert client.get(path).status_code == 404, path


# --- the queue ---


class Held:
    """Work that goes on by one tile for each `step`."""

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.tiles: list[str] = []

    def __call__(self, job: Job, advance: Callable[[float], None]) -> None:
        for tile in range(4):
            assert self.steps.acquire(timeout=30)
            self.tiles.append(job.id)
            job.result.write_bytes(b"partly")
            advance((tile + 1) / 4)

    def step(self, count: int = 1) -> None:
        self.steps.release(count)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def queue(held: Held) -> Iterator[TestClient]:
    jobs = Jobs(held, limit=2)
    with client_of(SMALL, jobs) as client:
        client.jobs = jobs  # type: ignore[attr-defined]
        yield client
        held.step(100)


def running(client: TestClient, id: str) -> None:
    while client.get(f"/api/jobs/{id}").json()["state"] != "running":
        time.sleep(0.005)


PHOTO = encoded(np.zeros((8, 8, 3), np.uint8))


def test_a_full_queue_answers_503_and_when_to_come_back(queue: TestClient, held: Held) -> None:
    first = post(queue, PHOTO).json()["id"]
    running(queue, first)
    waiting = [post(queue, PHOTO).json() for _ in range(2)]
    assert [view["ahead"] for view in waiting] == [1, 2]
    answer = post(queue, PHOTO)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert queue.delete(f"/api/jobs/{waiting[0]['id']}").status_code == 204
    assert post(queue, PHOTO).status_code == 202
    held.step(100)
    assert finished(queue, waiting[1]["id"])["state"] == "done"


def test_refused_uploads_free_their_place(queue: TestClient) -> None:
    for _ in range(5):
        assert post(queue, b"nothing").status_code == 415
    assert post(queue, PHOTO).status_code == 202


def test_cancelling_ends_within_one_tile_and_removes_the_files(queue: TestClient, held: Held) -> None:
    id = post(queue, PHOTO).json()["id"]
    running(queue, id)
    held.step()
    job = queue.jobs.get(id)  # type: ignore[attr-defined]
    while job.progress < 0.25:
        time.sleep(0.005)
    assert queue.delete(f"/api/jobs/{id}").status_code == 204
    assert queue.get(f"/api/jobs/{id}").status_code == 404
    held.step()
    while not queue.jobs.idle():  # type: ignore[attr-defined]
        time.sleep(0.005)
    assert len(held.tiles) == 2
    assert not job.photo.exists() and not job.result.exists()
    assert queue.delete(f"/api/jobs/{id}").status_code == 404


def test_cancelling_while_the_result_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, ended = photos.write, threading.Event()
    asked: list[int] = []

    def write(path: Path, photo: photos.Photo, *, proceed: Callable[[], None]) -> None:
        def slowly() -> None:
            asked.append(1)
            if len(asked) == 5:
                assert client.delete(f"/api/jobs/{id}").status_code == 204
            proceed()

        try:
            honest(path, photo, proceed=slowly)
        finally:
            ended.set()

    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    monkeypatch.setattr("quantsr.model.Model.upscale", lambda *_, **__: noise)
    monkeypatch.setattr(photos, "mismatch", lambda *_: None)
    monkeypatch.setattr(photos, "write", write)
    with client_of() as client:
        monkeypatch.setattr("quantsr.web.jobs.secrets.token_urlsafe", lambda count: "x" * 32)
        id = "x" * 32
        assert post(client, PHOTO).status_code == 202
        assert ended.wait(30)
        assert len(asked) == 5  # 3 MB would have taken some 46
        assert client.get(f"/api/jobs/{id}").status_code == 404


@pytest.mark.parametrize(
    "error, told",
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("secret"), "the server failed"),
        (PhotoError("bad"), "bad"),
    ],
    ids=["memory", "bug", "image"],
)
def test_a_failure_is_told_and_the_next_job_runs(error: Exception, told: str) -> None:
    def work(job: Job, advance: Callable[[float], None]) -> None:
        if job.depth == "full":
            raise error

    with client_of(SMALL, Jobs(work, limit=2)) as client:
        failed = finished(client, post(client, PHOTO).json()["id"])
        assert failed["state"] == "failed" and failed["error"].startswith(told) and "secret" not in failed["error"]
        assert finished(client, post(client, PHOTO, depth="half").json()["id"])["state"] == "done"


def test_results_expire_and_their_number_is_bounded() -> None:
    now = 0.0
    jobs = Jobs(lambda job, advance: job.result.write_bytes(b"done"), limit=2, kept_seconds=600, clock=lambda: now)
    with client_of(SMALL, jobs) as client:
        ids = [finished(client, post(client, PHOTO).json()["id"])["id"] for _ in range(KEPT_RESULTS + 3)]
        there = [client.get(f"/api/jobs/{id}").status_code for id in ids]
        assert there == [404] * 3 + [200] * KEPT_RESULTS
        files = jobs.get(ids[-1]).result.parent  # type: ignore[union-attr]
        assert len(list(files.iterdir())) == KEPT_RESULTS
        now = 599.0
        assert client.get(f"/api/jobs/{ids[-1]}/result").content == b"done"
        now = 600.0
        assert client.get(f"/api/jobs/{ids[-1]}/result").status_code == 404
        assert list(files.iterdir()) == []
    assert not files.exists()


def test_ids_cannot_be_guessed() -> None:
    ids = [Job(Path(), Path(), "", 4, "full", 1, 1).id for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert min(map(len, ids)) >= 32  # 192 bits, six to a letter
    assert all(len({id[place] for id in ids}) > 40 for place in range(32))  # no letter is fixed


def test_slow_uploads_are_cut_off() -> None:
    with client_of(Settings(upload_seconds=0.0)) as client:
        assert post(client, PHOTO).status_code == 408
