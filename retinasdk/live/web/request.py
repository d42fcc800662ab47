"""`Request`: what a client asks for. Parses the head of HTTP/1.0 and HTTP/1.1 requests, strictly."""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

MAX_LINE = 8192  # bytes, with the end of the line
MAX_HEAD = 16384  # bytes of the request line and all headers
MAX_HEADERS = 64

_METHOD = rb"[A-Z]{1,16}"
_REQUEST_LINE = re.compile(rb"(%s) (/[!-~]*) HTTP/(\d\.\d)\r\n" % _METHOD)
# What a header line may contain, RFC 9110 section 5.5. A line that continues the one before has no name and is refused.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?::\d{1,5})?")
_ONLY_ONCE = ("host", "authorization")


class BadRequestError(Exception):
    """A request that is not answered with what it asks for.

    Attributes:
        status: The HTTP status of the answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Request:
    """The head of a request.

    Attributes:
        method: The method, such as "GET".
        path: The path, as it was sent.
        query: The first value of each name in the query.
        headers: The headers by lower-case name. Of a name that was sent twice, the last one.
        host: The host name or IP address of the header "Host", without the port. "" if there is none.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    host: str


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Reads the head of a request, and nothing behind it.

    It stops at the first byte that cannot be part of a request, so a client that speaks another protocol, such as TLS,
    is not waited for. The caller limits the time, and the reader the length of a line.

    Args:
        reader: The connection. Its limit should be `MAX_LINE`.

    Returns:
        The request.

    Raises:
        BadRequestError: If it is no valid request, or too large.
        EOFError: If the client closed the connection before.
    """
    first = await reader.readexactly(1)
    if not re.fullmatch(rb"[A-Z]", first):
        raise BadRequestError(400, "this is no HTTP request")
    line = first + await _read_line(reader, 414, "the address is too long")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise BadRequestError(400, "the request line is not valid")
    if not found[3].startswith(b"1."):
        raise BadRequestError(505, "this server speaks HTTP/1.1")
    path, _, query = found[2].decode("ascii").partition("?")
    headers: dict[str, str] = {}
    size, count = len(line), 0
    while (line := await _read_line(reader, 431, "a header is too long")) != b"\r\n":
        size, count = size + len(line), count + 1
        if size > MAX_HEAD or count > MAX_HEADERS:
            raise BadRequestError(431, "there are too many headers")
        field = _HEADER.fullmatch(line)
        if field is None:
            raise BadRequestError(400, "a header is not valid")
        name = field[1].decode("ascii").lower()
        if name in headers and name in _ONLY_ONCE:
            raise BadRequestError(400, f"the header {name} was sent twice")
        headers[name] = field[2].decode("latin-1").rstrip(" \t")
    host = _HOST.fullmatch(headers.get("host", ""))
    if host is None or (found[3] == b"1.1" and "host" not in headers):
        raise BadRequestError(400, "the header host is not valid")
    return Request(found[1].decode("ascii"), path, _parse_query(query), headers, host[1].strip("[]").lower())


async def _read_line(reader: asyncio.StreamReader, status: int, complaint: str) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise BadRequestError(status, complaint) from error


def _parse_query(text: str) -> dict[str, str]:
    pairs = urllib.parse.parse_qsl(text, keep_blank_values=True)
    return dict(reversed(pairs))
