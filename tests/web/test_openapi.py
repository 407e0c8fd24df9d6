"""Requests made from the OpenAPI description: whatever is sent, the answer is one that the description names."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsr.web.jobs import Jobs
from quantsr.web.server import Settings, create_app

SETTINGS = Settings(max_bytes=50_000, queue=4)
APP = create_app(SETTINGS, Jobs(lambda job, advance: job.result.write_bytes(b"done"), SETTINGS.queue))
DESCRIPTION = APP.app.openapi()  # type: ignore[attr-defined]
ROUTES = [(method, path) for path, methods in DESCRIPTION["paths"].items() for method in methods]
NAMES = st.text(min_size=1, max_size=40).filter(lambda name: name not in (".", ".."))
IDS = NAMES.filter(lambda name: "/" not in name)  # else it is another path
IMAGES = st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBPVP8L"])
BYTES = st.one_of(st.binary(max_size=300), st.builds(lambda head, rest: head + rest, IMAGES, st.binary(max_size=300)))


def form_fields() -> dict[str, Any]:
    """Field -> its schema, of POST /api/jobs."""
    content = DESCRIPTION["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]
    return DESCRIPTION["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]["properties"]


def values(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    wrong = st.text(max_size=30)
    right = [value for kind in schema.get("anyOf", [schema]) for value in kind.get("enum", ())]
    return st.one_of(st.sampled_from(right), wrong) if right else wrong


FORMS = st.fixed_dictionaries(
    {}, optional={name: values(schema) for name, schema in form_fields().items() if name != "photo"}
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(APP, base_url="http://localhost", raise_server_exceptions=False) as client:
        assert client.get("/api/openapi.json").json() == DESCRIPTION
        yield client


def check(method: str, path: str, answer: Any) -> None:
    described = DESCRIPTION["paths"][path][method]["responses"]
    assert str(answer.status_code) in described, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error and "\n" not in error and "Traceback" not in error


def test_the_description_is_that_of_the_page() -> None:
    assert sorted(ROUTES) == [
        ("delete", "/api/jobs/{id}"),
        ("get", "/api/jobs/{id}"),
        ("get", "/api/jobs/{id}/result"),
        ("get", "/api/models"),
        ("post", "/api/jobs"),
    ]
    assert list(form_fields()) == ["photo", "scale", "model", "depth", "format"]


@settings(max_examples=40, deadline=None, database=None)
@given(BYTES, FORMS, NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_any_form(client: TestClient, photo: bytes, fields: dict[str, str], name: str) -> None:
    check("post", "/api/jobs", client.post("/api/jobs", files={"photo": (name, photo)}, data=fields))


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.binary(max_size=500), st.sampled_from(["multipart/form-data; boundary=b", "multipart/form-data", "text/plain"])
)
def test_any_body(client: TestClient, body: bytes, kind: str) -> None:
    answer = client.post("/api/jobs", content=b"--b\r\n" + body, headers={"content-type": kind})
    check("post", "/api/jobs", answer)


@settings(max_examples=40, deadline=None, database=None)
@given(
    st.sampled_from([route for route in ROUTES if "{id}" in route[1]]),
    IDS,
)
def test_any_id(client: TestClient, route: tuple[str, str], id: str) -> None:
    method, path = route
    check(method, path, client.request(method, path.replace("{id}", quote(id, safe=""))))
