"""Files on local disks and in object stores, through the file systems of pyarrow."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retinasdk._util.files import write_atomically
from retinasdk._util.lazy import require
from retinasdk.detections import Detections
from retinasdk.errors import ImageError
from retinasdk.images import SUFFIXES

_READERS = 8  # threads, because an object store answers a single reader slowly
_AHEAD = 16
# A file in these appears when it is complete. In others, it is written under another name first.
_OBJECT_STORES = ("s3", "gcs", "abfs")

Result = Detections | Exception


def find_images(images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], filesystem: Any) -> list[str]:
    """Lists images: those of folders and the folders inside them, and files.

    Args:
        images: Paths or URIs. What ends like the name of an image is one, and is not looked at; others are folders.
        filesystem: The pyarrow file system of the paths. None: of their URIs, or the local one.

    Returns:
        The paths, each once, absolute if they are local. Those of a folder are sorted.

    Raises:
        ImageError: If there is no such folder, or no image in it.
    """
    given = [images] if isinstance(images, (str, os.PathLike)) else images
    found: dict[str, None] = {}
    for item in (absolute(path, filesystem) for path in given):
        if item.lower().endswith(SUFFIXES):
            found[item] = None
        else:
            found.update(dict.fromkeys(_inside(item, filesystem)))
    if not found:
        raise ImageError("there are no images to detect in; give folders or files")
    return list(found)


def _inside(folder: str, filesystem: Any) -> list[str]:
    fs = require("pyarrow.fs", "retinasdk.ray")
    system, path = resolve(folder, filesystem)
    try:
        entries = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"{folder}: no such folder, and not the name of an image ({', '.join(SUFFIXES)})") from error
    start = folder.rstrip("/")
    inside = path.rstrip("/")
    names = sorted(
        start + entry.path[len(inside) :]
        for entry in entries
        if entry.type == fs.FileType.File and entry.path.lower().endswith(SUFFIXES)
    )
    if not names:
        raise ImageError(f"{folder}: no images in this folder")
    return names


def absolute(path: str | os.PathLike[str], filesystem: Any) -> str:
    """Returns the path as other machines find it: workers have other current folders."""
    text = os.fspath(path)
    return text if filesystem is not None or "://" in text else os.path.abspath(text)


def resolve(path: str, filesystem: Any) -> tuple[Any, str]:
    """Returns the pyarrow file system of a path or URI, and the path in it."""
    if filesystem is not None:
        return filesystem, path
    if "://" not in path or path.startswith("file:///"):
        return require("pyarrow.fs", "retinasdk.ray").LocalFileSystem(), path.removeprefix("file://")
    start = path[: path.index("://") + 3] + urlsplit(path).netloc
    system, base = _system(start)
    return system, base.rstrip("/") + path[len(start) :]


@functools.lru_cache(maxsize=16)
def _system(start: str) -> tuple[Any, str]:
    system, base = require("pyarrow.fs", "retinasdk.ray").FileSystem.from_uri(start)
    return system, str(base)


def detect_each(
    images: Sequence[Any], detect: Callable[[Iterator[Any]], Iterator[Result]], filesystem: Any
) -> list[Result]:
    """Detects in images that may be paths, and reads files beforehand that are not on a local disk.

    Args:
        images: Paths, URIs, bytes of image files, or arrays.
        detect: Yields a result for each image that a detector can take.
        filesystem: The pyarrow file system of the paths. None: of their URIs, or the local one.

    Returns:
        For each image, its detections or the exception that it raised.
    """
    results: list[Result] = []

    def readable() -> Iterator[Any]:
        for content in _contents(images, filesystem):
            if isinstance(content, Exception):
                results.append(content)
            else:
                results.append(_WAITING)
                yield content

    waiting = 0
    found = list(detect(readable()))
    for position, result in enumerate(results):
        if result is _WAITING:
            results[position] = found[waiting]
            waiting += 1
    return results


_WAITING = LookupError("not detected yet")


def _contents(images: Sequence[Any], filesystem: Any) -> Iterator[Any]:
    """Yields what a detector takes for each image, or the exception that reading its file raised."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="retinasdk-read") as pool:
        pending: deque[Future[Any]] = deque()
        try:
            for image in images:
                pending.append(pool.submit(_content, image, filesystem))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _content(image: Any, filesystem: Any) -> Any:
    if not isinstance(image, str):
        return image if image is not None else ImageError("there is no image: the value is null")
    if filesystem is None and "://" not in image:
        return image  # The detector reads it, in parts if it is large and cut into tiles.
    try:
        system, path = resolve(image, filesystem)
        with system.open_input_file(path) as file:
            return file.read()
    except (OSError, ValueError) as error:
        return ImageError(f"{image}: cannot be read: {error}")


class OutputFolder:
    """Reads and writes files in one folder, each completely or not at all."""

    def __init__(self, folder: str, filesystem: Any) -> None:
        self.name = folder
        self._filesystem = filesystem
        self._system, self._path = resolve(folder, filesystem)
        self._is_local = self._system.type_name == "local"
        self._system.create_dir(self._path, recursive=True)

    def __reduce__(self) -> Any:
        return OutputFolder, (self.name, self._filesystem)

    def names(self) -> set[str]:
        """Returns the names of the files in the folder."""
        selector = require("pyarrow.fs", "retinasdk.ray").FileSelector(self._path)
        return {entry.base_name for entry in self._system.get_file_info(selector)}

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        with self._system.open_input_file(f"{self._path}/{name}") as file:
            return bytes(file.read())

    def write(self, name: str, content: bytes) -> None:
        """Writes a file. If it exists, it is replaced."""
        target = f"{self._path}/{name}"
        if self._is_local:
            write_atomically(Path(target), content)
            return
        is_complete = self._system.type_name in _OBJECT_STORES
        first = target if is_complete else f"{self._path}/.{name}.{os.getpid()}.new"
        with self._system.open_output_stream(first) as file:
            file.write(content)
        if not is_complete:
            self._system.move(first, target)

    def delete(self, name: str) -> None:
        """Deletes a file, unless another worker has deleted it."""
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_file(f"{self._path}/{name}")
