"""Writes a model repository for Triton.

Note: What a killed export leaves

    The files of the version folder are written together, all or none (_util/files.py), and config.pbtxt is written
    after them. config.pbtxt has a SHA-256 of the others. A process that is killed in between leaves new files with an
    old config.pbtxt, or with none. The model then refuses to load and says that it must be exported again.

Note: Number of boxes and batches

    Triton needs tensors, but each image has its own number of boxes. The Python backend answers each request on its
    own, so requests that the dynamic batcher puts together need no common size: a request of one image gets exactly
    its n boxes, (1, n, 4). Only the images of one request share tensors, padded to the largest n, with the numbers in
    COUNT. A decoupled model would need no padding, but its clients would need gRPC streams: HTTP cannot carry several
    responses.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from importlib import resources
from pathlib import Path

from retinasdk._util.files import write_atomically, write_together
from retinasdk.backends.model_files import read_model_files
from retinasdk.detector import Detector
from retinasdk.models import DEFAULT_MODEL, find_model
from retinasdk.onnx_graph.model_pair import read_unchanged
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, EngineInfo

VERSION = "1"
DEVICES = ("cpu", "cuda")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAX_BATCH = 1024
_OUTPUTS = {
    "COUNT": ("TYPE_INT32", "1"),
    "BOXES": ("TYPE_FP32", "-1, 4"),
    "SCORES": ("TYPE_FP32", "-1"),
    "CLASS_IDS": ("TYPE_INT32", "-1"),
    "LABELS": ("TYPE_STRING", "-1"),
}
_ROTATED = {"ROTATED_BOXES": ("TYPE_FP32", "-1, 5")}


def export(
    model: str | os.PathLike[str] | None,
    repository: str | os.PathLike[str],
    *,
    device: str = "cpu",
    name: str | None = None,
    max_batch: int = 8,
    delay_ms: float = 2.0,
    instances: int = 1,
    threads: int | None = None,
    score_threshold: float | None = None,
) -> Path:
    """Writes a model repository for Triton, with a model that takes images and returns bounding boxes.

    The model runs on Triton's Python backend, whose Python must have retinasdk. It has its own copy of all files. The
    repository may hold other models. Files of an earlier export are replaced.

    Args:
        model: Name of a bundled model, path of an ONNX file, or path of a TensorRT engine for the server's GPU.
            Defaults to "people".
        repository: Folder of the repository. It is created if it does not exist.
        device: "cpu" or "cuda", where the server runs the model. On "cuda", an ONNX file is built into an engine when
            the model is first loaded, which takes minutes.
        name: Name of the model on the server. Defaults to the name of the model file.
        max_batch: Largest number of images that run together, from one request or several.
        delay_ms: How long a request waits for others, in milliseconds.
        instances: Number of copies of the model, each in a process of its own.
        threads: Number of CPU threads of each instance. Defaults to the cores of the server divided by `instances`.
        score_threshold: Default of the request parameter `score`. Defaults to that of the model's spec.

    Returns:
        The folder of the model.

    Raises:
        ModelError: If the model cannot be used.
        ValueError: If an option is out of range.
        OSError: If a file cannot be written.
    """
    path = find_model(DEFAULT_MODEL if model is None else model)
    target = model_folder(path, repository, name)
    _check(device, max_batch, delay_ms, instances, threads, score_threshold)
    if path.suffix == ENGINE_SUFFIX and device == "cpu":
        raise ValueError(f"{path} is a TensorRT engine, which runs only on the GPU; give device='cuda'")

    def read() -> tuple[ModelSpec, dict[str, bytes]]:
        spec = _spec(path)
        return spec, read_model_files(path, spec)

    spec, files = read_unchanged(path, read)
    model_file = next(iter(files))
    program = resources.files("retinasdk.triton").joinpath("model.py").read_bytes()
    digest = hashlib.sha256(b"".join(files.values()))
    settings = {"model_file": model_file, "files": "/".join(files), "files_sha256": digest.hexdigest()}
    if threads is not None:
        settings["threads"] = str(threads)
    if score_threshold is not None:
        settings["score"] = repr(float(score_threshold))
    config = _config(target.name, spec, device, max_batch, delay_ms, instances, settings)
    version = target / VERSION
    version.mkdir(parents=True, exist_ok=True)
    try:
        write_together({version / name: content for name, content in {**files, "model.py": program}.items()})
    except BaseException:
        with contextlib.suppress(OSError):  # Those that are empty, as they were made here.
            version.rmdir()
            target.rmdir()
        raise
    write_atomically(target / "config.pbtxt", config.encode())
    return target


def model_folder(model: Path, repository: str | os.PathLike[str], name: str | None) -> Path:
    """Returns the folder of an exported model.

    Raises:
        ValueError: If the name cannot be the name of a model.
    """
    chosen = model.stem if name is None else name
    if not _NAME.fullmatch(chosen):
        raise ValueError(
            f"name must have letters, digits, '_', '-' and '.' only, and begin with a letter or digit; got {chosen!r}"
        )
    return Path(repository) / chosen


def _spec(path: Path) -> ModelSpec:
    """Returns the spec of a model, and makes sure that an ONNX file can be loaded."""
    if path.suffix == ENGINE_SUFFIX:
        return EngineInfo.load(path).spec
    with Detector(path, device="cpu", convolution="direct") as detector:
        return detector.spec


def _check(
    device: str,
    max_batch: int,
    delay_ms: float,
    instances: int,
    threads: int | None,
    score_threshold: float | None,
) -> None:
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got {device!r}")
    numbers = {"max_batch": max_batch, "instances": instances, "threads": 1 if threads is None else threads}
    for option, number in numbers.items():
        if not isinstance(number, int) or not 1 <= number <= _MAX_BATCH:
            raise ValueError(f"{option} must be an integer from 1 to {_MAX_BATCH}, got {number!r}")
    if not 0 <= delay_ms <= 60_000:
        raise ValueError(f"delay_ms must be 0 to 60000 milliseconds, got {delay_ms!r}")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold must be 0 to 1, got {score_threshold!r}")


def _config(
    name: str,
    spec: ModelSpec,
    device: str,
    max_batch: int,
    delay_ms: float,
    instances: int,
    settings: dict[str, str],
) -> str:
    """Returns the text of config.pbtxt."""
    outputs = {**_OUTPUTS, **(_ROTATED if spec.is_rotated else {})}
    # One GPU for each server: a Detector uses the first visible one.
    place = "kind: KIND_GPU gpus: [ 0 ]" if device == "cuda" else "kind: KIND_CPU"
    lines = [
        "# Written by 'retinasdk triton export'. Exporting again replaces this file.",
        f'name: "{name}"',
        'backend: "python"',
        f"max_batch_size: {max_batch}",
        "# One of the two inputs. Images of several sizes may be in one batch.",
        "input [",
        '  { name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] optional: true },',
        '  { name: "PIXELS" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] optional: true allow_ragged_batch: true }',
        "]",
        "output [",
        ",\n".join(
            f'  {{ name: "{output}" data_type: {dtype} dims: [ {dims} ] }}' for output, (dtype, dims) in outputs.items()
        ),
        "]",
        f"dynamic_batching {{ max_queue_delay_microseconds: {round(delay_ms * 1000)} }}",
        f"instance_group [ {{ count: {instances} {place} }} ]",
        *(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in settings.items()),
    ]
    return "\n".join(lines) + "\n"
