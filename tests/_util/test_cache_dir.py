"""The folder of caches: where it is, what replaces it, and that its packages are imported late."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from retinasdk._util import cache_dir as module
from retinasdk._util.cache_dir import cache_dir


def test_the_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "own" / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own" / "cache"
    assert cache_dir().is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")
def test_the_user_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETINASDK_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "retinasdk"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "retinasdk"


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETINASDK_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: Path("~/.cache/retinasdk"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_dir().parent == tmp_path


def test_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    user = (tmp_path / "file").stat().st_uid
    monkeypatch.setattr(module.os, "getuid", lambda: user + 1)
    module._fallback.cache_clear()
    with pytest.raises(PermissionError, match=r"belongs to another user\. Set RETINASDK_CACHE to a folder of your own"):
        cache_dir()


def test_packages_are_imported_late(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run_python(["-c", "import sys, retinasdk; print({'platformdirs', 'filelock'} & set(sys.modules))"])
    assert done.stdout.strip() == "set()", done.stderr
