"""Writing files together in folders and on file systems that cannot do everything."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from retinasdk._util.files import write_together

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders have no descriptors there")


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_can_be_written_but_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root user, for whom permissions do not count, may run the tests. Therefore the refusal is injected."""
    real = os.open

    def refuse(path: Any, flags: int, *others: Any, **options: Any) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "no reading", str(path))
        return real(path, flags, *others, **options)

    monkeypatch.setattr(os, "open", refuse)
    write_together({tmp_path / "model.onnx": b"1", tmp_path / "model.json": b"2"})
    assert written(tmp_path) == {"model.onnx": b"1", "model.json": b"2"}


def fail_for_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_for_folders(monkeypatch, number)
    write_together({tmp_path / "model.onnx": b"1", tmp_path / "model.json": b"2"})
    assert written(tmp_path) == {"model.onnx": b"1", "model.json": b"2"}


def test_a_disk_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"model.onnx": b"old 1", "model.json": b"old 2"}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    fail_for_folders(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_together({tmp_path / "model.onnx": b"1", tmp_path / "model.json": b"2"})
    assert written(tmp_path) == old


def test_without_hard_links_a_file_that_failed_to_change_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no copy of the first file to go back to. It is new and whole, and no file is gone."""
    for name in ("model.onnx", "model.json"):
        (tmp_path / name).write_bytes(b"old")
    real = os.replace

    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no hard links")

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == "model.json":
            raise OSError(errno.EIO, "no renaming")
        real(source, target)

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no renaming"):
        write_together({tmp_path / "model.onnx": b"new", tmp_path / "model.json": b"new"})
    assert written(tmp_path) == {"model.onnx": b"new", "model.json": b"old"}
