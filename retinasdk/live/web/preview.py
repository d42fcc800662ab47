"""`Preview`: shows the newest frame of each source to web browsers, without slowing down the stream."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.resources
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType

from retinasdk.live.frame import Frame
from retinasdk.live.web.address import DEFAULT
from retinasdk.live.web.answer import Answer, Page
from retinasdk.live.web.feed import Feed, packed
from retinasdk.live.web.request import Request
from retinasdk.live.web.server import Server

_IDLE_S = 5.0  # Without new frames, viewers get a sign of life this often, so that they notice a dead connection.


class Preview:
    """A small web server that shows a stream in browsers, with boxes and statistics.

    It runs in a thread of its own. `show` returns at once, so viewers never slow down the stream. It serves the page at
    `/`, the newest frames at `/stream` and the newest detections at `/detections.json` (the latter two take
    `?source=NAME` if there are several sources), and nothing else of this machine. The connection is not encrypted: use
    a proxy with TLS in untrusted networks. Connections, headers and time are limited, so that strangers cannot keep
    viewers out.

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
        url: The address to open in a browser, including the token. If `address` stands for all of this machine, such as
            0.0.0.0, it is the machine's address in its network.
        urls: All addresses that can be opened: `url`, and for 0.0.0.0 also the one for browsers on this machine.

    Raises:
        OSError: If the address is not available.
        ValueError: If an argument is out of range.
    """

    def __init__(self, address: str = DEFAULT, *, token: str | None = None, max_viewers: int = 16) -> None:
        if not isinstance(max_viewers, int) or max_viewers < 1:
            raise ValueError(f"max_viewers must be an integer of at least 1, got {max_viewers!r}")
        self._max_viewers = max_viewers
        self._feed = Feed()
        self._page = _page()
        pages = {
            "/": Page(self._get_page, public=True),
            "/stream": Page(self._get_stream),
            "/detections.json": Page(self._get_detections),
        }
        self._server = Server("web preview", address, token, pages, max_clients=max_viewers + 16)
        self.urls = self._server.address.urls(self._server.port, self._server.token)
        self.url = self.urls[0]

    def show(self, frame: Frame) -> None:
        """Makes a frame the newest of its source. Returns at once and may be called from any thread.

        Args:
            frame: The frame. Its image must not be changed afterwards.
        """
        self._server.call(self._feed.take, frame, time.monotonic())

    @property
    def viewers(self) -> int:
        """How many viewers are connected now."""
        return len(self._feed.viewers)

    def close(self) -> None:
        """Tells the viewers that the stream has ended, and frees the port.

        It may be called from any thread, and twice.
        """
        self._server.call(self._feed.end)
        self._server.close()

    def __enter__(self) -> Preview:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- in the server's thread --------------------------------------------------------------------------------------

    async def _get_page(self, _: Request) -> Answer:
        return self._page

    async def _get_detections(self, request: Request) -> Answer:
        newest = self._feed.newest(request.query.get("source"))
        if newest is None:
            return Answer.error(404, "there is no frame yet, or no source of that name")
        return Answer(json.dumps(newest.frame.to_dict()).encode())

    async def _get_stream(self, request: Request) -> Answer:
        if self.viewers >= self._max_viewers:
            return Answer.error(503, f"the limit of {self._max_viewers} viewers is reached")
        # The header asks nginx to pass on each part at once.
        viewer = _Viewer(self._feed, request.query.get("source"))
        return Answer(viewer, "application/octet-stream", headers={"X-Accel-Buffering": "no"})


class _Viewer:
    """The messages for one viewer: always the newest frame, as fast as this viewer accepts them."""

    def __init__(self, feed: Feed, source: str | None) -> None:
        self._feed = feed
        self._source = source
        self._news = asyncio.Event()
        self._messages = self._follow()
        feed.viewers.add(self._news)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._messages

    async def aclose(self) -> None:
        """Leaves the feed."""
        self._feed.viewers.discard(self._news)
        await self._messages.aclose()

    async def _follow(self) -> AsyncGenerator[bytes, None]:
        shown = None
        while True:
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


def _page() -> Answer:
    """Returns the page. Its policy names its style and its script by their hashes: no others can run."""
    text = importlib.resources.files(__package__).joinpath("page.html").read_bytes()
    hashes = {}
    for tag in (b"style", b"script"):
        part = text.partition(b"<%s>" % tag)[2].partition(b"</%s>" % tag)[0]
        hashes[tag] = base64.b64encode(hashlib.sha256(part).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes[b'script']}'; style-src 'sha256-{hashes[b'style']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Answer(text, "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})
