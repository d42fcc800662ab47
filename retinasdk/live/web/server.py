"""`Server`: a small HTTP server for the preview and the metrics, which strangers cannot exhaust.

Limits, and why the server closes the connection after each answer
------------------------------------------------------------------
Everything that a client costs before it is authenticated is bounded: the number of connections, the bytes and the count
of headers, the time until the request has arrived, and the time until the answer has been taken.

A connection belongs to a *stranger* until its request passed the gate. If there are too many strangers, the network
address that has most of them loses its oldest one. So a machine that opens thousands of connections closes its own, and
the request of somebody else, which arrives within milliseconds of the connection, is read. Connections that passed the
gate are never closed for a stranger; they have a limit of their own.

One request per connection keeps this simple: there are no idle connections to keep, no second request to tell from the
body of the first (request smuggling), and GET and HEAD have no body. A page costs two or three connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import http
import ipaddress
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from retinasdk.live.clock import Clock
from retinasdk.live.limited_log import LimitedLog
from retinasdk.live.web.address import Address, Gate
from retinasdk.live.web.request import MAX_LINE, BadRequestError, Request, read_request

_LOGGER = logging.getLogger("retinasdk.live")
_MAX_STRANGERS = 128
_REQUEST_S = 10.0  # The whole request has to arrive within this time, however slowly it comes.
_SEND_S = 20.0  # A client that does not take an answer, or a part of a stream, for this long is disconnected.
_LINGER_S = 2.0  # What the client still sends after the answer is read and ignored for this long.
_STOP_S = 1.0  # Clients get this long to take what was written before the server stops.
_SEND_BUFFER = 256 * 1024  # Of the kernel, in bytes. A slow viewer sees frames that are this much old.
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


class _Connection:
    """A connection to a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.network = _network(writer.get_extra_info("peername"))

    def abort(self) -> None:
        """Closes it at once. What was not sent yet is discarded."""
        self.writer.transport.abort()


