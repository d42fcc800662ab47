"""Fuzzes the import of networks of other frameworks, changed by their structure.

The input is JSON: {"network": "odtk", "edits": [[["graph", "node", 4, "input", 0], "set", "images"], ...]}. A path
leads through the messages of onnx.proto, from the model on. What an edit does: "set" a value, "delete" an entry or a
field, "repeat" an entry, "move" an entry to a place. Edits that do not fit are skipped.
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.convert.importing.importer import import_onnx
    from retinasdk.errors import ModelError

NETWORKS = {  # Name in tests/support/foreign/other_frameworks.py: the framework that is named.
    "raw_heads": "torchvision",
    "flat_heads": "mmdet",
    "odtk": "odtk",
    "keras": "keras-retinanet",
    "mmdeploy": "mmdeploy",
    "mmdeploy_whole": "auto",
    "with_a_function": "torchvision",
}


@functools.cache
def network(name: str) -> bytes:
    """Returns a network as the framework writes it."""
    from foreign import other_frameworks

    return bytes(getattr(other_frameworks, name)()[0].SerializeToString())


def one_input(data: bytes) -> None:
    try:
        case = json.loads(data)
        name, edits = case["network"], list(case["edits"])
        content = edited(network(name), edits)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # No such case.
    with harness.folder_with(theirs_onnx=content, weights_bin=b"\0" * 64) as folder, harness.documented(ModelError):
        import_onnx(folder / "theirs.onnx", folder / "ours.onnx", flavour=NETWORKS[name])


def edited(content: bytes, edits: list[Any]) -> bytes:
    """Returns an ONNX file with these changes."""
    import onnx

    model = onnx.ModelProto.FromString(content)
    for path, kind, value in edits:
        try:
            _edit(model, path, kind, value)
        except (ValueError, TypeError, AttributeError, IndexError, KeyError):
            continue
    return bytes(model.SerializeToString())


def _edit(model: Any, path: list[str | int], kind: str, value: Any) -> None:
    parent = model
    for step in path[:-1]:
        parent = parent[step] if isinstance(step, int) else getattr(parent, step)
    last = path[-1]
    if isinstance(last, str):
        if kind == "delete":
            parent.ClearField(last)
        elif isinstance(getattr(parent, last), bytes):
            setattr(parent, last, str(value).encode()[:64])
        else:
            setattr(parent, last, value)
    elif kind == "delete":
        del parent[last]
    elif kind == "set":
        parent[last] = value
    else:
        entries = list(parent) if isinstance(parent[last], (int, float, str, bytes)) else _copies(parent)
        entry = entries[last] if kind == "repeat" else entries.pop(last)
        entries.insert(int(value) % (len(entries) + 1), entry)
        del parent[:]
        parent.extend(entries)


def _copies(entries: Any) -> list[Any]:
    return [type(entry).FromString(entry.SerializeToString()) for entry in entries]


# -- mutation ----------------------------------------------------------------------------------------------------------

_INTEGERS = (0, 1, -1, 2, 3, 4, 9, 255, 1 << 16, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
_TEXTS = (
    "", "images", "logits_p3", "deltas_p3", "N", "weights.bin", "../x", "\x1b[2J", "é", "x" * 3000, "Loop", "If",
    "Conv", "NonMaxSuppression", "Reshape", "Resize", "com.acme", "ai.onnx.ml", "Constant", "Softmax", "Exp",
)  # fmt: skip


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    """Adds an edit, or drops or changes one."""
    choice = random.Random(seed)
    try:
        case = json.loads(data)
        name, edits = case["network"], list(case["edits"])
        if choice.random() < 0.1 or name not in NETWORKS:
            name = choice.choice(list(NETWORKS))
        if edits and choice.random() < 0.3:
            edits.pop(choice.randrange(len(edits)))
        if len(edits) < 12:
            edits.append(_random_edit(name, choice))
    except (ValueError, TypeError, KeyError, RecursionError):
        name, edits = choice.choice(list(NETWORKS)), []
    return json.dumps({"network": name, "edits": edits}).encode()


@functools.cache
def _parsed(name: str) -> Any:
    import onnx

    return onnx.ModelProto.FromString(network(name))


def _random_edit(name: str, choice: random.Random) -> list[Any]:
    """Walks from the model to a random value, and says what becomes of it."""
    message, path = _parsed(name), []
    while True:
        fields = message.DESCRIPTOR.fields
        is_set = [field for field, _ in message.ListFields() if field.name != "raw_data"]
        field = choice.choice(is_set if is_set and choice.random() < 0.9 else list(fields))
        if not path and choice.random() < 0.8:
            field = message.DESCRIPTOR.fields_by_name["graph"]
        path.append(field.name)
        value = getattr(message, field.name)
        if hasattr(value, "extend"):
            if not len(value) or choice.random() < 0.05:
                return [path, "delete", None]
            at = choice.randrange(len(value))
            path.append(at)
            if choice.random() < 0.3:
                return [path, choice.choice(("delete", "repeat", "move")), choice.randrange(len(value) + 1)]
            value = value[at]
        if hasattr(value, "DESCRIPTOR"):
            if choice.random() < 0.05:
                return [path, "delete", None]
            message = value
            continue
        return [path, "set", _other_value(value, name, choice)]


def _other_value(value: Any, name: str, choice: random.Random) -> Any:
    if isinstance(value, (str, bytes)):
        graph = _parsed(name).graph
        nodes = [choice.choice(graph.node) for _ in range(4)]
        names = [text for node in nodes for text in (*node.input, *node.output, node.op_type)]
        return choice.choice((*names, choice.choice(graph.initializer).name, *_TEXTS))
    if isinstance(value, float):
        return choice.choice((0.0, -1.0, 1e30, -value, value * 2))
    return choice.choice((value + 1, value - 1, -value, value * 2, *_INTEGERS))


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=mutate)
