"""How a stream ends: by break, close() from anywhere, Ctrl-C, with the process; and that nothing is left behind.

Threads and processes are real.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_pictures import count_frames, drain, find_nothing, live_threads, nothing_left, pictures  # noqa: F401
from live_world import LABELS, numbered

from retinasdk import Detections
from retinasdk.live import Frame, Reconnect, StateChange, stream

pytestmark = pytest.mark.usefixtures("nothing_left")

# -- ends --------------------------------------------------------------------------------------------------------------


def is_soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within real seconds that only a hanging test needs."""
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def test_leaving_the_loop_ends_the_thread() -> None:
    for frame in stream(pictures(), find_nothing):
        assert live_threads() == ["retinasdk live arrays"]
        if frame.index > 5:
            break
    assert is_soon(lambda: live_threads() == [])


def test_a_stream_that_is_never_iterated() -> None:
    held = [stream(pictures(), find_nothing)]
    assert is_soon(lambda: held[0].counters["arrays"].captured > 100)  # latest: it does not fill up
    held.clear()
    assert is_soon(lambda: live_threads() == [])


def test_an_error_of_the_caller_ends_the_thread() -> None:
    with contextlib.suppress(ZeroDivisionError), stream(pictures(), find_nothing) as frames:
        for _ in frames:
            raise ZeroDivisionError
    assert live_threads() == []


def test_the_iterator_is_closed_in_its_thread() -> None:
    seen = []

    def source() -> Iterator[Any]:
        try:
            yield from pictures()
        finally:
            seen.append(threading.current_thread().name)

    with stream(source(), find_nothing) as frames:
        next(frames)
    assert seen == ["retinasdk live arrays"]


@pytest.mark.parametrize("policy", ["latest", "all", "bounded:3", "bounded:3:newest"])
def test_close_from_another_thread(policy: str) -> None:
    """While the caller waits for a frame that never comes."""
    stop = threading.Event()

    def one_then_nothing() -> Iterator[Any]:
        yield numbered(0)
        stop.wait(30)

    frames = stream(one_then_nothing(), find_nothing, policy=policy)
    got: list[Frame] = []
    consumer = threading.Thread(target=lambda: got.extend(frames))
    consumer.start()
    assert is_soon(lambda: len(got) == 1)
    closers = [threading.Thread(target=frames.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    consumer.join(30)
    stop.set()
    for closer in closers:
        closer.join(30)
    assert not consumer.is_alive()
    assert frames.closed
    assert len(got) == 1
    assert is_soon(lambda: live_threads() == [])


def test_close_while_the_detector_works() -> None:
    working, go_on = threading.Event(), threading.Event()

    def detector(image: Any) -> Any:
        working.set()
        go_on.wait(30)
        return Detections.empty(LABELS)

    frames = stream(pictures(), detector)
    got: list[Frame] = []
    consumer = threading.Thread(target=lambda: got.extend(frames))
    consumer.start()
    assert working.wait(30)
    frames.close()
    go_on.set()
    consumer.join(30)
    assert (consumer.is_alive(), got) == (False, [])


def test_close_in_on_state(caplog: pytest.LogCaptureFixture) -> None:
    opened: list[Any] = []

    def on_state(change: StateChange) -> None:
        if change.state == "streaming":
            assert is_soon(lambda: bool(opened))
            opened[0].close()

    frames = stream(pictures(), find_nothing, on_state=on_state)
    opened.append(frames)
    assert list(frames) == []
    assert is_soon(lambda: live_threads() == [])
    assert "did not return" not in caplog.text  # a thread that waited for its own end


def test_close_ends_the_wait_for_a_reconnection() -> None:
    class Never:
        name, live, on_demand = "never", True, False

        def open(self) -> None:
            raise OSError("no route")

        def read(self) -> None: ...

        def close(self) -> None: ...

    changes: list[StateChange] = []
    hourly = Reconnect(first_s=3600, longest_s=3600, first_attempts=None)
    frames = stream(Never(), find_nothing, reconnect=hourly, on_state=changes.append)
    assert is_soon(lambda: any(change.state == "reconnecting" for change in changes))
    frames.close()
    assert live_threads() == []
    assert list(frames) == []


def test_a_source_that_blocks_is_left_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("retinasdk.live.streaming._CLOSE_S", 0.05)
    stop, blocked = threading.Event(), threading.Event()

    def blocks() -> Iterator[Any]:
        blocked.set()
        stop.wait(30)
        yield numbered(0)

    frames = stream(blocks(), find_nothing)
    assert blocked.wait(30)
    frames.close()
    assert "arrays: the source did not return within" in caplog.text
    assert list(frames) == []
    stop.set()
    assert is_soon(lambda: live_threads() == [])


def test_many_streams_leave_nothing_behind() -> None:
    folder = "/proc/self/fd"
    before = len(os.listdir(folder)) if os.path.isdir(folder) else 0
    for count in (0, 1, 5, None) * 25:
        with stream(pictures(count), find_nothing, policy="bounded:4") as frames:
            for _ in itertools.islice(frames, 3):
                pass
    assert live_threads() == []
    assert (len(os.listdir(folder)) if os.path.isdir(folder) else 0) == before


# -- processes ---------------------------------------------------------------------------------------------------------


def run_program(text: str) -> subprocess.Popen[str]:
    head = """
        import itertools, os, signal, sys, threading, time
        import numpy as np
        from retinasdk import Detections
        from retinasdk.live import stream
        def find_nothing(image): return Detections.empty(("thing",))
        def pictures():
            while True:
                yield np.zeros((4, 6, 3), np.uint8)
                time.sleep(0.001)
    """
    program = textwrap.dedent(head) + textwrap.dedent(text)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("policy", ["latest", "all"])
@pytest.mark.parametrize("where", ["waiting", "working"])
def test_ctrl_c(policy: str, where: str) -> None:
    with run_program(
        f"""
        def source():
            yield from itertools.islice(pictures(), 1)
            if {where == "waiting"}:
                print("ready")
                time.sleep(0.7)
            yield from pictures()
        try:
            for frame in stream(source(), find_nothing, policy={policy!r}):
                if {where == "working"}:
                    print("ready")
        except KeyboardInterrupt:
            print("threads", threading.active_count())
        """
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out.endswith("threads 1\n")  # the signal may come within a print
    assert (process.returncode, err) == (0, "")


def test_a_forgotten_stream_does_not_keep_the_program() -> None:
    with run_program(
        """
        frames = stream(pictures(), find_nothing)
        next(frames)
        print("end")
        """
    ) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_is_refused_clearly() -> None:
    with run_program(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork with threads, rightly
        frames = stream(pictures(), find_nothing)
        next(frames)
        if os.fork() == 0:
            try:
                next(frames)
            except Exception as error:
                print(type(error).__name__, error)
            sys.exit()
        os.wait()
        print(next(frames).error)
        frames.close()
        """
    ) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    told, parent = out.splitlines()
    assert told.startswith("StreamError this stream was made by another process, and its threads do not survive fork()")
    assert parent == "None"


def test_a_stream_is_not_sent_to_another_process() -> None:
    with stream(pictures(), find_nothing) as frames, pytest.raises(TypeError, match="make it in that process"):
        pickle.dumps(frames)


def test_spawned_processes_have_their_own() -> None:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=count_frames, args=(theirs,))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == 5
    child.join(60)
    assert child.exitcode == 0
