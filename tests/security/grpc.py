"""One gRPC call by hand, over HTTP/2 in clear, as somebody without the server's schema makes it."""

import socket
from collections.abc import Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events

__all__ = ["called"]


def called(port: int, path: str, fields: Sequence[tuple[int, Any]]) -> dict[str, str]:
    """Call `path` on 127.0.0.1 with a protobuf of text fields; return headers and trailers."""
    message = _encoded(fields)
    channel = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    channel.initiate_connection()
    headers = {":method": "POST", ":scheme": "http", ":authority": "localhost", ":path": path}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    channel.send_headers(1, list(headers.items()))
    channel.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        return _answer(channel, connection)


def _answer(channel: h2.connection.H2Connection, connection: socket.socket) -> dict[str, str]:
    answer: dict[str, str] = {}
    while True:
        connection.sendall(channel.data_to_send())
        received = connection.recv(65536)
        for event in channel.receive_data(received) if received else ():
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                answer |= {_text(name): _text(value) for name, value in event.headers}
            if isinstance(event, h2.events.StreamEnded):
                return answer
        assert received, answer


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _encoded(fields: Sequence[tuple[int, Any]]) -> bytes:
    """Protobuf's wire format of length-delimited fields shorter than 128 bytes."""
    encoded = b""
    for number, value in fields:
        inner = value if isinstance(value, bytes) else _encoded(value)
        encoded += bytes([number << 3 | 2, len(inner)]) + inner
    return encoded
