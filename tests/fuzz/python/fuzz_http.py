"""Fuzzes what strangers send to the preview: raw bytes over a socket, which may break off anywhere.

The server answers with HTTP or closes the connection, never with status 500, and stays alive for the next request.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from urllib.parse import urlsplit

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.live.web import Preview


class _Errors(logging.Handler):
    """Keeps what the server logs as errors: exceptions of a request end there."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.getMessage()} {record.exc_info[1] if record.exc_info else ''}")


@functools.cache
def server() -> tuple[Preview, _Errors]:
    """A preview with a token, for all inputs."""
    errors = _Errors()
    for name in ("asyncio", "retinasdk.live"):
        logging.getLogger(name).addHandler(errors)
        logging.getLogger(name).propagate = False
    return Preview("127.0.0.1:0", token="a-token_of-enough-letters"), errors


def one_input(data: bytes) -> None:
    preview, errors = server()
    answer = _exchange(preview.url, data)
    if answer and not answer.startswith(b"HTTP/1.1 "):
        raise harness.FindingError(f"the answer is {answer[:80]!r}")
    if answer.startswith(b"HTTP/1.1 500"):
        raise harness.FindingError(f"the answer is {answer[:80]!r}")
    if b"image" in answer and not answer.startswith(b"HTTP/1.1 200"):
        raise harness.FindingError(f"a stranger got {answer[:80]!r}")
    if errors.texts:
        text = errors.texts[0]
        errors.texts.clear()
        raise harness.FindingError(f"the server logs {text}")


def _exchange(url: str, data: bytes) -> bytes:
    """Sends the bytes and nothing more, and returns the first part of the answer."""
    place = urlsplit(url)
    with contextlib.suppress(ConnectionError), socket.create_connection((place.hostname, place.port), 5) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return client.recv(4096)
    return b""


if __name__ == "__main__":
    harness.fuzz(one_input)
