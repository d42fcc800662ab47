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
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from retinasdk.live.clock import Clock
from retinasdk.live.limited_log import LimitedLog
from retinasdk.live.web.address import Address, Gate
from retinasdk.live.web.answer import Answer, Page, Parts
from retinasdk.live.web.request import MAX_LINE, BadRequestError, Request, read_request

_LOGGER = logging.getLogger("retinasdk.live")
_MAX_STRANGERS = 128
_REQUEST_S = 10.0  # The whole request has to arrive within this time, however slowly it comes.
_SEND_S = 20.0  # A client that does not take an answer, or a part of a stream, for this long is disconnected.
_LINGER_S = 2.0  # What the client still sends after the answer is read and ignored for this long.
_PAUSE_S = 0.2  # If a connection cannot be accepted, most often because the process is out of file descriptors.
_STOP_S = 1.0  # Clients get this long to take what was written before the server stops.
_SEND_BUFFER = 256 * 1024  # Of the kernel, in bytes. A slow viewer sees frames that are this much old.


class _Connection:
    """A connection to a client, whose streams are there once it is open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __init__(self, accepted: socket.socket, peer: tuple[Any, ...]) -> None:
        self._socket = accepted
        self.network = _network(peer)
        self._is_open = self._is_aborted = False

    async def open(self) -> None:
        try:
            self.reader, self.writer = await asyncio.open_connection(sock=self._socket, limit=MAX_LINE)
        except OSError:
            self._socket.close()
            raise
        self._is_open = True
        self.writer.transport.set_write_buffer_limits(high=0)  # `drain` waits until the kernel has everything.
        if self._is_aborted:
            raise ConnectionAbortedError

    def abort(self) -> None:
        """Closes it at once. What was not sent yet is discarded."""
        self._is_aborted = True
        if self._is_open:
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
        self._loop = asyncio.SelectorEventLoop()  # Also on Windows, whose default has no `add_reader`.
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
        """Logs in one line what the event loop would print with a traceback."""
        error = context.get("exception")
        self._log.log(logging.ERROR, "loop", f"{self._name}: {context['message']}: {error!r}")

    async def _serve(self, listener: socket.socket) -> None:
        with listener:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)
            await self._stop.wait()
            self._loop.remove_reader(listener)
        for connection in [item for group in self._strangers.values() for item in group]:
            connection.abort()
        await _wait_for_others(_STOP_S)
        for connection in self._clients:
            connection.abort()
        await _wait_for_others(_STOP_S)

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, peer = listener.accept()
        except BlockingIOError:  # The client has gone already.
            return
        except OSError as error:
            self._log.log(logging.WARNING, "accept", f"{self._name}: a connection was not accepted: {error}")
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE_S, self._resume, listener)
            return
        accepted.setblocking(False)
        if sum(map(len, self._strangers.values())) >= _MAX_STRANGERS:
            crowd = max(self._strangers.values(), key=len)
            oldest = next(iter(crowd))
            self._forget(oldest)
            oldest.abort()
        connection = _Connection(accepted, peer)
        self._strangers.setdefault(connection.network, {})[connection] = None
        self._tasks.add(task := self._loop.create_task(self._answer(connection)))
        task.add_done_callback(self._tasks.discard)

    def _resume(self, listener: socket.socket) -> None:
        if not self._stop.is_set():
            self._loop.add_reader(listener, self._accept, listener)

    def _forget(self, connection: _Connection) -> None:
        self._clients.discard(connection)
        group = self._strangers.get(connection.network, {})
        group.pop(connection, None)
        if not group:
            self._strangers.pop(connection.network, None)

    async def _answer(self, connection: _Connection) -> None:
        try:
            await connection.open()
            answer, head_only = await self._choose(connection)
            await _send(connection, answer, head_only)
            await _finish(connection)
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # The client has gone, or takes nothing.
        except Exception as error:
            self._log.log(logging.ERROR, "answer", f"{self._name}: {error!r}")
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


def _network(peer: tuple[Any, ...]) -> str:
    """Returns what is taken for one machine: an IPv4 address, or an IPv6 network of 64 bits."""
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
