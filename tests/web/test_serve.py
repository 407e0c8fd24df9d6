"""The command: how it starts and ends, and what it says when it cannot."""

import socket
import subprocess
import sys

import httpx2 as httpx
import pytest

from quantsr import cli

from .conftest import Server


def test_it_says_where_it_is_and_ends_by_ctrl_c(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    answer = httpx.get(server.url)
    assert answer.status_code == 200 and "<h1>quantsr</h1>" in answer.text
    assert "server" not in answer.headers


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve"]) == 2
    assert 'pip install ".[web]"' in capsys.readouterr().err


@pytest.mark.parametrize("module, never", [("quantsr.cli", "fastapi"), ("quantsr.web.server", "torch")])
def test_what_is_not_loaded(module: str, never: str) -> None:
    code = f"import sys, {module}; sys.exit({never!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_elsewhere_than_on_loopback_there_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: sockets[0].close())
    assert cli.main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 0
    assert "warning: whoever reaches 0.0.0.0 can use this server" in capsys.readouterr().err
    assert cli.main(["serve", "--port", "0"]) == 0
    assert capsys.readouterr().err == ""
