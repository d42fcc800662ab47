"""The folder of caches: where it is, what replaces it, and that its packages are imported late."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retinasdk._util import cache_dir as module
from retinasdk._util.cache_dir import cache_dir

posix = pytest.mark.skipif(sys.platform == "win32", reason="folders have no modes there")


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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder among the temporary files that replaces the usual one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    module._fallback.cache_clear()
    yield module._temporary()
    module._fallback.cache_clear()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private folder, as $RETINASDK_CACHE."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("RETINASDK_CACHE", str(folder))
    return folder


@posix
def test_a_new_folder_is_private(own: Path) -> None:
    own.rmdir()
    umask = os.umask(0)
    try:
        assert stat.S_IMODE(cache_dir().stat().st_mode) == 0o700
    finally:
        os.umask(umask)


@posix
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o755, 0o710, 0o701])
def test_a_folder_that_others_can_use(mode: int, own: Path, temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    own.chmod(mode)
    assert cache_dir() == temporary
    assert stat.S_IMODE(own.stat().st_mode) == mode  # Its files may be of someone else already.
    cure = f"others can use it, its mode is {mode:o}; if all files in it are yours, run: chmod 700 {own}"
    assert cure in caplog.text
    own.chmod(0o700)
    assert cache_dir() == own


@posix
def test_a_link(own: Path, temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    own.rename(own.with_name("elsewhere"))
    own.symlink_to(own.with_name("elsewhere"))
    assert cache_dir() == temporary
    assert f"it is a link; set RETINASDK_CACHE to the folder itself: {own.with_name('elsewhere')}" in caplog.text


@posix
def test_a_folder_of_another_user(
    own: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    user = os.getuid()
    if user == 0:
        os.chown(own, 1, -1)
    else:  # Only root can make a folder of another user, so this process is another one.
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        temporary.mkdir(mode=0o700)
        monkeypatch.setattr(module, "_temporary", lambda: temporary)
        monkeypatch.setattr(module, "_fallback", lambda preferred, why: module._log.warning(why) or temporary)
    assert cache_dir() == temporary
    assert f"it belongs to another user, number {own.stat().st_uid}" in caplog.text


@posix
@pytest.mark.parametrize("kind", ["open", "link"])
def test_no_folder_can_be_used(kind: str, own: Path, temporary: Path) -> None:
    """Another user made the folder among the temporary files, so no cache is used at all."""
    own.chmod(0o755)
    if kind == "open":
        temporary.mkdir()
        temporary.chmod(0o777)
    else:
        temporary.symlink_to(own)
    message = (
        rf"No folder of caches can be used: not {own} \(others can use it.*, and not {temporary} \(.*"
        r"Set RETINASDK_CACHE to a private folder of your own: mkdir -m 700 -p"
    )
    with pytest.raises(PermissionError, match=message):
        cache_dir()


@posix
def test_without_a_home_the_same_is_checked(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the folder among the temporary files is the usual one."""
    monkeypatch.delenv("RETINASDK_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: Path("~/.cache/retinasdk"))
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(PermissionError, match="others can use it, its mode is 777"):
        cache_dir()


def test_packages_are_imported_late(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run_python(["-c", "import sys, retinasdk; print({'platformdirs', 'filelock'} & set(sys.modules))"])
    assert done.stdout.strip() == "set()", done.stderr
