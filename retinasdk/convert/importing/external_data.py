"""Loads weights that an ONNX file keeps in other files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinasdk.errors import ModelError


def tensors_of(graph: Any) -> Iterator[Any]:
    """Yields every onnx.TensorProto of a graph: initializers and attributes, including those of inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors_of(inner)


def load_external_data(onnx: Any, model: Any, path: Path) -> None:
    """Loads weights that are stored in other files. Those files must be inside the folder of the model.

    Raises:
        ModelError: One of the files is missing, too short, outside that folder, or a link that ONNX does not follow.
    """
    folder = path.resolve().parent
    for tensor in tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {item.key: item.value for item in tensor.external_data}
        location = entries.get("location", "")
        what = f"{path}: the weights {tensor.name!r} are stored in {location!r}"
        try:
            _check_place(folder, location, entries, what)
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except ModelError:
            raise
        except Exception as error:  # A hard link, a name with a zero byte: ONNX has an error class for each.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"{what}, which cannot be read ({reason}). Export the network again, or copy that file (cp) in place "
                "of a link"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _check_place(folder: Path, location: str, entries: dict[str, str], what: str) -> None:
    target = (folder / location).resolve()  # Links are followed, so that a link cannot lead out of the folder.
    if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
        raise ModelError(f"{what}, outside the folder of the model. Copy the weights into that folder and export again")
    if not target.is_file():
        raise ModelError(f"{what}, which does not exist. Copy that file into the folder of the model")
    size = target.stat().st_size
    numbers = [entries.get("offset", "0"), entries.get("length", str(size))]
    if not all(text.isascii() and text.isdigit() for text in numbers):
        raise ModelError(
            f"{what}, at byte {numbers[0]!r} with the length {numbers[1]!r}, which are no numbers from 0 on. Export "
            "the network again"
        )
    offset, length = (int(text[:20]) for text in numbers)
    if offset + (length if "length" in entries else 0) > size:
        raise ModelError(
            f"{what}, {length} bytes from byte {offset} on, but that file has {size} bytes. Check that it is complete "
            "and belongs to this model"
        )
