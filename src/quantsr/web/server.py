"""The HTTP interface: /api/models, /api/jobs, and the page. An error is one sentence: {"error": "..."}."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from quantsr import __version__, photos, zoo
from quantsr.web import enlarge as work
from quantsr.web.guard import Guard
from quantsr.web.jobs import KEPT_SECONDS, Job, Jobs, State, told

STATIC = Path(__file__).parent / "static"
MEGA = 1_000_000
FORM_LIMITS: Any = {"max_files": 1, "max_fields": 8, "max_part_size": 1024}
# By kind of network and bits: how score, size and time compare with those of the other models of the same scale.
WORDS = {
    ("quantsr-c", 4): "4 bits: best",
    ("quantsr-c", 3): "3 bits: nearly as good, smaller file",
    ("quantsr-c", 2): "2 bits: smallest file",
    ("quantsr-t", 4): "transformer, 4 bits: slower, no better",
    ("quantsr-t", 2): "transformer, 2 bits: slower, no better",
}
ResultFormat = Literal["png", "jpg", "webp"]
RESULT_KINDS: dict[str, str] = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


@dataclass(frozen=True)
class Settings:
    """max_bytes: of an upload. max_pixels: of a result. queue: jobs that may wait. threads: None for all cores."""

    host: str = "127.0.0.1"
    max_bytes: int = 32 * MEGA
    max_pixels: int = 64 * MEGA
    queue: int = 8
    threads: int | None = None
    kept_seconds: float = KEPT_SECONDS
    upload_seconds: float = 120.0


class Problem(BaseModel):
    error: str


class ModelView(BaseModel):
    """words: for people. blocks: of each depth. default: taken when only a scale is given."""

    name: str
    scale: int
    bits: str
    words: str
    blocks: dict[str, int]
    default: bool


class Offer(BaseModel):
    """max_bytes: of an upload. max_pixels: of a result. kept_seconds: how long a result can be fetched."""

    models: list[ModelView]
    max_bytes: int
    max_pixels: int
    kept_seconds: float


class JobView(BaseModel):
    """progress: 0 to 1. seconds: of work. ahead: jobs that come first. width, height: of the result, in pixels."""

    id: str
    state: State
    progress: float
    seconds: float
    ahead: int
    model: str
    scale: int
    depth: str
    width: int
    height: int
    format: str
    error: str | None


def create_app(settings: Settings = Settings(), jobs: Jobs | None = None) -> Guard:
    """The ASGI application. jobs: another table than the one that runs the engine, for tests."""

    def run(job: Job, advance: Callable[[float], None]) -> None:
        work.enlarge(job.photo, job.result, job.model, job.depth, settings.threads, advance)

    jobs = jobs or Jobs(run, settings.queue, settings.kept_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (400, 403, 422)}
    app = FastAPI(
        title="quantsr", version=__version__, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None,
        lifespan=lifespan, responses=problems, form_limits=FORM_LIMITS, telemetry=NO_TELEMETRY,
    )  # fmt: skip
    app.add_exception_handler(AnyHTTPException, _one_sentence)
    app.add_exception_handler(RequestValidationError, _one_sentence)
    _add_routes(app, settings, jobs)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return Guard(app, jobs, settings.host, settings.max_bytes, settings.upload_seconds)


def _add_routes(app: FastAPI, settings: Settings, jobs: Jobs) -> None:
    offer = Offer(
        models=[_model_view(name) for name in zoo.bundled()],
        max_bytes=settings.max_bytes, max_pixels=settings.max_pixels, kept_seconds=settings.kept_seconds,
    )  # fmt: skip
    gone: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
    refused: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (408, 413, 415, 503)}

    missing = HTTPException(404, "there is no such job; it was cancelled or has expired")

    def found(id: str) -> Job:
        job = jobs.get(id)
        if job is None:
            raise missing
        return job

    @app.get("/api/models")
    def models() -> Offer:
        """What is on offer, and the limits."""
        return offer

    @app.post("/api/jobs", status_code=202, responses=refused)
    def start(
        photo: Annotated[UploadFile, File(description="PNG, JPEG, WebP, TIFF, AVIF, BMP or GIF")],
        scale: Annotated[Literal["2", "3", "4"] | None, Form(description="default: 4, or what the model does")] = None,
        model: Annotated[str | None, Form(max_length=128)] = None,
        depth: Annotated[Literal["full", "half", "quarter"], Form()] = "full",
        format: Annotated[ResultFormat, Form(description="of the result")] = "png",
    ) -> JobView:
        """Puts a photo into the queue."""
        chosen = _chosen(offer, int(scale) if scale else None, model, depth)
        with jobs.received(photo.file) as path:
            width, height = _result_size(path, chosen.scale, settings.max_pixels)
            return _job_view(jobs, jobs.submit(path, chosen.name, chosen.scale, depth, (width, height), format))

    @app.get("/api/jobs/{id}", responses=gone)
    def state(id: str) -> JobView:
        """How far a job is."""
        return _job_view(jobs, found(id))

    contents: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in RESULT_KINDS.values()}}}

    @app.get("/api/jobs/{id}/result", responses=gone | contents | {409: {"model": Problem}},
             response_class=FileResponse)  # fmt: skip
    def result(id: str) -> FileResponse:
        """The enlarged photo."""
        job = found(id)
        if job.state != "done":
            raise HTTPException(409, f"there is no result: the job is {job.state}")
        suffix = job.result.suffix
        return FileResponse(job.result, media_type=RESULT_KINDS[suffix[1:]], filename=f"photo_x{job.scale}{suffix}")

    @app.delete("/api/jobs/{id}", status_code=204, responses=gone)
    def cancel(id: str) -> None:
        """Cancels a job, within one tile if it runs; removes its result."""
        if not jobs.delete(id):
            raise missing


def _model_view(name: str) -> ModelView:
    info = zoo.load_packed(name).info
    scale = int(info["upscale"])
    return ModelView(
        name=name, scale=scale, bits=f"W{info['weight_bits']}A{info['act_bits']}",
        words=WORDS.get((info["architecture"], info["weight_bits"]), name),
        blocks={depth: len(kept) for depth, kept in info["depths"].items()}, default=name == zoo.default_name(scale),
    )  # fmt: skip


def _result_size(photo: Path, scale: int, most: int) -> tuple[int, int]:
    """Width and height."""
    try:
        work.check_size(photo, scale, most)
        facts = photos.probe(photo)
    except work.UnknownFormat as error:
        raise HTTPException(415, str(error)) from None
    except work.TooManyPixels as error:
        raise HTTPException(413, str(error)) from None
    except photos.PhotoError as error:
        raise HTTPException(422, told(error, photo)) from None
    return facts.width * scale, facts.height * scale


def _chosen(offer: Offer, scale: int | None, name: str | None, depth: str) -> ModelView:
    if not name:
        scale = scale or zoo.DEFAULT_SCALE
    fitting = [model for model in offer.models if scale in (None, model.scale)]
    for model in fitting:
        if name == model.name or (not name and model.default):
            if depth not in model.blocks:
                raise HTTPException(422, f"{model.name} has the depths {', '.join(model.blocks)}")
            return model
    models = f"models for x{scale}" if scale else "models"
    wanted = ", ".join(model.name for model in fitting)
    raise HTTPException(422, f"got model {name!r}, wanted one of the {models}: {wanted}")


def _job_view(jobs: Jobs, job: Job) -> JobView:
    return JobView(
        id=job.id, state=job.state, progress=job.progress, seconds=round(jobs.seconds(job), 3), ahead=jobs.ahead(job),
        model=job.model, scale=job.scale, depth=job.depth, width=job.width, height=job.height,
        format=job.result.suffix[1:], error=job.error,
    )  # fmt: skip


def _one_sentence(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, AnyHTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"}, 422)
