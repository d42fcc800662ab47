"""`Preview`: shows the newest frame of each source to web browsers, without slowing down the stream."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.live.frame import Frame
from retinasdk.live.web.address import DEFAULT, Address, Gate
from retinasdk.live.web.feed import Feed, packed

_LOGGER = logging.getLogger("retinasdk.live")
_PURPOSE = "the preview in the browser"
_SEND_S = 20.0  # A viewer that accepts no data for this long is disconnected.
_IDLE_S = 5.0  # Without new frames, viewers get a sign of life this often, so that they notice a dead connection.
_STOP_S = 5.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Preview:
    """A small web server that shows a stream in browsers, with boxes and statistics.

    It runs in a thread of its own. `show` returns at once, so viewers never slow down the stream. It serves the page at
    `/`, the newest frames at `/stream` and the newest detections at `/detections.json` (the latter two take
    `?source=NAME` if there are several sources), and nothing else of this machine. The connection is not encrypted: use
    a proxy with TLS in untrusted networks. It needs the extra `web`: `pip install 'retinasdk[web]'`.

    Example:
        ```python
        with retinasdk.live.web.Preview() as preview, retinasdk.stream(0, detector) as frames:
            print(preview.url)
            for frame in frames:
                preview.show(frame)
        ```

    Args:
        address: "HOST:PORT", or only a port, which is on 127.0.0.1. Port 0 is any free port. Default: 127.0.0.1:8080.
        token: The access token, 16 to 256 letters, digits, - or _. By default no token is needed on a loopback address,
            and a new random one is generated for other addresses. It is part of `url`. Programs send it in the header
            "Authorization: Bearer TOKEN". Pass a fixed token if open pages are to reconnect after a restart.
        max_viewers: How many viewers may watch at the same time. Further ones are refused with a message. Default: 16.

    Attributes:
        url: The address to open in a browser, including the token.

    Raises:
        MissingDependencyError: If a package is missing.
        OSError: If the address is not available.
        ValueError: If an argument is out of range.
    """

    def __init__(self, address: str = DEFAULT, *, token: str | None = None, max_viewers: int = 16) -> None:
        if not isinstance(max_viewers, int) or max_viewers < 1:
            raise ValueError(f"max_viewers must be an integer of at least 1, got {max_viewers!r}")
        uvicorn = require("uvicorn", _PURPOSE)
        self._responses = require("starlette.responses", _PURPOSE)
        place = Address.parse(address)
        self._gate = Gate(place, token)
        self._max_viewers = max_viewers
        self._feed = Feed()
        self._server: Any = uvicorn.Server(
            uvicorn.Config(
                self._application(),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=2 * max_viewers + 32,
                h11_max_incomplete_event_size=16384,
                timeout_graceful_shutdown=2,
            )
        )
        listener = place.bind()
        self.url = place.url(listener.getsockname()[1], self._gate.token)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="retinasdk live web", daemon=True)
        self._thread.start()

    def show(self, frame: Frame) -> None:
        """Makes a frame the newest of its source. Returns at once and may be called from any thread.

        Args:
            frame: The frame. Its image must not be changed afterwards.
        """
        self._in_loop(self._feed.take, frame, time.monotonic())

    @property
    def viewers(self) -> int:
        """How many viewers are connected now."""
        return len(self._feed.viewers)

    def close(self) -> None:
        """Tells the viewers that the stream has ended, and frees the port.

        It may be called from any thread, and twice.
        """
        self._in_loop(self._end)
        self._thread.join(_STOP_S)
        self._server.force_exit = True
        self._thread.join()

    def __enter__(self) -> Preview:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed, so there are no viewers.
            self._loop.call_soon_threadsafe(call, *arguments)

    # -- in the server's thread --------------------------------------------------------------------------------------

    def _serve(self, listener: Any) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._server.serve(sockets=[listener]))
        except Exception:
            _LOGGER.exception("the web preview failed; the stream continues without it")
        finally:
            listener.close()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _end(self) -> None:
        self._feed.end()
        self._server.should_exit = True

    def _application(self) -> Any:
        routing = require("starlette.routing", _PURPOSE)
        paths = {"/": self._page, "/stream": self._stream, "/detections.json": self._detections}
        routes = [routing.Route(path, endpoint, methods=["GET"]) for path, endpoint in paths.items()]
        return require("starlette.applications", _PURPOSE).Starlette(routes=routes)

    async def _page(self, request: Any) -> Any:
        page = importlib.resources.files(__package__).joinpath("page.html").read_bytes()
        return self._responses.HTMLResponse(page, headers=_HEADERS)

    async def _detections(self, request: Any) -> Any:
        refusal = self._gate.refusal(request.headers)
        if refusal is not None:
            return self._error(*refusal)
        newest = self._feed.newest(request.query_params.get("source"))
        if newest is None:
            return self._error(404, "there is no frame yet, or no source of that name")
        return self._responses.JSONResponse(newest.frame.to_dict(), headers=_HEADERS)

    async def _stream(self, request: Any) -> Any:
        refusal = self._gate.refusal(request.headers)
        if refusal is not None:
            return self._error(*refusal)
        if self.viewers >= self._max_viewers:
            return self._error(503, f"the limit of {self._max_viewers} viewers is reached")
        if request.method == "HEAD":
            return self._responses.Response(media_type="application/octet-stream", headers=_HEADERS)
        return _Frames(self._feed, request.query_params.get("source"))

    def _error(self, status: int, text: str) -> Any:
        return self._responses.JSONResponse({"error": text}, status, headers=_HEADERS)


class _Frames:
    """The ASGI response to one viewer: always the newest frame, as fast as this viewer accepts them."""

    def __init__(self, feed: Feed, source: str | None) -> None:
        self._feed = feed
        self._source = source
        self._news = asyncio.Event()
        self._gone = False

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        watcher = asyncio.ensure_future(self._watch(receive))
        self._feed.viewers.add(self._news)
        try:
            headers = {**_HEADERS, "Content-Type": "application/octet-stream"}.items()
            raw = [(name.lower().encode(), value.encode()) for name, value in headers]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            async for message in self._messages():
                body = {"type": "http.response.body", "body": message, "more_body": True}
                await asyncio.wait_for(send(body), _SEND_S)
            await asyncio.wait_for(send({"type": "http.response.body", "body": b"", "more_body": False}), _SEND_S)
        except (asyncio.TimeoutError, OSError) as error:
            _LOGGER.info("web preview: viewer disconnected: %s", str(error) or f"it accepted no data for {_SEND_S:g} s")
        finally:
            self._feed.viewers.discard(self._news)
            watcher.cancel()

    async def _watch(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._news.set()

    async def _messages(self) -> Any:
        shown = None
        while not self._gone:
            newest = self._feed.newest(self._source)
            if newest is not None and newest is not shown:
                shown = newest
                yield await self._feed.message(newest)
            elif self._feed.ended:
                yield packed({"ended": True})
                return
            else:
                try:
                    await asyncio.wait_for(self._news.wait(), _IDLE_S)
                except asyncio.TimeoutError:
                    yield packed({"idle": True})
            self._news.clear()
