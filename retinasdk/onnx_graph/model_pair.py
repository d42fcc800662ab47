"""An ONNX file and its spec as one thing: written together, and read together or refused.

Note: How a spec is known to belong to an ONNX file

    The spec beside an ONNX file (`people.json`) has the SHA-256 of the ONNX file, `onnx_sha256`. It is a hash of the
    network, not of the spec: labels, thresholds and everything else in the JSON file can be edited by hand. If the hash
    does not fit, an update was interrupted, or one of the two files was copied alone. Then the spec of an interrupted
    update is used if it is there (_util/files.py), and otherwise the pair is refused.

    Spec files without a hash were written by older versions, by hand, or by `ModelSpec.save` without `onnx`. They are
    used as they are if the ONNX file has no spec inside. If it has one, rules that follow from the network must be the
    same in both. Anything else may differ, because it may have been edited, and one line in the log says that it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from retinasdk._util.files import waiting, write_together
from retinasdk._util.json_text import parse_json
from retinasdk._util.onnx_files import model_sha256
from retinasdk.errors import ModelError
from retinasdk.spec import METADATA_KEY, ONNX_SHA256, ModelSpec, spec_text

_T = TypeVar("_T")
_log = logging.getLogger("retinasdk")

# These follow from the network and its training, so nobody edits them to get other detections.
_NETWORK_RULES = ("input", "levels", "box_coder", "normalise", "inclusive_pixels")
_ATTEMPTS = 5
_NO_RULES = ("name", "flavour", "source")  # They have no effect on the results.


def write_model(path: Path, content: bytes, spec: ModelSpec) -> None:
    """Writes an ONNX file with its spec beside it, all or none.

    Args:
        path: The ONNX file to write. The spec is written beside it, with the suffix .json.
        content: The ONNX file, without external data.
        spec: The spec, which must also be in the metadata of the file.

    Raises:
        OSError: If they cannot be written. Existing files are then unchanged.
    """
    text = spec.to_json(onnx_sha256=hashlib.sha256(content).hexdigest())
    write_together({path: content, path.with_suffix(".json"): text.encode()})


def read_unchanged(path: Path, read: Callable[[], _T]) -> _T:
    """Calls a function that reads an ONNX file and its spec, and calls it again if the file is replaced meanwhile.

    Raises:
        ModelError: If the file changes each time.
    """
    for _ in range(_ATTEMPTS):
        before = _identity(path)
        result = read()
        if _identity(path) == before:
            return result
    raise ModelError(
        f"{path} changes while it is read, {_ATTEMPTS} times in a row. Wait until it is written, try again"
    )


def spec_beside(path: Path, metadata: Mapping[str, str]) -> ModelSpec | None:
    """Reads the spec beside an ONNX file, and checks that it belongs to it.

    Args:
        path: The ONNX file.
        metadata: Its metadata.

    Returns:
        The spec, or None if there is no file.

    Raises:
        ModelError: If it cannot be read, is not valid, or does not belong to the ONNX file.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None
    spec, recorded = _read(beside)
    if recorded is None:
        if METADATA_KEY in metadata:
            _compare(path, spec, ModelSpec.from_json(metadata[METADATA_KEY], origin=f"{path}, metadata {METADATA_KEY}"))
        return spec
    found = model_sha256(path)
    if recorded == found:
        return spec
    for unfinished in (waiting(beside), beside):  # Its writer was killed, or was not ready and may be by now.
        with contextlib.suppress(ModelError):
            spec, recorded_there = _read(unfinished)
            if recorded_there == found:
                return spec
    raise ModelError(
        f"{beside} belongs to another ONNX file than {path.name}: it was written for the one with SHA-256 "
        f"{recorded[:12]}..., this one has {found[:12]}.... Copy both files of the model together. "
        f"{_cure(path, metadata)}"
    )


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> tuple[ModelSpec, str | None]:
    """Reads a spec file once, with the hash of the ONNX file that it belongs to, if it has one."""
    text = spec_text(path)
    return ModelSpec.from_json(text, origin=str(path)), parse_json(text).get(ONNX_SHA256)


def _compare(path: Path, beside: ModelSpec, inside: ModelSpec) -> None:
    """Compares a spec that does not say which ONNX file it belongs to with the one in the ONNX file."""
    rules = [item.name for item in dataclasses.fields(ModelSpec) if item.name not in _NO_RULES]
    names = [name for name in rules if getattr(beside, name) != getattr(inside, name)]
    text = f"{path.with_suffix('.json')} differs from the spec in {path.name} in {', '.join(names)}"
    if set(names) & set(_NETWORK_RULES) or len(beside.labels) != len(inside.labels):
        raise ModelError(f"{text}, so it seems to belong to another ONNX file. {_cure(path, {METADATA_KEY: ''})}")
    if names:
        _log.warning("%s, and is used. If you edited it, say so, and this line goes away: %s", text, _bind(path))


def _cure(path: Path, metadata: Mapping[str, str]) -> str:
    record = f"If {path.with_suffix('.json').name} is right for this ONNX file, record that: {_bind(path)}"
    if METADATA_KEY not in metadata:
        return record
    return f"To use the spec inside {path.name}: {shlex.join(['rm', str(path.with_suffix('.json'))])}. {record}"


def _bind(path: Path) -> str:
    spec = str(path.with_suffix(".json"))
    code = f"from retinasdk import ModelSpec; ModelSpec.load({spec!r}).save({spec!r}, onnx={str(path)!r})"
    return shlex.join(["python", "-c", code])
