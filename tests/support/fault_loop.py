"""Fault loops: a command runs again and again, each time with another fault, and what it leaves is looked at.

Every output must be as before or complete and new, an exit status of 0 means that all are new, and nothing else is
left. SIGKILL, and a disk that fails for good, may leave the hidden files that retinasdk/_util/files.py describes, and
temporary files. The next run must remove the former.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pytest
from paths import ROOT
from PIL import Image

from retinasdk.tensorrt.engine_info import EngineInfo

# Of the loops over every call, and of the many kills.
TAKES_LONG = pytest.mark.skipif(
    os.environ.get("RETINASDK_ALL_FAULTS") != "1", reason="takes long; RETINASDK_ALL_FAULTS=1 runs it"
)
ALWAYS = 1 << 40  # as the last call that fails: all from the first one on
_WRITTEN = ("out", "cache", "tmp")
_HIDDEN = re.compile(r"\..*\.(new|old)")


@dataclass(frozen=True)
class Command:
    """Something that writes files.

    Attributes:
        name: Its name in reports.
        call: The function, as "module:function".
        arguments: Its arguments.
        outputs: Files that it writes, below the folder of the world. Those that belong together are one item.
        kept: Names of further files that it may leave, as a regular expression.
        may_lose: Outputs, of `outputs`, without which it succeeds, as caches.
    """

    name: str
    call: str
    arguments: Sequence[Any]
    outputs: Sequence[Sequence[str]]
    kept: str = "(?!)"
    may_lose: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: Exit status, or the negative number of the signal.
        hung: Whether it had to be killed because it took too long.
        seconds: How long it took.
        calls: How many calls of the system changed its files, those that failed included.
        allocations: How many allocations were counted.
        failed: The first call that failed.
        said: What it wrote on standard error.
    """

    status: int
    hung: bool
    seconds: float
    calls: int
    allocations: int
    failed: str
    said: str


@dataclass
class World:
    """A folder with the inputs of commands, and the folders that they write to.

    Attributes:
        folder: The folder, which has `in`, `out`, `cache`, and `tmp` for temporary files.
        runner: Runs calls in it.
    """

    folder: Path
    runner: subprocess.Popen[str]
    _warmed: set[str] = field(default_factory=set)
    _judges: dict[str, Judge] = field(default_factory=dict)

    def judge(self, command: Command) -> Judge:
        """Returns what decides whether the outputs of a command are whole."""
        if command.name not in self._judges:
            self._judges[command.name] = Judge(self, command)
        return self._judges[command.name]

    def run(self, command: Command, **request: Any) -> Ended:
        """Runs a command. `files` and `memory` are faults as in fault_runner.py."""
        if command.name not in self._warmed:
            self._warmed.add(command.name)
            self.prepare(command, exists=False)
            first = self._ask(command, warm=True, modules=str(self.folder / "modules"))
            assert first.status == 0, first
        return self._ask(command, **request)

    def _ask(self, command: Command, **request: Any) -> Ended:
        said = self.folder.parent / "stderr"  # Where no write fails, unlike standard output.
        request |= {
            "call": command.call,
            "arguments": command.arguments,
            "folder": str(self.folder),
            "stdout": str(self.folder / "stdout"),
            "stderr": str(said),
            "below": str(self.folder),
            "environment": {"TMPDIR": str(self.folder / "tmp"), "RETINASDK_CACHE": str(self.folder / "cache")},
        }
        assert self.runner.stdin is not None
        assert self.runner.stdout is not None
        self.runner.stdin.write(json.dumps(request) + "\n")
        self.runner.stdin.flush()
        answer = json.loads(self.runner.stdout.readline())
        answer["failed"] = answer["failed"].replace(f"{self.folder}/", "")
        return Ended(**answer, said=said.read_text(errors="replace") if said.exists() else "")

    def prepare(self, command: Command, *, exists: bool) -> None:
        """Empties the folders that commands write to, and puts older outputs there, or none."""
        for name in _WRITTEN:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o700)
        if exists:
            for name in names(command):
                (self.folder / name).parent.mkdir(exist_ok=True)
                (self.folder / name).write_bytes(old(name))

    def files(self) -> dict[str, bytes]:
        """Returns the files in the folders that commands write to."""
        found = (path for name in _WRITTEN for path in (self.folder / name).rglob("*") if not path.is_dir())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}


def names(command: Command) -> list[str]:
    """Returns the names of all outputs of a command."""
    return [name for group in command.outputs for name in group]


def old(name: str) -> bytes:
    """Returns the content of an output from before."""
    return f"the old {name}\n".encode() * 50


