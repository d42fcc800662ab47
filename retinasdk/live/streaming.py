"""`stream`: frames of live sources with what was found in them, never older than they need be."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from retinasdk.images import as_rgb
from retinasdk.live.capture import Capture, Waiting
from retinasdk.live.clock import Clock
from retinasdk.live.errors import StreamError
from retinasdk.live.frame import Counters, Frame
from retinasdk.live.metrics import Metrics
from retinasdk.live.policies import Playback, Policy, RateCap, as_policy
from retinasdk.live.reconnect import Reconnect, StateChange
from retinasdk.live.sources import as_source
from retinasdk.pipeline.stage_timing import collect

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.detections import Detections

_LOGGER = logging.getLogger("retinasdk.live")
_CLOSE_S = 15.0  # longer than any source of this package blocks, but for a GStreamer pipeline


def stream(
    source: Any,
    detector: Callable[..., Any],
    *,
    policy: Policy | str = "latest",
    max_fps: float | None = None,
    deadline_s: float | None = None,
    speed: float = 1.0,
    reconnect: Reconnect | None = None,
    max_failures: int = 10,
    on_state: Callable[[StateChange], object] | None = None,
    clock: Clock | None = None,
) -> Stream:
    """Detects in the frames of a source as they come: `for frame in stream(source, detector)`.

    source: a video file, a folder of images, a GIF, a URL (rtsp, http, ...), a camera (0, "/dev/video0"), a GStreamer
        pipeline, a ROS 2 bag, an iterator of RGB arrays, a `Source`; or several, as a list or as {name: source}. Of
        several, the frames that are ready together go to the detector together.
    detector: a `Detector`, or anything that is called like one: with an RGB array (H, W, 3) uint8, and where there are
        several sources with a list of them. functools.partial(detector, classes=["person"]) gives options.
    policy: what happens to frames that come faster than the detector works. "latest": only the newest is kept, so the
        age of frames stays bounded. "all": none is dropped, the source waits. "bounded:N", "bounded:N:newest": see
        `bounded`. Folders are read on demand: nothing of them is dropped under any policy.
    max_fps: at most so many frames a second of each source go to the detector; which ones, the policy says.
    deadline_s: frames that are older when the detector is free for them are dropped.
    speed: of recordings (video files, GIF, bags) under policies that drop; 1: as they were taken. Under "all" they are
        read as fast as the detector works.
    reconnect: how cameras and network streams are opened again when they cannot be opened, or are lost.
    max_failures: a frame on which the detector raises carries the error; so many in a row end the stream.
    on_state: called with each `StateChange` of a source, in the source's thread.

    Capture runs in a thread for each source, detection in the thread that iterates, which must be one at a time.
    `close` may be called from any thread, and is called when the stream is left by an error, by its end, or by nobody
    holding it any more; leaving `with` does it for certain.

    Raises `StreamError` from the iteration when frames were lost for good: at the end, when the other sources have
    ended too. Raises `ImageError`, `MissingDependencyError`, `TypeError` and `ValueError` at once for what cannot work.
    """
    if not callable(detector):
        raise TypeError(f"detector must be a Detector or a function, got {type(detector).__name__}")
    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s must be above 0, got {deadline_s!r}; leave it out for none")
    if not isinstance(max_failures, int) or max_failures < 1:
        raise ValueError(f"max_failures must be an integer of at least 1, got {max_failures!r}")
    clock = clock or Clock()
    changed = clock.condition()
    metrics = Metrics()
    captures = [
        Capture(
            each,
            name,
            policy=as_policy(policy),
            cap=RateCap(max_fps),
            deadline_s=deadline_s,
            playback=Playback(speed),
            reconnect=reconnect or Reconnect(),
            on_state=on_state,
            clock=clock,
            changed=changed,
            metrics=metrics,
        )
        for name, each in _named(source)
    ]
    return Stream(
        captures,
        detector,
        several=_is_several(source),
        max_failures=max_failures,
        clock=clock,
        changed=changed,
        metrics=metrics,
    )


def _is_several(source: Any) -> bool:
    return isinstance(source, (list, tuple, Mapping))


def _named(source: Any) -> Iterator[tuple[str, Any]]:
    """(name, Source) of each, names made unique by their position."""
    if isinstance(source, Mapping):
        pairs = [(str(name), as_source(item)) for name, item in source.items()]
    else:
        pairs = [(item.name, item) for item in map(as_source, source if _is_several(source) else [source])]
    if not pairs:
        raise ValueError("stream needs at least one source, got none")
    names = [name for name, _ in pairs]
    for position, (name, item) in enumerate(pairs):
        yield (name if names.count(name) == 1 else f"{name} ({position})"), item


@dataclass(frozen=True)
class _Done:
    """A frame the detector is through with."""

    capture: Capture
    waiting: Waiting
    image: npt.NDArray[np.uint8]
    result: Detections | Exception
    taken_s: float
    done_s: float


class Stream:
    """An iterator of `Frame`, made by `stream`; also a context manager.

    metrics: how long each stage takes.

    It belongs to its process: after fork() the child's iteration raises `StreamError`, and the parent's goes on. Make
    stream and detector in the process that uses them; "spawn" is the safe way to start it.
    """

    def __init__(
        self,
        captures: list[Capture],
        detector: Callable[..., Any],
        *,
        several: bool,
        max_failures: int,
        clock: Clock,
        changed: threading.Condition,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self._captures = captures
        self._detector = detector
        self._several = several
        self._max_failures = max_failures
        self._failures = 0  # in a row
        self._clock = clock
        self._changed = changed
        self._done: deque[_Done] = deque()
        self._pid = os.getpid()
        # Holds the captures and not the stream, so that a stream that nobody holds is closed; at exit as well.
        self._finalizer = weakref.finalize(self, _close, captures, changed, clock, self._pid)
        for capture in captures:
            capture.thread.start()

    @property
    def counters(self) -> dict[str, Counters]:
        """{name of a source: its counters so far}."""
        with self._changed:
            return {capture.name: capture.counters for capture in self._captures}

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """Ends iteration, sources and threads, and waits for them. From any thread; may be called twice."""
        self._finalizer()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Frame:
        try:
            while not self._done:
                self._detect(self._take())
            if self.closed:  # while the detector worked
                raise StopIteration
            return self._hand_over(self._done.popleft())
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _take(self) -> list[tuple[Capture, Waiting]]:
        """At most one frame of each source, those that are there; waits for the first. Raises `StopIteration`."""
        if os.getpid() != self._pid:
            raise StreamError(
                "this stream belongs to another process: threads do not survive fork(); make the stream, and the "
                "detector, in the process that uses them"
            )
        with self._changed:
            while not self.closed:
                now = self._clock.now()
                batch = [(each, waiting) for each in self._captures if (waiting := each.take(now)) is not None]
                if batch:
                    return batch
                if all(each.exhausted for each in self._captures):
                    self._raise_losses()
                    raise StopIteration
                waits = [wait for each in self._captures if (wait := each.wait_s(now)) is not None]
                self._changed.wait(min(waits, default=None))
        raise StopIteration

    def _raise_losses(self) -> None:
        errors = [each.error for each in self._captures if each.error is not None]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise StreamError("; ".join(map(str, errors))) from errors[0]

    def _detect(self, batch: list[tuple[Capture, Waiting]]) -> None:
        taken_s = self._clock.now()
        members, images = [], []
        for capture, waiting in batch:
            try:
                images.append(as_rgb(waiting.shot.rgb()))
                members.append((capture, waiting))
            except Exception as error:
                capture.warn("rgb", f"frame {waiting.index} cannot be converted to RGB: {error}")
                with self._changed:
                    capture.count(failed=1)
        if not images:
            return
        with collect() as stages:
            results = self._call(images)
        done_s = self._clock.now()
        self.metrics.detect.add(done_s - taken_s)
        for name, seconds in stages.items():
            getattr(self.metrics, name).add(seconds)
        for (capture, waiting), image, result in zip(members, images, results, strict=True):
            self._done.append(_Done(capture, waiting, image, result, taken_s, done_s))

    def _call(self, images: list[npt.NDArray[np.uint8]]) -> list[Any]:
        """What the detector gives for each image, or raised."""
        if len(images) > 1:
            try:
                results = list(self._detector(images))
            except Exception as error:
                _LOGGER.debug("a batch of %d failed (%s): each frame alone", len(images), error)
            else:
                if len(results) != len(images):
                    raise ValueError(
                        f"detector must give a result for each of {len(images)} images, got {len(results)}"
                    )
                return results
        return [self._call_one(image) for image in images]

    def _call_one(self, image: npt.NDArray[np.uint8]) -> Any:
        try:
            return self._detector([image])[0] if self._several else self._detector(image)
        except Exception as error:
            return error

    def _hand_over(self, done: _Done) -> Frame:
        now = self._clock.now()
        capture, index, captured_s = done.capture, done.waiting.index, done.waiting.captured_s
        error = done.result if isinstance(done.result, Exception) else None
        with self._changed:
            capture.count(processed=int(error is None), failed=int(error is not None))
            counters = capture.counters
        self._failures = 0 if error is None else self._failures + 1
        if error is not None:
            capture.warn("detector", f"the detector failed on frame {index}: {error}")
            if self._failures >= self._max_failures:
                raise StreamError(
                    f"the detector failed on {self._failures} frames in a row, the last time with: {error}"
                ) from error
        self.metrics.wait.add(done.taken_s - captured_s)
        self.metrics.hand_over.add(now - done.done_s)
        self.metrics.age.add(now - captured_s)
        return Frame(
            image=done.image,
            detections=None if isinstance(done.result, Exception) else done.result,
            source=capture.name,
            index=index,
            captured_s=captured_s,
            age_s=now - captured_s,
            time_s=done.waiting.shot.time_s,
            counters=counters,
            error=error,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream holds threads and cannot be sent to another process; make it there")


def _close(captures: list[Capture], changed: threading.Condition, clock: Clock, pid: int) -> None:
    if os.getpid() != pid:
        return  # a fork: the threads, and the lock as it happened to be, are the parent's
    with changed:
        for capture in captures:
            capture.stop()
        # In a source's own thread (on_state closes, or the collector runs there) its end cannot be waited for.
        waited = [each for each in captures if each.thread is not threading.current_thread()]
        until = clock.now() + _CLOSE_S
        while not all(each.finished for each in waited) and (left := until - clock.now()) > 0:
            changed.wait(left)
    for each in waited:
        if each.finished:
            each.thread.join()
        else:
            _LOGGER.warning("%s: blocks for more than %.0f s; its thread is left to it", each.name, _CLOSE_S)
