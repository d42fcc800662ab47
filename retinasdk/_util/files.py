"""Writes files completely or not at all.

Note: What a killed process leaves

    Each file is written under a hidden name beside it (`.model.onnx.new`) and reaches the disk, and so does the folder,
    before the first name changes. Then the files get their names one after the other, in the order in which they were
    given. A process that is killed with SIGKILL, or a power failure, leaves one of these states:

    - before the first rename: the old files, and hidden ones;
    - between two renames: some new files, some old ones, and the hidden files of the latter, which are complete;
    - after the last rename: the new files.

    No file system can rename two files at once, so the middle state cannot be avoided. It is recognized: the last file
    of each pair carries a hash of the first. A reader that finds that they do not fit looks for the hidden file
    (`waiting`), whose hash fits, and so gets the new pair. The next write of the same files renames those files first,
    because it may be killed as well, and deletes all others that it finds. So does `finish_killed_write`, for files
    that may not be written again, as those of caches.

    A write that fails, or is interrupted with Ctrl-C, restores the old files from hard links (`.model.onnx.old`), which
    cost no copy. Where the file system has none, the files stay apart as after a kill, and the hash tells.

Note: Two writers

    Writers lock the folder itself (flock), which leaves no lock file behind, and which the system releases when a
    process dies. So only one process writes in a folder, hidden files found there belong to nobody, and files of two
    writers are never mixed. Windows and some network file systems cannot lock folders. There the hidden names are
    random, leftovers stay, and only the hash tells that the files of a pair come from two writers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file through a temporary file beside it.

    Args:
        path: The file to write. If it exists, it is replaced.
        content: The bytes to write.

    Raises:
        OSError: If it cannot be written. An existing file is then unchanged.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files that belong together, all or none, each through a temporary file beside it.

    Args:
        contents: The bytes to write, by path. All paths must be in one folder. Existing files are replaced. For a pair,
            give the file that carries the hash of the other last.

    Raises:
        OSError: If a file cannot be written. Existing files are then unchanged.
    """
    (folder,) = {path.parent for path in contents}
    with _locked(folder) as lock:
        mark = f"{secrets.token_hex(4)}." if lock is None else ""
        new = {path: _hidden(path, f"{mark}new") for path in contents}
        old = {path: _hidden(path, f"{mark}old") for path in contents}
        try:
            _finish(new, old)
            for path, content in contents.items():
                _write(new[path], content)
            for path in contents:  # Checks what could still fail before the first file is replaced.
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            _sync(lock)
            _replace(new, old, lock)
        finally:
            with contextlib.suppress(OSError):  # The files are whole, and the next write removes the others.
                _clear(new, old)


def waiting(path: Path) -> Path:
    """Returns the path of the complete file that a killed `write_together` could not rename to `path` any more."""
    return _hidden(path, "new")


def finish_killed_write(*paths: Path) -> None:
    """Completes or removes what a killed `write_together` of these files left.

    Does nothing if another process writes them without a lock, or if the folder cannot be changed.

    Args:
        *paths: The files, in the order in which they are written.
    """
    new = {path: _hidden(path, "new") for path in paths}
    old = {path: _hidden(path, "old") for path in paths}
    if not any(map(os.path.lexists, (*new.values(), *old.values()))):
        return
    with contextlib.suppress(OSError), _locked(paths[0].parent) as lock:
        if lock is not None:
            _finish(new, old)


def _hidden(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """Locks a folder against other writers, and yields its descriptor. None: it cannot be locked."""
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # A folder can allow writing without reading.
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield None
        else:
            try:
                yield descriptor
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # A forked child may hold the descriptor, too.
    finally:
        os.close(descriptor)


def _finish(new: Mapping[Path, Path], old: Mapping[Path, Path]) -> None:
    """Ends the write of a killed process, if it was between two renames, and deletes what it left."""
    first, *others = new
    is_renamed = os.path.lexists(old[first])
    if others and not any(map(os.path.lexists, others)):  # There were no older files, so none has a second link.
        is_renamed = os.path.lexists(first)
    if is_renamed and not os.path.lexists(new[first]):
        for path, file in new.items():
            if os.path.lexists(file):
                os.replace(file, path)
    _clear(new, old)


def _clear(new: Mapping[Path, Path], old: Mapping[Path, Path]) -> None:
    # In this order. Otherwise `_finish` would take a process that is killed here for one between two renames.
    for path in (*old.values(), *reversed([*new.values()])):
        _unlink(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: int | None) -> None:
    """Brings the names in a folder to the disk. Without a descriptor, that is left to the system."""
    if folder is None:
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot do it for folders
            raise


def _replace(new: Mapping[Path, Path], old: Mapping[Path, Path], lock: int | None) -> None:
    existed = {path for path in new if os.path.lexists(path)}
    try:
        for path, file in new.items():
            # There may be no old file, and some file systems have no hard links: then there is no way back.
            with contextlib.suppress(OSError, NotImplementedError):
                os.link(path, old[path], follow_symlinks=False)
            os.replace(file, path)
            _sync(lock)  # Also after a power failure, the files have changed in this order.
    except BaseException:
        for path in reversed(tuple(new)):
            if os.path.lexists(new[path]):  # It was not renamed.
                continue
            if os.path.lexists(old[path]):
                os.replace(old[path], path)
            elif path not in existed:
                _unlink(path)
        raise
