"""Files that belong together: all or none under faults, SIGKILL and several writers."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pair_writer
import pytest
from pair_writer import pair

from retinasdk._util import files
from retinasdk._util.files import finish_killed_write, waiting, write_atomically, write_together

posix = pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def versions(folder: Path) -> tuple[bytes, bytes]:
    """The first lines of the two files."""
    first, second = ((folder / name).read_bytes().splitlines()[0] for name in ("model.onnx", "model.json"))
    return first, second


def is_one_pair(folder: Path) -> bool:
    """Whether the files are whole and of one version, counting the hidden second file of a killed writer."""
    first = (folder / "model.onnx").read_bytes()
    name, version = first.splitlines()[0].decode().split()
    (whole, text) = pair(folder, name, int(version)).values()
    assert first == whole
    second = folder / "model.json"
    return any(path.exists() and path.read_bytes() == text for path in (second, waiting(second)))


@contextmanager
def writer(folder: Path, name: str, *rounds: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, pair_writer.__file__, str(folder), name, *map(str, rounds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def kill_at_random_moments(folder: Path, times: int) -> set[bool]:
    """Kills writers, checks what each leaves, and returns whether hidden files were needed."""
    seed = random.Random(1)
    write_together(pair(folder, "first", 0))
    needed = set()
    for number in range(times):
        with writer(folder, f"writer{number}") as process:
            time.sleep(seed.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert is_one_pair(folder)
        needed.add(len(set(versions(folder))) == 2)
        assert set(contents(folder)) <= {
            "model.onnx",
            "model.json",
            *(f".{name}.{ending}" for name in ("model.onnx", "model.json") for ending in ("new", "old")),
        }
    write_together(pair(folder, "last", 1))
    assert contents(folder) == {path.name: content for path, content in pair(folder, "last", 1).items()}
    return needed


class Killed(BaseException):
    """Raised in place of SIGKILL. Nothing is cleaned up then."""


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_killed_between_any_two_calls_and_then_again(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writer finds what the first one left. Both are killed at every call that changes the folder."""

    def is_whole() -> bool:
        return is_one_pair(tmp_path) if exists or (tmp_path / "model.onnx").exists() else True

    names = ("link", "replace", "unlink", "fsync")
    real: dict[str, Callable[..., object]] = {name: getattr(os, name) for name in names}
    real["fsync"] = lambda descriptor: None  # Thousands of them would take a while.
    monkeypatch.setattr(os, "fsync", real["fsync"])

    def killed_at(number: int, version: int) -> bool:
        left = [number]

        def counted(name: str) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real[name](*arguments, **options)

            return call

        with monkeypatch.context() as patched:
            for name in names:
                patched.setattr(os, name, counted(name))
            try:
                write_together(pair(tmp_path, "writer", version))
            except Killed:
                return True
        return False

    for first in range(40):
        for second in range(40):
            for path in tmp_path.iterdir():
                path.unlink()
            if exists:
                write_together(pair(tmp_path, "first", 0))
            again = killed_at(first, 7)
            assert is_whole()
            twice = killed_at(second, 14)
            assert is_whole()
            if not twice:
                break
        assert set(contents(tmp_path)) == {"model.onnx", "model.json"}
        if not again:
            return
    pytest.fail("it never succeeds")


