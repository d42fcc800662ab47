"""The programs of a soak: the camera, and those that are watched; and what one of them holds."""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_ROOT = Path(__file__).resolve().parent.parent
_PYTHON_OF_GSTREAMER = "/usr/bin/python3"  # PyGObject comes with the distribution
_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_S = 60.0


@dataclass(frozen=True)
class Held:
    """What a process holds at one moment, in MB; Linux only. anonymous_mb: what no file backs, where a leak shows."""

    rss_mb: float
    pss_mb: float
    anonymous_mb: float
    threads: int
    descriptors: int
    cpu_s: float

    @classmethod
    def by(cls, pid: int) -> Held:
        folder = Path("/proc") / str(pid)
        lines = (line.split() for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
        kilobytes = {words[0]: int(words[1]) for words in lines}
        rss, pss, anonymous = (kilobytes[name] * 1024 / 1e6 for name in ("Rss:", "Pss:", "Anonymous:"))
        # The name of the program stands in parentheses and may hold blanks; the fields follow it.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return cls(rss, pss, anonymous, int(fields[17]), len(os.listdir(folder / "fd")), cpu)


class Program:
    """A program that runs until it is told to stop. What it prints goes through a queue; errors are kept, too."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.printed: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()  # when a line came, and the line
        self.errors: collections.deque[str] = collections.deque(maxlen=200)
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,  # not the root: `python -m` would run its sources instead of what is installed
        )
        readers = ((self._process.stdout, self._take), (self._process.stderr, self._take_error))
        for stream, take in readers:
            threading.Thread(target=self._read, args=(stream, take), daemon=True).start()

    def _read(self, stream: Any, take: Any) -> None:
        for line in stream:
            take(line.rstrip("\n"))

    def _take(self, line: str) -> None:
        self.printed.put((time.monotonic(), line))

    def _take_error(self, line: str) -> None:
        self.errors.append(line)

    def held(self) -> Held | None:
        """What it holds now; None if it has ended."""
        try:
            return Held.by(self._process.pid)
        except (OSError, KeyError):
            return None

    def wait_for_error(self, beginning: str, seconds: float) -> str:
        """Returns the rest of the first line on standard error that begins so.

        Raises:
            RuntimeError: If it does not come in time.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._process.poll() is None:
            for line in tuple(self.errors):
                if line.startswith(beginning):
                    return line.removeprefix(beginning).strip()
            time.sleep(0.05)
        raise RuntimeError(
            f"{self.name} did not print {beginning!r}; it printed: {' | '.join(self.errors) or 'nothing'}"
        )

    def stop(self) -> tuple[int | None, float]:
        """Ends it as `docker stop` does. Returns its exit status (None: it had to be killed) and the seconds it took.

        Not by Ctrl-C: a shell makes what it starts in the background ignore that.
        """
        start = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            status: int | None = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = None
        return status, time.monotonic() - start

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Camera:
    """GStreamer's RTSP server, with the photos of `examples` as moving pictures. It can be killed and brought back."""

    SIZE = (240, 320)  # height and width in pixels
    _PICTURES = 50

    def __init__(self, folder: Path) -> None:
        self._pictures = folder / "pictures.rgb"
        self._pictures.write_bytes(self._moving().tobytes())
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @classmethod
    def _moving(cls) -> np.ndarray[Any, Any]:
        height, width = cls.SIZE
        photo = np.asarray(Image.open(_ROOT / "examples/photos/people/astronaut.jpg").convert("RGB"))
        # There and back, so that the first picture follows the last.
        steps = np.abs(np.linspace(-1, 1, cls._PICTURES)) * (photo.shape[1] - width)
        return np.stack([photo[:height, step : step + width] for step in steps.astype(int)])

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/live"

    def start(self) -> None:
        server = _ROOT / "tests/support/rtsp_server.py"
        height, width = map(str, self.SIZE)
        command = [_PYTHON_OF_GSTREAMER, str(server), str(self._port), width, height, "--pictures", str(self._pictures)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"GStreamer's RTSP server does not start; the top of {server} says what it needs")
        self._port = int(line.split()[-1])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def killed_afterwards(*programs: Program | Camera) -> Any:
    """Ends the programs for certain, also after an error."""
    try:
        yield
    finally:
        for program in programs:
            program.kill()


def calls_program(model: str, device: str, share: float) -> Program:
    """`soak_calls.py`: detects whole photos and tiles."""
    script = Path(__file__).with_name("soak_calls.py")
    options = ("--model", model, "--device", device, "--share", str(share))
    return Program("calls", (sys.executable, str(script), *options))


def live_program(model: str, device: str, url: str, max_fps: float) -> Program:
    """`retinasdk live` as a user starts it, with preview and metrics."""
    command = (sys.executable, "-m", "retinasdk", "live", url, "--model", model, "--device", device)
    options = ("--max-fps", str(max_fps), "--jsonl", "-", "--web", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    return Program("live", (*command, *options))
