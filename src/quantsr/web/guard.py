"""What stands before the application: who may ask, how much may come in, and headers on everything that goes out.

A page from elsewhere, open in the same browser, must not use a server on loopback. It cannot read answers, since there
is no CORS; `Origin` keeps it from starting work; `Host` keeps out a name of its own that it points at 127.0.0.1 (DNS
rebinding). On another address any Host is accepted, because the names of the machine are not known.
"""

import asyncio
import ipaddress
import re
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quantsr.web.jobs import Full, Jobs

FORM_BYTES = 64 * 1024  # of a form, besides the photo
RETRY_SECONDS = 5
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """An ASGI application around another. upload_seconds: how long an upload may take."""

    def __init__(self, app: ASGIApp, jobs: Jobs, host: str, max_bytes: int, upload_seconds: float) -> None:
        self.app, self._jobs = app, jobs
        self._hosts = (*LOOPBACK, host) if is_loopback(host) else None
        self._max_bytes, self._upload_seconds = max_bytes, upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _with_headers(scope, send)
        try:
            headers = Headers(scope=scope)
            self._check_origin(scope["method"], headers)
            if scope["method"] == "POST":
                if not headers.get("content-type", "").startswith("multipart/form-data"):
                    raise HTTPException(415, "wanted a form of type multipart/form-data")
                with self._jobs.place():
                    await self.app(scope, self._capped(scope, receive), send)
            else:
                await self.app(scope, receive, send)
        except Full:
            wait = {"Retry-After": str(RETRY_SECONDS)}
            await _problem(503, "the queue is full; try again in a moment", wait)(scope, receive, send)
        except HTTPException as error:
            await _problem(error.status_code, error.detail)(scope, receive, send)

    def _check_origin(self, method: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d+)?", host)
        if self._hosts is not None and (name is None or name[1].lower() not in self._hosts):
            raise HTTPException(400, "this server answers under localhost and 127.0.0.1 only")
        if method not in ("GET", "HEAD") and origin is not None and _place(origin) != host:
            raise HTTPException(403, "requests from pages of other servers are refused")

    def _capped(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that raises HTTPException when the body grows too long or takes too long."""
        too_long = HTTPException(413, f"the photo has more than {self._max_bytes / 1e6:g} MB")
        most, end = self._max_bytes + FORM_BYTES, time.monotonic() + self._upload_seconds
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told) > most:
            raise too_long
        got, complete = 0, False

        async def capped() -> Message:
            nonlocal got, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - time.monotonic())
            except TimeoutError:
                raise HTTPException(408, "the upload took too long") from None
            got += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if got > most:
                raise too_long
            return message

        return capped


def _place(origin: str) -> str | None:
    """Host and port; None for what is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _with_headers(scope: Scope, send: Send) -> Send:
    fixed = HEADERS | ({"Cache-Control": "no-store"} if scope["path"].startswith("/api/") else {})

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(fixed)
        await send(message)

    return sender


def _problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)
