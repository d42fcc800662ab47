"""Streams for Prometheus, by prometheus_client: read when it asks, so that streams do nothing for it."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterable
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.live.streaming import Stream

_PURPOSE = "metrics for Prometheus"

_lock = threading.Lock()
_collectors: weakref.WeakKeyDictionary[Any, _Collector] = weakref.WeakKeyDictionary()  # by registry
_numbers = itertools.count(1)


def register(stream: Stream, *, name: str | None = None, registry: Any = None) -> None:
    """Shows a stream to a `prometheus_client` registry, until the stream is closed or nobody holds it any more.

    name: the label "stream" of its numbers, one for each stream of a registry; None: "stream-1" and so on.
    registry: None: `prometheus_client.REGISTRY`.

    retinasdk_stream_stage_seconds (histogram; stream, stage): the stages of `Metrics`.
    retinasdk_stream_frames_total (counter; stream, source, outcome): captured, processed, dropped, failed.

    `retinasdk live --metrics` does this, and serves it. Needs the extra [prometheus]. Raises `ValueError` for a name
    that a stream of the registry has.
    """
    client = require("prometheus_client", _PURPOSE)
    registry = client.REGISTRY if registry is None else registry
    with _lock:
        collector = _collectors.get(registry)
        if collector is None:
            collector = _collectors[registry] = _Collector()
            registry.register(collector)
        collector.add(f"stream-{next(_numbers)}" if name is None else name, stream)


class _Collector:
    """All streams of one registry: a metric may be there only once."""

    def __init__(self) -> None:
        self._streams: dict[str, weakref.ref[Stream]] = {}

    def add(self, name: str, stream: Stream) -> None:
        if name in self._open():
            raise ValueError(f"wanted a name that no other stream has, got {name!r} again; leave it out for a new one")
        self._streams[name] = weakref.ref(stream)

    def _open(self) -> dict[str, Stream]:
        """Those that still run; the others are forgotten."""
        streams = {name: stream for name, known in list(self._streams.items()) if (stream := known()) is not None}
        streams = {name: stream for name, stream in streams.items() if not stream.closed}
        self._streams = {name: known for name, known in self._streams.items() if name in streams}
        return streams

    def describe(self) -> Iterable[Any]:
        """Asked at registration: nothing has to be collected then."""
        return []

    def collect(self) -> Iterable[Any]:
        core = require("prometheus_client.core", _PURPOSE)
        stages = core.HistogramMetricFamily(
            "retinasdk_stream_stage_seconds", "How long each stage of a stream takes", labels=["stream", "stage"]
        )
        frames = core.CounterMetricFamily(
            "retinasdk_stream_frames", "Frames of each source", labels=["stream", "source", "outcome"]
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
        return [stages, frames]