class Server:
    """Serves pages to HTTP clients, in a thread of its own.

    Args:
        name: What it is called in the log and in the names of threads.
        address: "HOST:PORT", "[IPv6]:PORT", or "PORT", which is on 127.0.0.1.
        token: The access token, see `Gate`.
        pages: What is served, by path.
        max_clients: How many connections may be open at the same time whose requests passed the gate.

    Attributes:
        address: Where it listens.
        port: The TCP port.
        token: The access token, or None if none is needed.

    Raises:
        OSError: If the address is not available.
        ValueError: If an argument is not valid.
    """

    def __init__(
        self, name: str, address: str, token: str | None, pages: Mapping[str, Page], *, max_clients: int
    ) -> None:
        self._name, self._pages, self._max_clients = name, pages, max_clients
        self.address = Address.parse(address)
        self._gate = Gate(self.address, token)
        self.token = self._gate.token
        self._strangers: dict[str, dict[_Connection, None]] = {}  # by network, the oldest first
        self._clients: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # The event loop itself keeps no task alive.
        self._log = LimitedLog(_LOGGER, Clock())
        listener = self.address.bind()
        self.port = int(listener.getsockname()[1])
        # Inherited by the connections. A dead client, whose machine lost its power, acknowledges nothing.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * _SEND_S))
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(listener,), name=f"retinasdk {name}", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function in the event loop of the server. Returns at once, and may be called from any thread."""
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody would notice the call.
            self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """Closes all connections and frees the port. It may be called from any thread, and twice.

        Clients get a second to take the end of their answers.
        """
        self.call(self._stop.set)
        self._thread.join(5 * _STOP_S)

    # -- in the server's thread --------------------------------------------------------------------------------------

    def _run(self, listener: socket.socket) -> None:
        self._loop.set_exception_handler(self._tell)
        try:
            self._loop.run_until_complete(self._serve(listener))
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()
            self._log.close()

    def _tell(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs in one line what the event loop reports, for example that the process is out of file descriptors."""
        self._log.log(logging.WARNING, "loop", f"{self._name}: {context.get('exception') or context['message']}")

    async def _serve(self, listener: socket.socket) -> None:
        server = await asyncio.start_server(self._accept, sock=listener, limit=MAX_LINE, backlog=64)
        await self._stop.wait()
        server.close()
        for connection in [item for group in self._strangers.values() for item in group]:
            connection.abort()
        await _wait_for_others(_STOP_S)
        for connection in self._clients:
            connection.abort()
        await _wait_for_others(_STOP_S)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if sum(map(len, self._strangers.values())) >= _MAX_STRANGERS:
            crowd = max(self._strangers.values(), key=len)
            oldest = next(iter(crowd))
            self._forget(oldest)
            oldest.abort()
        connection = _Connection(reader, writer)
        if self._stop.is_set():  # It was accepted in the last moment.
            connection.abort()
            return
        self._strangers.setdefault(connection.network, {})[connection] = None
        self._tasks.add(task := self._loop.create_task(self._answer(connection)))
        task.add_done_callback(self._tasks.discard)

    def _forget(self, connection: _Connection) -> None:
        self._clients.discard(connection)
        group = self._strangers.get(connection.network, {})
        group.pop(connection, None)
        if not group:
            self._strangers.pop(connection.network, None)

    async def _answer(self, connection: _Connection) -> None:
        writer = connection.writer
        try:
            writer.transport.set_write_buffer_limits(high=0)  # `drain` waits until the kernel has everything.
            answer, head_only = await self._choose(connection)
            await _send(connection, answer, head_only)
            await _finish(connection)
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # The client has gone, or takes nothing.
        except Exception as error:
            self._log.log(logging.ERROR, "answer", f"{self._name}: {type(error).__name__}: {error}")
        finally:
            self._forget(connection)
            connection.abort()

    async def _choose(self, connection: _Connection) -> tuple[Answer, bool]:
        """Reads the request. Returns the answer, and whether only its head is sent."""
        try:
            request = await asyncio.wait_for(read_request(connection.reader), _REQUEST_S)
        except BadRequestError as error:
            return Answer.error(error.status, str(error)), False
        except asyncio.TimeoutError:
            return Answer.error(408, f"the request did not arrive within {_REQUEST_S:g} s"), False
        return await self._answer_to(request, connection), request.method == "HEAD"

    async def _answer_to(self, request: Request, connection: _Connection) -> Answer:
        page = self._pages.get(request.path)
        if page is None:
            return Answer.error(404, f"there is nothing here; there is {', '.join(self._pages)}")
        if request.method not in ("GET", "HEAD"):
            return Answer.error(405, "only GET and HEAD are supported", {"Allow": "GET, HEAD"})
        if not page.public:
            refusal = self._gate.refusal(request)
            if refusal is not None:
                status, reason = refusal
                return Answer.error(status, reason, {"WWW-Authenticate": "Bearer"} if status == 401 else {})
            if len(self._clients) >= self._max_clients:
                return Answer.error(503, f"the limit of {self._max_clients} connections is reached")
            self._forget(connection)
            self._clients.add(connection)
        return await page.answer(request)


async def _wait_for_others(seconds: float) -> None:
    """Waits until all other tasks of the event loop have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=seconds)


async def _send(connection: _Connection, answer: Answer, head_only: bool) -> None:
    writer, content = connection.writer, answer.content
    writer.write(answer.head())
    if isinstance(content, bytes):
        writer.write(b"" if head_only else content)
        await asyncio.wait_for(writer.drain(), _SEND_S)
        return
    async with contextlib.aclosing(content):
        if head_only:
            return
        # Whichever ends first ends the other: the stream, or the client.
        sending = asyncio.ensure_future(_send_parts(writer, content))
        leaving = asyncio.ensure_future(_ignore(connection.reader))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]


async def _send_parts(writer: asyncio.StreamWriter, parts: Parts) -> None:
    async for part in parts:
        writer.write(part)
        await asyncio.wait_for(writer.drain(), _SEND_S)


async def _ignore(reader: asyncio.StreamReader) -> None:
    """Reads until the client closes the connection."""
    while await reader.read(65536):
        pass


async def _finish(connection: _Connection) -> None:
    """Ends the answer, and waits until the client has closed the connection too, for a short time.

    If a socket is closed while data from the client is unread, the kernel discards the answer.
    """
    connection.writer.write_eof()
    await asyncio.wait_for(_ignore(connection.reader), _LINGER_S)


def _network(peer: tuple[Any, ...] | None) -> str:
    """Returns what is taken for one machine: an IPv4 address, or an IPv6 network of 64 bits."""
    if not peer:
        return ""  # It has gone already.
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
