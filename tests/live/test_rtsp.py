"""A real RTSP server (GStreamer's, rtsp_server.py) that is looked at, killed, brought back, and frozen."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from paths import SUPPORT

import retinasdk
from retinasdk import Detections
from retinasdk.live import Reconnect, StateChange, StreamError, Video, stream

REQUIRED = os.environ.get("RETINASDK_REQUIRE_GSTREAMER") == "1"
SYSTEM_PYTHON = "/usr/bin/python3"  # PyGObject, and an OpenCV with GStreamer, are the distribution's
QUICK = Reconnect(first_s=0.05, longest_s=0.2, attempts=None)
SERVER_NEEDS = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
names = ("appsrc", "x264enc", "rtph264pay")
assert all(map(Gst.ElementFactory.find, names)), "elements missing"
"""


def system_python_has(program: str) -> bool:
    command = [SYSTEM_PYTHON, "-c", program]
    return Path(SYSTEM_PYTHON).exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


if not REQUIRED:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    if not system_python_has(SERVER_NEEDS):
        pytest.skip(
            "needs GStreamer's RTSP server: apt install python3-gi gir1.2-gst-rtsp-server-1.0 "
            "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly",
            allow_module_level=True,
        )


class Server:
    """The server as a process that can be killed, frozen, and started again at the same port."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://user:secret@127.0.0.1:{self.port}/live"

    def start(self, width: int, height: int, password: str | None = None) -> None:
        protection = [] if password is None else ["--password", password]
        program = SUPPORT / "rtsp_server.py"
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(program), str(self.port), str(width), str(height), *protection],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on ")
        self.port = int(line.split()[-1])

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start(64, 48)
    yield server
    server.kill()


def number_of(image: npt.NDArray[np.uint8]) -> int:
    return round((float(image.mean()) - 5) / 5)


def find_nothing(image: Any) -> Detections:
    return Detections.empty(("thing",))


def take(frames: Any, count: int, shape: tuple[int, int]) -> list[Any]:
    """The next frames of that height and width, `count` of them; whatever comes before them is left out."""
    wanted = (frame for frame in frames if frame.image.shape[:2] == shape)
    return list(itertools.islice(wanted, count))


def follow_each_other(frames: list[Any]) -> bool:
    numbers = [number_of(frame.image) for frame in frames]
    return numbers == [(numbers[0] + step) % 50 for step in range(len(frames))]


def test_killed_and_brought_back_with_another_size(server: Server) -> None:
    states: list[StateChange] = []

    def on_state(change: StateChange) -> None:
        states.append(change)
        if change.state == "reconnecting" and change.attempt == 3:
            server.start(96, 64)

    with stream(server.url, find_nothing, policy="all", reconnect=QUICK, on_state=on_state) as frames:
        before = take(frames, 30, (48, 64))
        server.kill()
        after = take(frames, 30, (64, 96))
        (counters,) = frames.counters.values()
    assert follow_each_other(before)
    assert follow_each_other(after)
    assert [frame.index for frame in before] == list(range(30))
    last = after[-1]
    assert last.counters.processed + last.counters.failed == last.index + 1 >= 60
    assert counters.dropped == 0
    assert counters.failed <= 1  # the frame that the kill cut in two
    told = [(change.state, change.attempt) for change in states]
    assert told[:2] == [("connecting", 0), ("streaming", 0)]
    assert told[2:5] == [("reconnecting", 1), ("connecting", 1), ("reconnecting", 2)]
    assert told[5:9] == [("connecting", 2), ("reconnecting", 3), ("connecting", 3), ("streaming", 0)]
    assert told[9:] == [("ended", 0)]
    errors = [str(change.error) for change in states if change.error is not None]
    assert "Connection refused" in errors[-1]
    assert not any("secret" in text for text in [*errors, states[0].source])


def test_a_frozen_server_is_given_up_and_found_again(server: Server) -> None:
    """Its connection stays open: only silence tells."""
    states: list[str] = []

    def on_state(change: StateChange) -> None:
        states.append(change.state)
        if change.state == "reconnecting":
            server.signal(signal.SIGCONT)

    video = Video(server.url, timeout_s=0.5)
    with stream(video, find_nothing, reconnect=QUICK, on_state=on_state) as frames:
        take(frames, 10, (48, 64))
        server.signal(signal.SIGSTOP)
        while states.count("streaming") < 2:
            next(frames)
        assert follow_each_other(take(frames, 1, (48, 64)))
    assert states[:5] == ["connecting", "streaming", "reconnecting", "connecting", "streaming"]


def test_passwords_that_fit_and_do_not() -> None:
    """The password has every special character, escaped as the message advises."""
    server = Server()
    server.start(64, 48, "s@:/?#%t")
    try:
        right = f"rtsp://user:s%40%3A%2F%3F%23%25t@127.0.0.1:{server.port}/live"
        with stream(right, find_nothing, policy="all") as frames:
            assert len(take(frames, 5, (48, 64))) == 5
        for wrong in (server.url, server.url.replace("user:secret@", "")):
            with stream(wrong, find_nothing) as frames, pytest.raises(StreamError) as raised:
                next(frames)
            assert "the user name or password is missing or wrong; put USER:PASSWORD@ before" in str(raised.value)
            assert "secret" not in str(raised.value)
    finally:
        server.kill()


def test_no_such_stream(server: Server) -> None:
    url = server.url.replace("/live", "/other")
    with stream(url, find_nothing) as frames, pytest.raises(StreamError, match="check the path in the address"):
        next(frames)


def test_what_the_command_says_while_the_camera_is_away(server: Server, model_path: Path, tmp_path: Path) -> None:
    """A line for each attempt, one when it is back, one at the end; nothing of FFmpeg, and no password."""
    lines = tmp_path / "found.jsonl"
    words = [
        server.url,
        "--model",
        str(model_path),
        "--device",
        "cpu",
        "--jsonl",
        str(lines),
        "--attempts",
        "unlimited",
    ]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "retinasdk", "live", *words], cwd=tmp_path, **pipes) as process:
        assert process.stderr is not None
        wait_until(lambda: lines.exists() and lines.stat().st_size > 0)
        server.kill()
        told = [
            line for line in (process.stderr.readline(),) if " corrupt frame: " not in line
        ]  # the kill cut it in two
        while len(told) < 2:
            told.append(process.stderr.readline())
        server.start(96, 64)
        while not told[-1].endswith(" s\n"):
            told.append(process.stderr.readline())
        process.terminate()
        out, err = process.communicate(timeout=60)
    name = f"retinasdk: warning: rtsp://127.0.0.1:{server.port}/live"
    for number, line in enumerate(told[:-1], 1):
        assert re.fullmatch(rf"{re.escape(name)}: .*; trying again in \d+\.\d s \(attempt {number}\)\n", line), told
    assert re.fullmatch(rf"{re.escape(name)}: connected again after \d+\.\d s\n", told[-1]), told
    assert (process.returncode, err) == (143, "retinasdk: stopped by SIGTERM\n")
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {(entry["width"], entry["height"]) for entry in entries} <= {(64, 48), (96, 64)}
    assert "secret" not in "".join([out, *told, lines.read_text()])


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_latest_keeps_up_with_it(server: Server) -> None:
    """A detector of five frames a second sees every fifth or so of 25: what lies between is dropped, not queued."""

    def slow(image: Any) -> Detections:
        time.sleep(0.2)
        return find_nothing(image)

    with stream(server.url, slow, reconnect=QUICK) as frames:
        got = list(itertools.islice(frames, 5))
    steps = np.diff([number_of(frame.image) for frame in got]) % 50
    indices = [frame.index for frame in got]
    np.testing.assert_array_equal(steps, np.diff(indices))  # every frame was received, in order, and counted
    assert all(step > 1 for step in steps)
    assert got[-1].counters.dropped >= indices[-1] - 4


# -- GStreamer's own pipelines, by the distribution's OpenCV -----------------------------------------------------------

OPENCV_NEEDS = """
import cv2
assert any(line.split()[:2] == ["GStreamer:", "YES"] for line in cv2.getBuildInformation().splitlines())
"""
PIPELINE = """
import itertools, os, sys
import numpy as np
from retinasdk import Detections
from retinasdk.live import Pipeline, Reconnect, stream

