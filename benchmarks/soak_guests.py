"""Those who come to the preview and the metrics of a soak: viewers, strangers, and who collects the metrics."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

_PATIENCE_S = 30.0


class Guests:
    """Threads that connect to `preview` and `metrics`, two URLs, and leave, until a moment; what they got is counted.

    Attributes:
        seen: "viewers" that came, those who got "pictures", "strangers", "scrapes", and "failures" of any of them.
    """

    def __init__(self, preview: str, metrics: str, until: float) -> None:
        self.seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._until = until
        self._preview, self._metrics = (urlsplit(url).netloc for url in (preview, metrics))
        visits = (self._view, self._view, self._half_send, self._half_send, self._scrape)
        self._threads = [threading.Thread(target=self._come_again, args=(visit,)) for visit in visits]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Waits until all have left."""
        for thread in self._threads:
            thread.join()

    def _count(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def _come_again(self, visit: Callable[[], None]) -> None:
        while time.monotonic() < self._until:
            try:
                visit()
            except (OSError, http.client.HTTPException, ValueError):
                self._count("failures")
            self._stay(random.uniform(0.2, 2.0))

    def _stay(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self._until - time.monotonic())))

    def _view(self) -> None:
        """Reads some pictures, then leaves in the middle, as a closed browser does."""
        self._count("viewers")
        connection = http.client.HTTPConnection(self._preview, timeout=_PATIENCE_S)
        try:
            connection.request("GET", "/stream")
            answer = connection.getresponse()
            got_picture = False
            leaves = min(self._until, time.monotonic() + random.uniform(1, 10))
            while not got_picture or time.monotonic() < leaves:
                text, picture = (int.from_bytes(answer.read(4), "big") for _ in range(2))
                if len(answer.read(text + picture)) != text + picture or text == 0:
                    raise ValueError("the preview ended a message early")
                got_picture = got_picture or picture > 0
            self._count("pictures")
        finally:
            connection.close()

    def _half_send(self) -> None:
        """Begins a request, sends no more, and stays. It makes no difference whether the server hangs up meanwhile."""
        self._count("strangers")
        host, _, port = random.choice((self._preview, self._metrics)).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=_PATIENCE_S) as connection:
            connection.sendall(b"GET /stream HTTP/1.1\r\nHost: "[: random.randint(0, 28)])
            self._stay(random.uniform(0.5, 10))

    def _scrape(self) -> None:
        connection = http.client.HTTPConnection(self._metrics, timeout=_PATIENCE_S)
        try:
            connection.request("GET", "/metrics")
            if b"retinasdk_stream_frames_total" not in connection.getresponse().read():
                raise ValueError("the metrics are incomplete")
            self._count("scrapes")
        finally:
            connection.close()