@posix
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("number", range(10))
def test_what_a_killed_writer_left_can_be_finished(
    exists: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As caches do, whose files may never be written again."""
    paths = tuple(pair(tmp_path, "first", 0))
    if exists:
        write_together(pair(tmp_path, "first", 0))
    for call in ("link", "replace", "unlink"):
        monkeypatch.setattr(os, call, Faulty(getattr(os, call), number, Killed(), after=False))
    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(files, "_clear", lambda new, old: None)
        write_together(pair(tmp_path, "second", 7))
    monkeypatch.undo()
    is_there = exists or (tmp_path / "model.onnx").exists()
    finish_killed_write(*paths)
    assert set(contents(tmp_path)) == ({path.name for path in paths} if is_there else set())
    assert is_one_pair(tmp_path) if is_there else True
    finish_killed_write(*paths)  # There is nothing to do.


@posix
def test_killed_at_random_moments(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, 10)


@posix
@pytest.mark.heavy
def test_killed_at_200_random_moments(tmp_path: Path) -> None:
    kill_at_random_moments(tmp_path, 200)


def two_writers(folder: Path, rounds: int) -> None:
    with writer(folder, "one", rounds) as one, writer(folder, "two", rounds) as two:
        assert one.wait() == two.wait() == 0
    first, second = versions(folder)
    assert first == second
    assert is_one_pair(folder)
    assert set(contents(folder)) == {"model.onnx", "model.json"}


@posix
def test_two_writers(tmp_path: Path) -> None:
    two_writers(tmp_path, 20)


@posix
@pytest.mark.heavy
def test_two_writers_100_times(tmp_path: Path) -> None:
    for _ in range(100):
        two_writers(tmp_path, 3)


@posix
def test_every_state_of_two_writers(tmp_path: Path) -> None:
    """A reader in between never sees files of different writers, but for the moment between two renames."""
    write_together(pair(tmp_path, "first", 0))
    with writer(tmp_path, "one", 40) as one, writer(tmp_path, "two", 40) as two:
        while one.poll() is None or two.poll() is None:
            with files._locked(tmp_path):
                first, second = versions(tmp_path)
            assert first == second


class InterruptedByUser(BaseException):
    """Like KeyboardInterrupt, it is no Exception."""


class Faulty:
    """A function of the system whose n-th call fails, before or after its work. `failed`: it has."""

    def __init__(self, call: Callable[..., object], number: int, error: BaseException, *, after: bool) -> None:
        self.failed = False
        self._call, self._left, self._error, self._after = call, number, error, after

    def __call__(self, *arguments: object, **options: object) -> None:
        self._left -= 1
        if self._left != -1:
            self._call(*arguments, **options)
            return
        self.failed = True
        if self._after:
            self._call(*arguments, **options)
        raise self._error


@posix
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "fault"), InterruptedByUser()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("exists", [True, False])
def test_each_call_that_fails(
    call: str, exists: bool, error: BaseException, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call, the second, and so on until none fails any more."""
    new = {path.name: content for path, content in pair(tmp_path, "new", 2).items()}
    for number in range(20):
        for path in tmp_path.iterdir():
            path.unlink()
        if exists:
            write_together(pair(tmp_path, "old", 1))
        old = contents(tmp_path)
        faulty = Faulty(getattr(os, call), number, error, after=after)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, faulty)
            with contextlib.suppress(OSError, InterruptedByUser):
                write_together(pair(tmp_path, "new", 2))
                old = new
        assert contents(tmp_path) == old
        if not faulty.failed:
            assert old == new
            assert number >= 2
            break
    else:
        pytest.fail("it never succeeds")


def test_names_change_when_the_data_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        steps.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    if sys.platform == "linux":
        assert steps == ["file", "file", "folder", "a", "folder", "b", "folder"]


@posix
def test_leftovers_are_no_links_to_follow(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".out.new").symlink_to(victim)
    (tmp_path / ".out.old").symlink_to(victim)
    write_atomically(tmp_path / "out", b"new")
    assert contents(tmp_path) == {"victim": b"precious", "out": b"new"}


@posix
def test_a_folder_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems: everything works but the lock, and hidden names are random."""
    import fcntl

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".model.json.new").write_bytes(b"of another writer")
    write_together(pair(tmp_path, "new", 3))
    assert is_one_pair(tmp_path)
    assert set(contents(tmp_path)) == {"model.onnx", "model.json", ".model.json.new"}


def test_a_folder_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_together(pair(tmp_path, "new", 3))
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
