"""Many clients at once, against a real server: memory stays flat, and the page answers meanwhile."""

import io
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from .conftest import Server

GROWTH = 50 * 10**6  # bytes


def photo(side: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=server.url, timeout=120, limits=limits, verify=False) as client:
        yield client


def post(client: httpx.Client, upload: bytes) -> httpx.Response:
    return client.post("api/jobs", files={"photo": ("x.png", upload)})


def wait_until_idle(client: httpx.Client, ids: list[str]) -> None:
    for id in ids:
        while client.get(f"api/jobs/{id}").json()["state"] in ("waiting", "running"):
            time.sleep(0.05)


@pytest.mark.slow
def test_a_hundred_at_once_take_no_more_memory_than_one(server: Server, client: httpx.Client) -> None:
    upload, waits = photo(256), []
    wait_until_idle(client, [post(client, upload).json()["id"]])
    before = server.peak()
    with ThreadPoolExecutor(100) as pool:
        answers = [pool.submit(post, client, upload) for _ in range(100)]
        while not all(answer.done() for answer in answers):
            start = time.monotonic()
            assert client.get("api/models").status_code == 200
            waits.append(time.monotonic() - start)
    got = [answer.result() for answer in answers]
    assert {answer.status_code for answer in got} <= {202, 503}
    taken = [answer.json()["id"] for answer in got if answer.status_code == 202]
    assert 0 < len(taken) < 100
    wait_until_idle(client, taken)
    growth = server.peak() - before
    print(f"peak {before / 1e6:.0f} MB and {growth / 1e6:.0f} more; {len(taken)} taken; {max(waits):.2f} s to answer")
    assert growth < GROWTH


@pytest.mark.slow
def test_a_lying_length_and_a_client_that_goes_are_survived(server: Server, client: httpx.Client) -> None:
    host, port = urlsplit(server.url).netloc.split(":")
    head = f"POST /api/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    for length in (10**12, 1000):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"{head}Content-Length: {length}\r\n\r\n--b\r\n".encode())
            if length > 1000:
                assert connection.recv(100).startswith(b"HTTP/1.1 413")
    before = server.peak()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        part = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="x.png"\r\n\r\n'
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        for _ in range(200):  # 13 MB where 4 are allowed; what comes after the answer is thrown away
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert server.peak() - before < GROWTH
    answer = post(client, photo(16))
    assert answer.status_code == 202
    wait_until_idle(client, [answer.json()["id"]])