class Judge:
    """Decides whether what a command left is whole. It learns from two runs without faults what is new."""

    def __init__(self, world: World, command: Command) -> None:
        self._command = command
        runs = []
        for _ in range(2):
            world.run(command)  # Its imports are done then.
            world.prepare(command, exists=False)
            self.calm = world.run(command, files=("count", 0, 0))
            assert self.calm.status == 0, self.calm
            runs.append(world.files())
        self._first, self._second = runs
        self._lines = {name for name in names(command) if name.endswith((".jsonl", ".csv"))}
        self._films = {name for name in names(command) if name.endswith(".mp4")}
        # Outputs that a complete run need not write in the same way. An engine's JSON has the time in seconds.
        varying = {name for name in names(command) if self._first[name] != self._second[name]}
        dated = {name for name in names(command) if name.endswith(".engine.json")}
        self._varying = varying | dated | self._lines | self._films
        extra = self._others(self._first)
        assert not extra, f"{command.name} leaves {extra} without any fault"
        missing = set(names(command)) - set(self._first)
        assert not missing, f"{command.name} does not write {missing}"

    def allow_reports(self) -> None:
        """From now on, reports in JSON may hold other things, such as the images that could not be read."""
        self._varying |= {name for name in names(self._command) if name.endswith(".json")}

    def _others(self, files: Mapping[str, bytes]) -> set[str]:
        return {name for name in set(files) - set(names(self._command)) if not re.fullmatch(self._command.kept, name)}

    def is_new(self, name: str, files: Mapping[str, bytes], as_name: str | None = None) -> bool:
        """Whether an output is complete and new. `as_name`: it has another name still."""
        content = files.get(as_name or name)
        if content is None or content == old(name):
            return False
        if name not in self._varying:
            return content == self._first[name]
        return _is_whole(name, content, self._first[name])

    def left(self, files: Mapping[str, bytes], *, exists: bool, is_interrupted: bool) -> tuple[list[str], set[str]]:
        """Looks at what a run left.

        Args:
            files: The files.
            exists: Whether there were older outputs.
            is_interrupted: Whether the run could not clean up.

        Returns:
            For each group of outputs "old", "new", or "halfway": new files, and the rest under hidden names. Then the
            names of other files.

        Raises:
            AssertionError: Something is neither old nor new.
        """
        if is_interrupted:  # The last line may be a half.
            whole_lines = {name: files[name][: files[name].rfind(b"\n") + 1] for name in self._lines & set(files)}
            files = {**files, **whole_lines}
        states = []
        for group in self._command.outputs:
            # A film replaces an older one before its first image is written.
            begun = [name in self._films and name in files and not _images(files[name]) for name in group]
            was_old = [files.get(name) == (old(name) if exists else None) for name in group]
            was_old = [is_old or is_begun for is_old, is_begun in zip(was_old, begun, strict=True)]
            is_new = [self.is_new(name, files) for name in group]
            waiting = [self.is_new(name, files, _hidden(name)) for name in group]
            if all(was_old) or all(is_new):
                states.append("old" if all(was_old) else "new")
                continue
            whole = [any(state) for state in zip(was_old, is_new, strict=True)]
            assert all(whole), f"neither old nor new: {dict(zip(group, whole, strict=True))}"
            complete = [new or later for new, later in zip(is_new, waiting, strict=True)]
            assert is_interrupted, f"{group}: old {was_old}, new {is_new}"
            assert all(complete), f"{group}: new {is_new}, hidden {waiting}"
            states.append("halfway")
        others = self._others(files)
        if not is_interrupted:
            assert not others, f"left behind: {others}"
        strange = {
            name for name in others if not name.startswith("tmp/") and not _HIDDEN.fullmatch(os.path.basename(name))
        }
        assert not strange, f"left behind: {strange}"
        return states, others


def _hidden(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/.{base}.new"


def _is_whole(name: str, content: bytes, example: bytes) -> bool:
    """Whether a file that differs from run to run is complete."""
    with contextlib.suppress(Exception):
        if name.endswith(".engine.json"):
            return EngineInfo.from_json(content.decode(), origin=name) is not None
        if name.endswith((".jsonl", ".csv")):  # They grow by whole lines.
            return content.endswith(b"\n") and len(content.splitlines()) <= len(example.splitlines())
        if name.endswith(".mp4"):
            return 0 < _images(content) <= _images(example)
        if name.endswith(".json"):
            found, wanted = json.loads(content), json.loads(example)
            return type(found) is type(wanted) and (isinstance(found, list) or list(found) == list(wanted))
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return True
    return False


def _images(film: bytes) -> int:
    """Returns how many images of a film can be played."""
    count = 0
    with contextlib.suppress(av.FFmpegError), av.open(io.BytesIO(film)) as container:
        for _ in container.decode(video=0):
            count += 1
    return count


@contextlib.contextmanager
def fault_world(folder: Path, fill: Callable[[Path], None]) -> Iterator[World]:
    """Starts a runner, compiles the library of faults for it, and fills the folder of the inputs.

    Args:
        folder: An empty folder.
        fill: Writes the inputs to the folder that it is given.

    Yields:
        The world.
    """
    folder = folder.resolve()
    library = folder / "libfaults.so"
    source = ROOT / "tests" / "support" / "faults.c"
    compiler = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-U_FORTIFY_SOURCE"]
    subprocess.run([*compiler, "-o", str(library), str(source), "-ldl"], check=True)
    inputs = folder / "world" / "in"
    inputs.mkdir(parents=True)
    fill(inputs)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "MPLBACKEND": "agg",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH")])),
    }
    runner = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "support" / "fault_runner.py")],
        cwd=folder,  # Elsewhere than the source tree, which has no compiled modules.
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with runner:
        yield World(folder / "world", runner)
        assert runner.stdin is not None
        runner.stdin.close()
