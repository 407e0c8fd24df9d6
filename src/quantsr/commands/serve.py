"""Serve the web page: enlarge photos in a browser.

Needs the extra `web`. Photos and results stay on this machine; results are deleted after ten minutes. Ctrl-C ends.
"""

import argparse
import contextlib
import socket
import sys

from quantsr.commands.common import USAGE, Failure, add_threads, extra_needed, number

CONNECTIONS = 256  # at once; more are answered 503
GRACE_SECONDS = 3  # for requests under way when the server ends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s, this machine")
    parser.add_argument("--port", type=number(0, 65535), default=8000, help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--max-megabytes", type=number(1), default=32, metavar="N", help="of a photo; default: 32")
    parser.add_argument("--max-megapixels", type=number(1), default=64, metavar="N", help="of a result; default: 64")
    parser.add_argument("--queue", type=number(1), default=8, metavar="N", help="photos that may wait; default: 8")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    with extra_needed("the web page", "web", "uvicorn", "fastapi", "pydantic", "starlette"):
        import uvicorn

        from quantsr.web.guard import is_loopback
        from quantsr.web.server import MEGA, Settings, create_app
    settings = Settings(
        args.host, args.max_megabytes * MEGA, args.max_megapixels * MEGA, queue=args.queue, threads=args.threads
    )
    listening = _listen(args.host, args.port)
    if not is_loopback(args.host):
        print(f"quantsr: warning: whoever reaches {args.host} can use this server", file=sys.stderr)
    config = uvicorn.Config(
        create_app(settings), log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        ws="none", limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    name = f"[{args.host}]" if ":" in args.host else args.host
    print(f"http://{name}:{listening.getsockname()[1]}/  (Ctrl-C ends)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise Failure(f"cannot listen on {host} port {port}: {error}; choose another --host or --port", USAGE) from None
