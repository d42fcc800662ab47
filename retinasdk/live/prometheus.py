"""Metrics of streams for Prometheus, with prometheus_client. They are collected only when Prometheus asks."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.live.streaming import Stream
from retinasdk.live.web.answer import Answer, Page
from retinasdk.live.web.request import Request
from retinasdk.live.web.server import Server

_PURPOSE = "metrics for Prometheus"
_MAX_CLIENTS = 16

_lock = threading.Lock()
_collectors: weakref.WeakKeyDictionary[Any, _Collector] = weakref.WeakKeyDictionary()  # by registry
_numbers = itertools.count(1)


def register(stream: Stream, *, name: str | None = None, registry: Any = None) -> None:
    """Adds the metrics of a stream to a `prometheus_client` registry, until the stream is closed or garbage collected.

    `retinasdk live --metrics HOST:PORT` does this, and serves the registry with `MetricsServer`. The metrics are:

    - `retinasdk_stream_stage_seconds`, a histogram with the labels "stream" and "stage": the stages of `Metrics`.
    - `retinasdk_stream_frames_total`, a counter with the labels "stream", "source" and "outcome": captured, processed,
      dropped and failed frames, as in `Counters`.
    - `retinasdk_stream_busy_seconds_total`, a counter with the labels "stream" and "stage": for how long each stage of
      `Load` was busy. Its rate is the share of the time, 0 to 1. The stage with the highest one limits the rate.
    - `retinasdk_stream_awaited_frames_total`, a counter with the labels "stream" and "reason": frames that were not
      there yet when the detector was free, because of the "source" or the "limit" `max_fps`.

    It may be called from any thread, and needs the extra `prometheus`: `pip install 'retinasdk[prometheus]'`.

    Args:
        stream: The stream.
        name: The value of the label "stream". Unique in the registry. Defaults to "stream-1", "stream-2" and so on.
        registry: The `prometheus_client.CollectorRegistry`. Defaults to `prometheus_client.REGISTRY`.

    Raises:
        MissingDependencyError: If prometheus_client is not installed.
        ValueError: If another open stream of the registry has the same name.
    """
    client = require("prometheus_client", _PURPOSE)
    registry = client.REGISTRY if registry is None else registry
    with _lock:
        collector = _collectors.get(registry)
        if collector is None:
            collector = _collectors[registry] = _Collector()
            registry.register(collector)
        collector.add(f"stream-{next(_numbers)}" if name is None else name, stream)


class MetricsServer:
    """Serves a registry to Prometheus, in a thread of its own.

    The metrics are at `/metrics`, in Prometheus' text format. As with `retinasdk.live.web.Preview`, connections,
    headers and time are limited, and addresses that are not loopback need a token. Prometheus sends it with this
    configuration: `authorization: {credentials: TOKEN}`.

    Example:
        ```python
        from prometheus_client import REGISTRY

        retinasdk.live.prometheus.register(frames)
        with MetricsServer(REGISTRY, "0.0.0.0:9090") as server:
            print(server.url, server.token)
        ```

    Args:
        registry: The `prometheus_client.CollectorRegistry`.
        address: "HOST:PORT", or only a port, which is on 127.0.0.1. Port 0 is any free port.
        token: The access token, 16 to 256 letters, digits, - or _. By default no token is needed on a loopback address,
            and a new random one is generated for other addresses.

    Attributes:
        url: The address of the metrics, without the token.
        token: The access token, or None if none is needed.

    Raises:
        MissingDependencyError: If prometheus_client is not installed.
        OSError: If the address is not available.
        ValueError: If an argument is not valid.
    """

    def __init__(self, registry: Any, address: str, *, token: str | None = None) -> None:
        self._client = require("prometheus_client", _PURPOSE)
        self._registry = registry
        pages = {"/metrics": Page(self._get_metrics)}
        self._server = Server("metrics", address, token, pages, max_clients=_MAX_CLIENTS)
        self.url = self._server.address.urls(self._server.port, None)[0] + "metrics"
        self.token = self._server.token

    async def _get_metrics(self, _: Request) -> Answer:
        text = await asyncio.to_thread(self._client.generate_latest, self._registry)
        return Answer(text, self._client.CONTENT_TYPE_LATEST)

    def close(self) -> None:
        """Closes the connections and frees the port. It may be called from any thread, and twice."""
        self._server.close()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Collector:
    """All streams of one registry, together: a registry accepts each metric only once."""

    def __init__(self) -> None:
        self._streams: dict[str, weakref.ref[Stream]] = {}

    def add(self, name: str, stream: Stream) -> None:
        if name in self._open():
            raise ValueError(f"another stream of this registry is named {name!r}; choose another name or omit it")
        self._streams[name] = weakref.ref(stream)

    def _open(self) -> dict[str, Stream]:
        """Returns the streams that are still open, and forgets the others."""
        streams = {name: stream for name, known in list(self._streams.items()) if (stream := known()) is not None}
        streams = {name: stream for name, stream in streams.items() if not stream.closed}
        self._streams = {name: known for name, known in self._streams.items() if name in streams}
        return streams

    def describe(self) -> Iterable[Any]:
        """Returns nothing, so that registration does not collect."""
        return []

    def collect(self) -> Iterable[Any]:
        """Returns the metrics of all open streams. The registry calls it, in any thread."""
        core = require("prometheus_client.core", _PURPOSE)
        stages = core.HistogramMetricFamily(
            "retinasdk_stream_stage_seconds", "Duration of each stage of a stream", labels=["stream", "stage"]
        )
        frames = core.CounterMetricFamily(
            "retinasdk_stream_frames", "Frames of each source, by outcome", labels=["stream", "source", "outcome"]
        )
        busy = core.CounterMetricFamily(
            "retinasdk_stream_busy_seconds", "Time for which each stage was busy", labels=["stream", "stage"]
        )
        awaited = core.CounterMetricFamily(
            "retinasdk_stream_awaited_frames", "Frames that the detector waited for", labels=["stream", "reason"]
        )
        with _lock:
            streams = self._open()
        for name, stream in streams.items():
            for stage in stream.metrics.STAGES:
                buckets, total = getattr(stream.metrics, stage).cumulative()
                edges = [("+Inf" if edge == float("inf") else repr(edge), count) for edge, count in buckets]
                stages.add_metric([name, stage], edges, total)
            for source, counters in stream.counters.items():
                for outcome in ("captured", "processed", "dropped", "failed"):
                    frames.add_metric([name, source, outcome], getattr(counters, outcome))
            load = stream.metrics.load
            for stage in load.STAGES:
                busy.add_metric([name, stage], load.busy_s(stage))
            for reason in ("source", "limit"):
                awaited.add_metric([name, reason], load.awaited(reason))
        return [stages, frames, busy, awaited]
