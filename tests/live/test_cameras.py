"""Cameras by OpenCV: which of its backends reads them on which system, and the real OpenCV where there is no camera."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from live_pictures import find_nothing

from retinasdk.live import Camera, StreamError, stream
from retinasdk.live.sources import as_source

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")


class Capture:
    """Stands for `cv2.VideoCapture`.

    It encodes these beliefs: cameras are opened by number on macOS and Windows, with OpenCV's constants
    CAP_AVFOUNDATION, CAP_DSHOW and CAP_MSMF; an object that could not be opened accepts `set`, and must be released as
    well. None of them could be checked on those systems here. The constants are those of the real OpenCV.
    """

    works: tuple[int, ...] = ()
    calls: list[Any]

    def __init__(self, device: int | str, backend: int) -> None:
        self.calls.append((device, backend))
        self._backend = backend

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return self._backend in self.works

    def set(self, key: int, value: float) -> None:
        self.calls.append((key, value))

    def read(self) -> tuple[bool, Any]:
        return True, np.full((4, 6, 3), (200, 0, 0), np.uint8)

    def release(self) -> None:
        self.calls.append("release")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(Capture, "calls", [], raising=False)
    return Capture.calls


@pytest.mark.parametrize(
    ("system", "works", "tried"),
    [
        ("darwin", "CAP_AVFOUNDATION", ["CAP_AVFOUNDATION"]),
        ("win32", "CAP_DSHOW", ["CAP_DSHOW"]),
        ("win32", "CAP_MSMF", ["CAP_DSHOW", "CAP_MSMF"]),
    ],
)
def test_the_backend_of_each_system(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, system: str, works: str, tried: list[str]
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Capture, "works", (getattr(cv2, works),))
    camera = as_source("1")
    assert isinstance(camera, Camera)
    assert (camera.name, camera.live) == ("camera 1", True)
    camera.open()
    raw = camera.read()
    assert raw is not None
    assert raw.rgb()[0, 0].tolist() == [0, 0, 200]
    camera.close()
    opened = [(1, getattr(cv2, name)) for name in tried]
    assert [call for call in calls if call != "release"] == opened
    assert calls.count("release") == len(tried)


@pytest.mark.parametrize(
    ("system", "advice"), [("darwin", "System Settings, Privacy & Security, Camera"), ("win32", "no other program")]
)
def test_no_such_camera_on_other_systems(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, system: str, advice: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Capture, "works", ())
    with stream(Camera(3), find_nothing) as frames, pytest.raises(StreamError, match=rf"^camera 3: .*{advice}"):
        next(frames)
    assert calls[-1] == "release"
    with pytest.raises(ValueError, match="device must be the number of a camera on this system, such as 0, got '/dev/"):
        Camera("/dev/video0")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of V4L2")
def test_the_real_opencv_is_silent_about_what_is_no_camera() -> None:
    """At the level of file descriptors; and its log is as loud as before afterwards."""
    program = """
import cv2
from retinasdk.live import Camera, StreamError
log = getattr(cv2.utils, "logging", cv2)
before = log.getLogLevel()
for device in ("/dev/null", 97):
    camera = Camera(device)
    try:
        camera.open()
    except StreamError as error:
        print(camera.name, error)
    camera.close()
assert log.getLogLevel() == before
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "/dev/null cannot be opened; check that it is a camera and that no other program uses it",
        "/dev/video97 cannot be opened: there is no such device; list the cameras with: v4l2-ctl --list-devices",
    ]
