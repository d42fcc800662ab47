"""Contestants in processes of their own that take turns, and how busy the machine is with other work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

REST_S = 0.4  # Before each turn: threads of some runtimes spin after a call, waiting for the next.


class ContestantError(Exception):
    """A contestant cannot do this here. The message says why."""


class Running(AbstractContextManager["Running"]):
    """A contestant in its process.

    Attributes:
        about: What it says of itself.
    """

    def __init__(self, name: str, folder: Path, threads: int, environment: Mapping[str, str]) -> None:
        """Starts the process, and waits until its model is loaded.

        Args:
            name: Of `cpu_contestants.CONTESTANTS`.
            folder: Of the case.
            threads: Of each call.
            environment: Variables that it gets besides those of this process.

        Raises:
            ContestantError: If it cannot load the model.
        """
        program = Path(__file__).with_name("cpu_one.py")
        self._errors = (folder / f"{name}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, program, name, folder, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **environment},
        )
        try:
            self.about: dict[str, Any] = self._answer()
        except ContestantError:
            self.close()
            raise

    def ask(self, *command: object) -> Any:
        """Sends a command, see cpu_one.py, and returns the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # Reading the answer says why.
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines() or ["it said nothing"]
        raise ContestantError(f"it ended with status {self._process.returncode}: {said[-1]}")


def take_turns(running: Mapping[str, Running], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, one in each round: A B A B ... See cpu_one.py."""
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, one in running.items():
            times[name].append(one.ask("turn", REST_S))
    return times


def start_all(
    names: Sequence[str], folder: Path, threads: int, environment: Mapping[str, str], opened: ExitStack
) -> tuple[dict[str, Running], dict[str, str]]:
    """Starts contestants, and returns those that run here, and why the others do not."""
    running: dict[str, Running] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            running[name] = opened.enter_context(Running(name, folder, threads, environment))
        except ContestantError as error:
            failed[name] = str(error)
    return running, failed


def peak_mb(name: str, folder: Path, threads: int, environment: Mapping[str, str]) -> float | None:
    """The peak memory in MB of a fresh process that loads the model and calls it once."""
    with Running(name, folder, threads, environment) as one:
        one.ask("turn", 0.0)
        peak: float | None = one.ask("memory")
        return peak


def heads_difference(one: Running, reference: Running, folder: Path) -> float:
    """The largest difference between the head outputs of two, as a fraction of the standard deviation of each head."""
    arrays = []
    for index, who in enumerate((one, reference)):
        path = folder / f"heads{index}.npz"
        who.ask("heads", str(path))
        with np.load(path) as saved:
            arrays.append([saved[name] for name in sorted(saved.files, key=lambda name: int(name[4:]))])
    pairs = zip(*arrays, strict=True)
    return max(float(np.abs(np.reshape(a, b.shape) - b).max() / b.std()) for a, b in pairs)


class OtherWork:
    """How much of the processors others than this process and its ended children used since it was made; Linux only."""

    def __init__(self) -> None:
        self._start = self._now()

    def share(self) -> float | None:
        """Between 0 and 1; None: this system does not say."""
        if self._start is None:
            return None
        now = self._now()
        assert now is not None
        seconds, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return min(1.0, max(0.0, busy - own) / max(1e-9, seconds))  # Sums of ticks may be off by the last digit.

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds of all processors together, those that they were busy, and those that they were busy for us."""
        path = Path("/proc/stat")
        if not path.is_file():
            return None
        user, nice, system, idle, waiting, irq, soft, stolen = map(int, path.read_text().split()[1:9])
        busy = user + nice + system + irq + soft + stolen
        own = os.times()
        tick = os.sysconf("SC_CLK_TCK")
        return (busy + idle + waiting) / tick, busy / tick, sum(own[:4])


def work_of_others(seconds: float = 2.0) -> float | None:
    """`OtherWork` over a while in which this process does nothing."""
    others = OtherWork()
    time.sleep(seconds)
    return others.share()
