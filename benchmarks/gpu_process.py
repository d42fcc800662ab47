"""Runs the programs of `make gpu` with a time limit, and keeps what they print."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a program ended: its exit code (None: ended by the time limit), what it printed, and how long it took."""

    code: int | None
    text: str
    seconds: float


def run(command: Sequence[str], *, seconds: float, log: Path, env: Mapping[str, str], cwd: Path) -> Done:
    """Runs a program, with output to a log file, and ends it and its children after so many seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd, start_new_session=True
            )
        except OSError as error:
            return Done(127, str(error), 0.0)
        try:
            code: int | None = process.wait(timeout=max(seconds, 0.1))
        except BaseException as error:  # Also when the user ends `make gpu`: nothing may be left running.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = None
    return Done(code, log.read_text(errors="replace"), time.monotonic() - begin)


def said(command: Sequence[str], seconds: float = 20) -> str:
    """What a program prints, on one line; nothing where it is not here or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ""
