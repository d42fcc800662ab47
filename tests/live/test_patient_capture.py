"""A capture that hangs is given up, and released if it ever returns. Events in place of OpenCV's own faults."""

from __future__ import annotations

import threading

import pytest

from retinasdk.live import StreamError
from retinasdk.live.sources.patient_capture import PatientCapture


class Capture:
    """Stands for `cv2.VideoCapture`: `read` waits until it is let go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.released = threading.Event()
        self.threads: set[int] = set()

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        self.threads.add(threading.get_ident())
        return True

    def read(self) -> tuple[bool, str]:
        self.threads.add(threading.get_ident())
        self.go_on.wait()
        return True, "frame"

    def release(self) -> None:
        self.threads.add(threading.get_ident())
        self.released.set()


def test_one_thread_does_everything_and_ends() -> None:
    capture = Capture()
    capture.go_on.set()
    patient = PatientCapture(lambda: capture, 60)
    assert patient.isOpened()
    assert patient.read() == (True, "frame")
    patient.release()
    assert capture.released.is_set()
    patient.release()
    (ident,) = capture.threads
    assert ident != threading.get_ident()
    for thread in threading.enumerate():
        if thread.ident == ident:
            thread.join(60)
            assert not thread.is_alive()


def test_what_hangs_while_it_opens() -> None:
    capture, go_on = Capture(), threading.Event()

    def make() -> Capture:
        go_on.wait()
        return capture

    patient = PatientCapture(make, 0.05)
    with pytest.raises(StreamError, match=r"OpenCV has not opened the source within 0\.05 s and is given up"):
        patient.isOpened()
    patient.release()  # returns at once: the thread still waits
    assert not capture.released.is_set()
    go_on.set()
    assert capture.released.wait(60)


def test_what_hangs_while_it_reads() -> None:
    capture = Capture()
    patient = PatientCapture(lambda: capture, 0.05)
    with pytest.raises(StreamError, match=r"OpenCV has not delivered a frame within 0\.05 s and is given up"):
        patient.read()
    patient.release()
    assert not capture.released.is_set()
    capture.go_on.set()
    assert capture.released.wait(60)


def test_errors_come_through() -> None:
    made = []

    def make() -> Capture:
        made.append(1)
        raise OSError("no plugin")

    patient = PatientCapture(make, 60)
    with pytest.raises(OSError, match="no plugin"):
        patient.isOpened()
    patient.release()
    assert len(made) == 1  # It is not made once more to be released.