def find_nothing(image):
    return Detections.empty(("thing",))

test = "videotestsrc num-buffers=7 pattern=blue ! video/x-raw,format=BGR,width=64,height=48 ! appsink"
with stream(Pipeline(test, live=False), find_nothing, policy="all") as frames:
    colors = [frame.image[24, 32].tolist() for frame in frames]
print(colors)

camera = (
    f"rtspsrc location={sys.argv[1]} latency=0 protocols=tcp ! rtph264depay ! h264parse ! openh264dec ! videoconvert ! "
    "video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
)
states = []
def on_state(change):
    states.append(change.state)
    if change.state == "reconnecting" and states.count("reconnecting") == 1:
        print("lost", flush=True)
# OpenCV 4.6 hangs in every tenth attempt or so while there is no server, on a busy machine.
source = Pipeline(camera, timeout_s=10)
with stream(source, find_nothing, reconnect=Reconnect(0.1, 0.2, attempts=None), on_state=on_state) as frames:
    print(len(list(itertools.islice((f for f in frames if f.image.shape == (48, 64, 3)), 20))), flush=True)
    print(len(list(itertools.islice((f for f in frames if f.image.shape == (64, 96, 3)), 20))), flush=True)
    (counters,) = frames.counters.values()
print(states[:3], counters.failed)
"""


def test_a_pipeline_reads_tests_and_cameras(server: Server, tmp_path: Path) -> None:
    if not REQUIRED and not system_python_has(OPENCV_NEEDS):
        pytest.skip("needs an OpenCV with GStreamer: apt install python3-opencv")
    # Of this environment the system's Python sees the package alone, and none of its wheels.
    (tmp_path / "retinasdk").symlink_to(Path(retinasdk.__file__).parent, target_is_directory=True)
    process = subprocess.Popen(
        [SYSTEM_PYTHON, "-c", PIPELINE, server.url],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(600, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(2)]
        server.kill()
        lines.append(process.stdout.readline().strip())
        server.start(96, 64)
        out, err = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()
    assert [*lines, *out.split("\n")] == [
        str([[0, 0, 255]] * 7),
        "20",
        "lost",
        "20",
        "['connecting', 'streaming', 'reconnecting'] 0",
        "",
    ], err


SILENT = """
import sys
from retinasdk.live import Pipeline, StreamError

camera = Pipeline(f"rtspsrc location={sys.argv[1]} protocols=tcp ! fakesink appsink", timeout_s=0.5)
for _ in range(2):
    try:
        camera.open()
    except StreamError as error:
        print(error)
    camera.close()
"""


def test_a_pipeline_that_hangs_is_given_up(tmp_path: Path) -> None:
    """A server that accepts and says nothing; and the program ends, whatever its threads wait for."""
    if not REQUIRED and not system_python_has(OPENCV_NEEDS):
        pytest.skip("needs an OpenCV with GStreamer: apt install python3-opencv")
    (tmp_path / "retinasdk").symlink_to(Path(retinasdk.__file__).parent, target_is_directory=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [SYSTEM_PYTHON, "-c", SILENT, f"rtsp://127.0.0.1:{server.getsockname()[1]}/live"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 2 * (
        "OpenCV has not opened the source within 0.5 s and is given up; if the source needs longer, raise timeout_s\n"
    )
