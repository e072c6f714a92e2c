"""A gateway before an S3 server, like a load balancer; on demand it is overloaded.

Bytes pass unchanged, the signed Host header included. While overloaded it cuts open connections,
answers some requests with 503, as S3 or as a balancer does, and passes on the rest slowly.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress

__all__ = ["Front"]

SHARE = 0.5  # of connections that get a 503
SLOW = 0.05  # seconds that each piece is delayed
PIECE = 1 << 16
_XML = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
_PAGE = b"<html><body><h1>503 Service Unavailable</h1>No server is available.</body></html>"
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: %s\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s"
)
_REFUSALS = [
    _ANSWER % (kind, len(body), body)
    for kind, body in ((b"application/xml", _XML), (b"text/html", _PAGE))
]


class Front:
    """Listens on a free port of 127.0.0.1 and forwards to `port`.

    `trouble` may be set and cleared at any time. `refused` counts the answers of 503.
    """

    def __init__(self, port: int, seed: int) -> None:
        self._behind = port
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.trouble = self._closed = False
        self.refused = 0

    def start(self) -> None:
        """Serve in the background."""
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        """Accept no more connections."""
        self._closed = True
        self._listener.close()

    def _serve(self) -> None:
        while not self._closed:
            with suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        troubled = self.trouble
        with client, suppress(OSError):
            if troubled and self._random.random() < SHARE:
                self._refuse(client)
                return
            with socket.create_connection(("127.0.0.1", self._behind)) as server:
                back = threading.Thread(
                    target=self._pump, args=(server, client, troubled), daemon=True
                )
                back.start()
                self._pump(client, server, troubled)
                back.join()

    def _refuse(self, client: socket.socket) -> None:
        client.settimeout(5.0)
        client.recv(PIECE)
        self.refused += 1
        client.sendall(self._random.choice(_REFUSALS))
        client.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            while client.recv(PIECE):  # else the answer is lost in a reset
                pass

    def _pump(self, source: socket.socket, target: socket.socket, troubled: bool) -> None:
        with suppress(OSError):
            # a connection that was opened before the trouble is cut
            while (piece := source.recv(PIECE)) and troubled >= self.trouble:
                if troubled:
                    time.sleep(SLOW)
                target.sendall(piece)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
