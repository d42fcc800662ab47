"""Says which files an ONNX model consists of: the file itself, and those that hold its external data.

Note: What is read of a file, and what that costs

    External data can belong to any tensor: initializers, attributes of nodes, sparse tensors, and all of these in
    subgraphs and functions. `external_locations` visits every message that can hold a tensor, and nothing else. It
    visits each field once and keeps none, so its time and memory depend on the number of fields only. That number is
    limited, because each field takes Python about a microsecond, and the fields of a made-up file can have two bytes.
    The largest RetinaNets have some ten thousand fields.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from retinasdk._util.onnx_wire import fields

# The messages of onnx.proto that lead to tensors: the kind of the message in a field, by the number of the field.
# Inputs and outputs of the graph lead to none; they count as fields because they are read when a graph is rewritten.
_CHILDREN = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
    "value": {},
}
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_MAX_FIELDS = 1 << 20  # About a second.


class TooManyFieldsError(ValueError):
    """Says that a file has more fields than any RetinaNet, so that reading it would take long."""


def external_locations(model: memoryview, *, max_fields: int = _MAX_FIELDS) -> set[str]:
    """Returns the names of the files with external data that a model refers to, as they stand in it.

    Args:
        model: The content of an ONNX file.
        max_fields: Number of fields from which the file is refused.

    Raises:
        ValueError: If it is not an ONNX file.
        TooManyFieldsError: If it has more fields. It is a `ValueError`, too.
    """
    found: set[str] = set()
    left = max_fields
    waiting = [("model", model)]
    while waiting:
        kind, message = waiting.pop()
        children = _CHILDREN[kind]
        entry: dict[int, bytes] = {}
        for field in fields(message):
            left -= 1
            if left < 0:
                raise TooManyFieldsError(f"it has more than {max_fields} fields, which no RetinaNet has")
            if field.number in children:
                waiting.append((children[field.number], field.data))
            elif kind == "entry" and field.number in (_ENTRY_KEY, _ENTRY_VALUE):
                entry[field.number] = bytes(field.data)
        if entry.get(_ENTRY_KEY) == b"location":
            found.add(os.fsdecode(entry.get(_ENTRY_VALUE, b"")))
    return found


def model_sha256(path: Path) -> str:
    """Returns the SHA-256 of a model as hexadecimal text: of the ONNX file, followed by those of its external data.

    For a model in one file, it is what `sha256sum` prints. Files of external data follow in the order of their names;
    those that do not exist are left out, because ONNX Runtime refuses such a model itself.

    Args:
        path: The ONNX file. If it is no ONNX file, or has over a million fields, it counts alone.

    Raises:
        OSError: If a file cannot be read.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    try:
        locations = external_locations(memoryview(content))
    except ValueError:
        locations = set()
    for location in sorted(locations):
        data = path.parent / location
        if data.is_file():  # Not a device, which may have no end.
            with open(data, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
