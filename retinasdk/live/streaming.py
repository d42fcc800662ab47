"""`stream` and `Stream`: detection in the frames of one or several sources, with bounded latency."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from retinasdk.live.capture import Capture
from retinasdk.live.clock import Clock
from retinasdk.live.detection import Batch, Detection, Done
from retinasdk.live.errors import StreamError
from retinasdk.live.frame import Counters, Frame
from retinasdk.live.load import Awaited
from retinasdk.live.metrics import Metrics
from retinasdk.live.overlap import Overlap
from retinasdk.live.policies import Playback, Policy, RateCap, as_policy
from retinasdk.live.reconnect import Reconnect, StateChange
from retinasdk.live.sources import DECODERS, as_source
from retinasdk.live.tracking import Tracker, TrackerOption

if TYPE_CHECKING:
    from retinasdk.detections import Detections

_LOGGER = logging.getLogger("retinasdk.live")
_CLOSE_S = 15.0  # Longer than any source of this package blocks, except a GStreamer pipeline.
_INTERRUPTED_S = 1.0  # After Ctrl-C, nobody wants to wait for a silent camera.


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
    decoder: str = DECODERS[0],
    on_state: Callable[[StateChange], object] | None = None,
    tracker: TrackerOption | None = None,
    clock: Clock | None = None,
) -> Stream:
    """Detects objects in the frames of a source as they arrive.

    Each source is read in a thread of its own. Detection runs in the thread that iterates over the stream; only one
    thread may iterate at a time. If no frame may be dropped and the `Detector` runs on the GPU, two frames are detected
    at a time, in threads of their own; the order of the frames stays. Reading starts at once. Use the stream in a
    `with` statement, which closes it for certain. It also closes itself at its end, after an error, and when it is
    garbage collected.

    Example:
        ```python
        from retinasdk import Detector, stream

        with Detector() as detector, stream("rtsp://camera/live", detector) as frames:
            for frame in frames:
                if frame.error is not None:
                    print("detection failed:", frame.error)
                    continue
                for item in frame.detections:
                    print(frame.index, item.label, item.score, item.xyxy)
        ```

    Several cameras, and options for the detector:

        import functools

        cameras = {"front": 0, "back": "rtsp://10.0.0.7/live"}
        people = functools.partial(detector, classes=["person"])
        with stream(cameras, people, max_fps=10) as frames:
            for frame in frames:
                print(frame.source, len(frame.detections))

    Args:
        source: A video file, an image folder, a GIF, a URL (rtsp, http and others), a camera (0 or "/dev/video0"), a
            GStreamer pipeline, a ROS 2 bag folder, an iterator of (H, W, 3) uint8 RGB arrays or of `DeviceFrame`s, or
            a `Source`. Several sources are passed as a list or as {name: source}; frames that are ready together are
            processed as a batch.
        detector: A `Detector`, or any function that is called the same way: with an (H, W, 3) uint8 RGB array (a
            `DeviceFrame` if the source delivers them), or with a list of them if there are several sources. A function
            is called once at a time, unless it has an attribute `calls_at_once`, as `Detector` has.
        policy: What happens to frames that arrive faster than the detector works. "latest" (the default) keeps only the
            newest, so that the age of frames stays bounded. "all" drops none and slows down the source. "bounded:N" and
            "bounded:N:newest" let N frames wait, see `bounded`. Folders are read on demand, so none of their images is
            dropped under any policy.
        max_fps: The largest number of frames per second of each source that go to the detector. Default: no limit.
        deadline_s: Frames older than this many seconds are dropped instead of processed. Default: no limit.
        speed: The playback speed of recordings (video files, GIF, bags) under policies that drop frames. 1, the
            default, is the speed of the recording. Under "all", recordings are read as fast as the detector works.
        reconnect: When and how often cameras and network streams are opened again if they drop. What cannot be opened
            at first raises `StreamError` from the iteration at once. Defaults to `Reconnect()`.
        max_failures: If the detector raises an exception on a frame, `frame.error` is set and the stream continues.
            This many failures in a row end it. Default: 10.
        decoder: What decodes video files and network streams: "ffmpeg" (default) on the CPU, or "nvdec" on the GPU, see
            `NvdecVideo`. With "nvdec", the detector must run on the GPU.
        on_state: A function that is called with each `StateChange` of a source, in the source's thread. It should
            return quickly, because the source is not read meanwhile. An exception that it raises is logged.
        tracker: Gives each object a number that it keeps from frame to frame, in `Detections.tracks`. "bytetrack", a
            `ByteTrack` with options, or another tracker, see `Tracker`. Each source has a tracker of its own, which
            starts anew when the source reconnects. Default: objects are not tracked. Needs the extra `supervision`.
        clock: Only for tests, which pass a simulated clock.

    Returns:
        A `Stream`, which is an iterator of `Frame`.

    Raises:
        ImageError: If a file or folder does not exist or cannot be used.
        DeviceError: If the decoder is "nvdec" and there is no GPU that can decode video.
        MissingDependencyError: If a package for this kind of source is not installed.
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or the decoder is "nvdec" and the detector runs on the CPU.
        StreamError: From the iteration, if a source is lost for good, or if the detector fails `max_failures` times in
            a row. If there are several sources, the loss of one is raised when the others have ended too.
    """
    if not callable(detector):
        raise TypeError(f"detector must be a Detector or a function, got {type(detector).__name__}")
    if deadline_s is not None and not deadline_s > 0:
        raise ValueError(f"deadline_s must be above 0, got {deadline_s!r}; omit it for no limit")
    if not isinstance(max_failures, int) or max_failures < 1:
        raise ValueError(f"max_failures must be an integer of at least 1, got {max_failures!r}")
    if decoder == "nvdec" and getattr(detector, "device", None) == "cpu":
        raise ValueError(
            "decoder='nvdec' decodes into GPU memory, but the detector runs on the CPU; use Detector(device='cuda')"
        )
    clock = clock or Clock()
    changed = clock.condition()
    metrics = Metrics(clock)
    named = list(_named(source, decoder))
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
            is_alone=len(named) == 1,
        )
        for name, each in named
    ]
    return Stream(
        captures,
        detector,
        several=_is_several(source),
        max_failures=max_failures,
        clock=clock,
        changed=changed,
        metrics=metrics,
        trackers={} if tracker is None else {name: Tracker(tracker) for name, _ in named},
    )


def _is_several(source: Any) -> bool:
    return isinstance(source, (list, tuple, Mapping))


def _named(source: Any, decoder: str) -> Iterator[tuple[str, Any]]:
    """Yields (name, source) of each source. Names that are not unique get the position appended."""
    if isinstance(source, Mapping):
        pairs = [(str(name), as_source(item, decoder)) for name, item in source.items()]
    else:
        items = [as_source(item, decoder) for item in (source if _is_several(source) else [source])]
        pairs = [(item.name, item) for item in items]
    if not pairs:
        raise ValueError("stream needs at least one source, got none")
    names = [name for name, _ in pairs]
    for position, (name, item) in enumerate(pairs):
        yield (name if names.count(name) == 1 else f"{name} ({position})"), item


class Stream:
    """An iterator of `Frame`, and a context manager. Made by `stream`.

    `close`, `closed`, `counters` and `metrics` may be used from any thread; only one thread may iterate at a time.

    A stream belongs to the process that made it. After fork(), iterating in the child process raises `StreamError`,
    while the parent continues. Make stream and detector in the process that uses them, and start it with the
    multiprocessing method "spawn".

    Example:
        ```python
        with stream("clip.mp4", detector, policy="all") as frames:
            for frame in frames:
                print(frame.index, frame.age_s, len(frame.detections))
        print(frames.counters["clip.mp4"].failed, "frames failed")
        print(frames.metrics)
        ```

    Attributes:
        metrics: The duration of each stage, a `Metrics`.
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
        trackers: dict[str, Tracker],
    ) -> None:
        self.metrics = metrics
        self._trackers = trackers
        self._captures = captures
        self._detection = Detection(detector, several=several, clock=clock, changed=changed, metrics=metrics)
        # A frame that waits for the GPU could no longer be replaced by a newer one.
        calls = 1 if any(capture.drops for capture in captures) else self._detection.calls_at_once
        self._overlap = Overlap(self._detection.run, calls, clock, changed) if calls > 1 else None
        self._awaited: Awaited | None = None  # Why there was no frame when the detector was free.
        self._max_failures = max_failures
        self._failures = 0  # consecutive
        self._clock = clock
        self._changed = changed
        self._done: deque[Done] = deque()
        self._handed_over_s: float | None = None  # When the caller got the frame that it uses now.
        self._pid = os.getpid()
        # The finalizer refers to the captures and not to the stream, so that an unused stream is collected and
        # closed. It also runs at exit.
        self._finalizer = weakref.finalize(self, _close, captures, self._overlap, changed, clock, self._pid)
        for each in _threaded(captures, self._overlap):
            each.thread.start()

    @property
    def counters(self) -> dict[str, Counters]:
        """The counters of each source so far, {name of the source: `Counters`}."""
        with self._changed:
            return {capture.name: capture.counters for capture in self._captures}

    @property
    def closed(self) -> bool:
        """Whether the stream was closed or has ended."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Ends the iteration, closes all sources, and waits for their threads. It may be called twice."""
        self._finalizer()

    def _interrupt(self) -> None:
        """Closes like `close`, but waits for the threads for a short time only."""
        if self._finalizer.detach() is not None:
            _close(self._captures, self._overlap, self._changed, self._clock, self._pid, is_hurried=True)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._interrupt()
        self.close()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Frame:
        try:
            self._ask()
            while not self._done:
                self._done.extend(self._detect_next() if self._overlap is None else self._fetch_next(self._overlap))
            if self.closed:  # It may have been closed while the detector worked.
                raise StopIteration
            return self._hand_over(self._done.popleft())
        except KeyboardInterrupt:
            self._interrupt()
            raise
        except BaseException:
            self.close()
            raise

    def _ask(self) -> None:
        """Ends the time that the caller spent on the frame before."""
        if os.getpid() != self._pid:
            raise StreamError(
                "this stream was made by another process, and its threads do not survive fork(); make the stream and "
                "the detector in the process that uses them"
            )
        if self._handed_over_s is not None:
            self.metrics.output.add(self._clock.now() - self._handed_over_s)
            self.metrics.load.asked()
            self._handed_over_s = None

    def _detect_next(self) -> list[Done]:
        """Waits until a source has a frame, and detects in this thread."""
        with self._changed:
            while not self.closed:
                batch = self._take()
                if batch:
                    break
                self._stop_at_the_end()
                self._changed.wait(self._wait_s())
            else:
                raise StopIteration
        return self._detection.run(batch)

    def _fetch_next(self, overlap: Overlap) -> list[Done]:
        """Keeps the threads busy, and waits for the results of the oldest batch."""
        with self._changed:
            while not self.closed:
                self._fill(overlap)
                results = overlap.fetch()
                if results is not None:
                    self._fill(overlap)  # The next frames are in work while the caller uses these.
                    return results
                if overlap.is_empty:
                    self._stop_at_the_end()
                self._changed.wait(self._wait_s() if overlap.has_room else None)
        raise StopIteration

    def _fill(self, overlap: Overlap) -> None:
        while overlap.has_room and (batch := self._take()):
            overlap.start(batch)

    def _take(self) -> Batch:
        """Returns at most one frame of each source that has one."""
        now = self._clock.now()
        batch = [(each, waiting) for each in self._captures if (waiting := each.take(now)) is not None]
        if batch:
            self.metrics.load.took(len(batch), self._awaited)
            self._awaited = None
        else:
            self._awaited = "limit" if any(each.is_waiting for each in self._captures) else self._awaited or "source"
        return batch

    def _wait_s(self) -> float | None:
        """Returns the seconds until a frame may be taken, or None if only `changed` can tell."""
        now = self._clock.now()
        return min((wait for each in self._captures if (wait := each.wait_s(now)) is not None), default=None)

    def _stop_at_the_end(self) -> None:
        if all(each.exhausted for each in self._captures):
            self._raise_losses()
            raise StopIteration

    def _raise_losses(self) -> None:
        errors = [each.error for each in self._captures if each.error is not None]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise StreamError("; ".join(map(str, errors))) from errors[0]

    def _hand_over(self, done: Done) -> Frame:
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
        detections = self._tracked(done)
        now = self._clock.now()
        self.metrics.wait.add(done.taken_s - captured_s)
        self.metrics.hand_over.add(now - done.done_s)
        self.metrics.age.add(now - captured_s)
        self.metrics.load.handed_over()
        self._handed_over_s = now
        return Frame(
            image=done.image,  # type: ignore[arg-type]  # see Frame.image
            detections=detections,
            source=capture.name,
            index=index,
            captured_s=captured_s,
            age_s=now - captured_s,
            time_s=done.waiting.raw.time_s,
            counters=counters,
            error=error,
            live=capture.live,
            progress=done.waiting.raw.progress,
            connection=done.waiting.connection,
            tag=done.waiting.raw.tag,
        )

    def _tracked(self, done: Done) -> Detections | None:
        """Returns the detections of a frame, with tracks if they are wanted, or None if the detector failed."""
        if isinstance(done.result, Exception):
            return None
        tracker = self._trackers.get(done.capture.name)
        if tracker is None:
            return done.result
        height, width = done.image.shape[:2]
        return tracker.follow(
            done.result,
            (height, width),
            index=done.waiting.index,
            time_s=done.waiting.captured_s if done.capture.live else done.waiting.raw.time_s,
            connection=done.waiting.connection,
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream has threads and cannot be sent to another process; make it in that process")


def _threaded(captures: list[Capture], overlap: Overlap | None) -> list[Any]:
    """Everything with a thread of its own."""
    return [*captures, *(overlap.workers if overlap is not None else ())]


def _close(
    captures: list[Capture],
    overlap: Overlap | None,
    changed: threading.Condition,
    clock: Clock,
    pid: int,
    is_hurried: bool = False,
) -> None:
    if os.getpid() != pid:
        return  # After fork(), the threads and the state of the lock belong to the parent process.
    with changed:
        for capture in captures:
            capture.stop()
        if overlap is not None:
            overlap.stop()
        # A thread cannot wait for its own end: `on_state` may call `close`, or garbage collection may run in it.
        threaded = _threaded(captures, overlap)
        waited = [each for each in threaded if each.thread is not threading.current_thread()]
        limit_s = _INTERRUPTED_S if is_hurried else _CLOSE_S
        until = clock.now() + limit_s
        while not all(each.finished for each in waited) and (left := until - clock.now()) > 0:
            changed.wait(left)
    for each in waited:
        if each.finished:
            each.thread.join()
        else:
            what = "source" if isinstance(each, Capture) else "detector"
            _LOGGER.log(
                logging.INFO if is_hurried else logging.WARNING,
                "%s: the %s did not return within %.0f s; its thread keeps running",
                each.name,
                what,
                limit_s,
            )
