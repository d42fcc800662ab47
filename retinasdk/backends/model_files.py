"""Reads the files that a model consists of, so that it can be copied to another folder or machine."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath

from retinasdk._util.onnx_files import external_locations
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, EngineInfo


def read_model_files(path: Path, spec: ModelSpec | None = None) -> dict[str, bytes]:
    """Reads a model with everything that loading it needs.

    Args:
        path: An ONNX file or a TensorRT engine.
        spec: Spec to write beside an ONNX file. Defaults to the file beside it, if there is one. An engine keeps its
            own.

    Returns:
        The content of each file by its name, to be written to one folder: `model.onnx` with `model.json` and its
        external data, or `model.engine` with `model.engine.json`. The network is first.

    Raises:
        ModelError: If the file is not an ONNX file, or refers to external data outside its folder.
        OSError: If a file cannot be read.
    """
    content = path.read_bytes()
    if path.suffix == ENGINE_SUFFIX:
        name = "model" + ENGINE_SUFFIX
        return {name: content, EngineInfo.path_for(Path(name)).name: EngineInfo.path_for(path).read_bytes()}
    files = {"model.onnx": content}
    digest = hashlib.sha256(content)  # As `model_sha256` computes it.
    for location in sorted(_external_data(path, content)):
        files[location] = (path.parent / location).read_bytes()
        digest.update(files[location])
    if spec is not None:
        files["model.json"] = spec.to_json(onnx_sha256=digest.hexdigest()).encode()
    elif path.with_suffix(".json").is_file():
        files["model.json"] = path.with_suffix(".json").read_bytes()
    return files


def _external_data(path: Path, content: bytes) -> set[str]:
    try:
        locations = external_locations(memoryview(content))
    except ValueError as error:
        raise ModelError(f"{path} is not an ONNX file: {error}; give one that 'retinasdk import' wrote") from error
    for location in locations:
        if PurePath(location).name != location or location in ("model.onnx", "model.json"):
            raise ModelError(
                f"{path} keeps weights in {location!r}, which cannot be copied beside the model; write it as one file: "
                f"retinasdk import '{path}' -o single.onnx"
            )
    return locations
