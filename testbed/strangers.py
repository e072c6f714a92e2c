"""Somebody else's web server: it keeps what it is sent, and its pages are of another origin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["stranger"]


class _Blank(BaseHTTPRequestHandler):
    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(f"{self.command} {self.path} {self.headers}")
        self.send_response(401 if self.path.startswith("/api/") else 200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>elsewhere</title>")

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any, **__: Any) -> None:
        """Be silent."""


@contextmanager
def stranger() -> Iterator[tuple[str, list[str]]]:
    """Serve; provide the origin, and the list of the requests so far, with their headers.

    Every page is blank, and below /api/ a password is missing.
    """
    requests: list[str] = []

    class Handler(_Blank):
        heard = requests

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
