"""Arguments that name files, and the rule that protects those files, the same for all commands.

Each command declares what it reads and what it writes: `add_argument(..., action=Input)` and `action=Output`. Before a
command runs, `check_files` makes sure that

- no output replaces an input, a model (with its spec and weights) or another output of the same command;
- an existing file is replaced only with `--overwrite`;
- each output can be written.

Files are compared by what they are, not by name: links, hard links and names that differ in case only are the same.
"""

from __future__ import annotations

import argparse
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from retinasdk.cli.output import STANDARD_OUTPUT, check_file

Files: TypeAlias = Callable[[Any, argparse.Namespace], Iterable["str | os.PathLike[str]"]]
_Identity: TypeAlias = "tuple[int, int] | tuple[str, str]"

# Of the files in a folder that a command reads, those that it may read. A report of an earlier run is none of them.
_READ_IN_FOLDERS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *(".db3", ".mcap", ".yaml", ".yml", ".zstd"),
)


def _as_given(value: Any, _: argparse.Namespace) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _FileAction(argparse.Action):
    def __init__(self, *args: Any, files: Files = _as_given, **options: Any) -> None:
        super().__init__(*args, **options)
        self._files = files

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)

    @property
    def title(self) -> str:
        """Returns the name of the argument for messages."""
        return self.option_strings[-1] if self.option_strings else str(self.metavar)

    def paths(self, arguments: argparse.Namespace) -> list[Path]:
        """Returns the files of this argument."""
        value = getattr(arguments, self.dest)
        paths = [] if value is None else [Path(path) for path in self._files(value, arguments)]
        return [path for path in paths if path != STANDARD_OUTPUT]


class Input(_FileAction):
    """Stores what names files or folders that the command reads.

    Args:
        files: Returns the paths, from the value and all arguments. Defaults to the value itself. Paths that do not
            exist are no inputs.
    """


class Output(_FileAction):
    """Stores what names files that the command writes.

    Args:
        files: Returns every file that is written, from the value and all arguments. Defaults to the value itself.
        is_folder: The value is a folder, which the command creates if necessary.
        is_stream: The file is written in place, so it may be a device or a pipe.
    """

    def __init__(self, *args: Any, is_folder: bool = False, is_stream: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_folder, self.is_stream = is_folder, is_stream


def add_overwrite(group: argparse._ArgumentGroup) -> None:
    """Adds `--overwrite`, which every command with an `Output` has."""
    group.add_argument(
        "--overwrite", action="store_true", help="replace output files that exist; default: refuse to replace them"
    )


def model_files(value: Any, _: argparse.Namespace) -> Iterator[Path]:
    """Yields the files of models: network, spec and the usual names of external weights."""
    from retinasdk.models import list_models

    bundled = {model.name: model.path for model in list_models()}
    for name in value if isinstance(value, list) else [value]:
        path = bundled.get(str(name), Path(name))
        yield path
        if path.name:  # "." has none.
            yield path.with_suffix(".json")
            yield from (path.with_name(path.name + end) for end in (".json", ".data", "_data"))


def with_spec(value: Path, _: argparse.Namespace) -> list[Path]:
    """Returns an ONNX file that is written and the spec beside it."""
    return [value, value.with_suffix(".json")]


def check_files(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Checks the files of a command before its work.

    Args:
        parser: The parser of the command.
        arguments: The parsed arguments.

    Raises:
        ValueError: An output would replace an input or another output, exists and must not be replaced, or cannot be
            written.
    """
    outputs = [
        (action, path) for action in parser._actions if isinstance(action, Output) for path in action.paths(arguments)
    ]
    inputs: set[_Identity] = set()
    if outputs:
        given = [path for action in parser._actions if isinstance(action, Input) for path in action.paths(arguments)]
        inputs |= {_identity(path) for path in given if _exists(path)}
        if any(_exists(path) for _, path in outputs):
            inputs |= {_identity(path) for folder in given for path in _inside(folder)}
    seen: dict[_Identity, Output] = {}
    existing = []
    for action, path in outputs:
        identity = _identity(path)
        if identity in inputs:
            raise ValueError(f"{path}: {action.title} would replace an input of this command; choose another name")
        if identity in seen:
            other = seen[identity].title
            both = f"{other} and {action.title} would both" if other != action.title else f"{other} would twice"
            raise ValueError(f"{path}: {both} write this file; choose another name")
        seen[identity] = action
        if not action.is_folder:
            check_file(path)
        if _exists(path) and not (action.is_stream and not path.is_file()):
            existing.append((action, path))
    for action, path in existing:
        if not path.is_file():
            raise ValueError(f"{path}: this is a folder, a device or a pipe, which {action.title} cannot replace")
    if existing and not arguments.overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise ValueError(
            f"{existing[0][1]}: this file exists already{more}; add --overwrite to replace it, or choose another name"
        )


def _identity(path: Path) -> _Identity:
    """Returns what two names of one file have in common."""
    found = _status(path)
    if found is not None:
        return found.st_dev, found.st_ino
    # Some file systems take names that differ in case, or in the form of their accents, for the same file.
    return os.path.realpath(path.parent), unicodedata.normalize("NFC", path.name).casefold()


def _exists(path: Path) -> bool:
    return _status(path) is not None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # No such file; or the pipeline of a camera, which is no name of a file.
        return None


def _inside(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder that a command may read."""
    found = _status(folder)
    if found is not None and stat.S_ISDIR(found.st_mode):
        for place, _, names in os.walk(folder):
            yield from (Path(place, name) for name in names if name.lower().endswith(_READ_IN_FOLDERS))
