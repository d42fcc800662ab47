"""Helpers of tests with real streams: images, a detector that finds nothing, and a check for leftover threads."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from live_world import LABELS, numbered

from retinasdk import Detections
from retinasdk.live import Frame, Stream, stream


def find_nothing(images: Any) -> Any:
    return [find_nothing(image) for image in images] if isinstance(images, list) else Detections.empty(LABELS)


def pictures(count: int | None = None) -> Iterator[Any]:
    for index in itertools.count() if count is None else range(count):
        yield numbered(index)


def drain(frames: Stream, into: list[Frame] | None = None) -> None:
    for frame in frames:
        (into if into is not None else []).append(frame)


def live_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("retinasdk live")]


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Checks that no thread of a stream is left after the test."""
    yield
    gc.collect()
    assert live_threads() == []


def count_frames(pipe: Any) -> None:
    """Streams five images and sends the number of frames. It is here so that a spawned process can import it."""
    with stream(pictures(5), find_nothing, policy="all") as frames:
        pipe.send(len(list(frames)))
