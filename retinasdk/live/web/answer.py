"""`Answer` and `Page`: what the server sends to a client, with the headers that protect it."""

from __future__ import annotations

import email.utils
import http
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from retinasdk.live.web.request import Request

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}


class Parts(Protocol):
    """A body whose parts are made while it is sent."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Frees what the body holds. It is called once, also if no part was taken."""


@dataclass(frozen=True)
class Answer:
    """An answer to a request.

    Attributes:
        content: The body.
        type: Its media type.
        status: The HTTP status.
        headers: Headers in addition to, or instead of, those that every answer has.
    """

    content: bytes | Parts
    type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Returns an answer that says what is wrong."""
        return cls(json.dumps({"error": text}).encode(), status=status, headers=headers or {})

    def head(self) -> bytes:
        """Returns the status line and the headers. A body of parts ends with the connection."""
        headers = {**_HEADERS, "Date": email.utils.formatdate(usegmt=True), "Content-Type": self.type, **self.headers}
        if isinstance(self.content, bytes):
            headers["Content-Length"] = str(len(self.content))
        lines = [f"HTTP/1.1 {self.status} {http.HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


@dataclass(frozen=True)
class Page:
    """What is served at a path.

    Attributes:
        answer: Returns the answer to a GET or HEAD request. It is called in the event loop of the server.
        public: Whether strangers get it.
    """

    answer: Callable[[Request], Awaitable[Answer]]
    public: bool = False
