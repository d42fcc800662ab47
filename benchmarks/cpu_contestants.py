"""The contestants of the table of CPU speeds: each opens the model of a folder, see cpu_cases.py.

Whatever a contestant needs is imported when it is opened, so that the memory of a process is that of its contestant.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

WHOLE, NETWORK = "whole call", "network alone"
OURS, DIRECT, RUNTIME, NCNN, OPENVINO = "retinasdk", "retinasdk, direct", "ONNX Runtime", "ncnn", "OpenVINO"


@dataclass(frozen=True)
class Opened:
    """A loaded model.

    Attributes:
        call: What is timed.
        heads: Returns the head outputs for the same photo, in the order of case.json.
        about: What it says of itself.
    """

    call: Callable[[], object]
    heads: Callable[[], list[Array]]
    about: dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """How a contestant is opened: open(folder, threads). module: What must be installed. what: `WHOLE` or `NETWORK`."""

    what: str
    module: str
    open: Callable[[Path, int], Opened]
    only_float: bool = False


def _case(folder: Path) -> tuple[Array, str, list[str]]:
    facts = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    return np.load(folder / "input.npy"), facts["input"], facts["outputs"]


def _open_retinasdk(folder: Path, threads: int, convolution: str) -> Opened:
    from retinasdk import Detector

    detector = Detector(folder / "model.onnx", device="cpu", threads=threads, convolution=convolution)
    photo, (tensor, _, _) = np.load(folder / "photo.npy"), _case(folder)

    def heads() -> list[Array]:
        found = detector._backend.infer(tensor)
        return [*found.logits, *found.deltas]

    choice = detector.convolution
    assert choice is not None
    about = {"boxes": len(detector(photo)), "isa": choice.isa, "choice": str(choice)}
    return Opened(lambda: detector(photo), heads, about)


def _open_auto(folder: Path, threads: int) -> Opened:
    return _open_retinasdk(folder, threads, "auto")


def _open_direct(folder: Path, threads: int) -> Opened:
    return _open_retinasdk(folder, threads, "direct")


def _open_runtime(folder: Path, threads: int) -> Opened:
    import onnxruntime

    tensor, name, outputs = _case(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def run() -> list[Array]:
        heads: list[Array] = session.run(outputs, {name: tensor})
        return heads

    return Opened(run, run, {})


def _open_openvino(folder: Path, threads: int) -> Opened:
    import openvino

    tensor, _, outputs = _case(folder)
    core = openvino.Core()
    model = core.read_model(folder / "model.onnx")
    model.reshape(list(tensor.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run() -> list[Array]:
        request.infer([tensor])
        return [request.get_tensor(name).data for name in outputs]

    return Opened(run, run, {})


def _open_ncnn(folder: Path, threads: int) -> Opened:
    """By pnnx, which keeps the order of the outputs; float32 throughout, Winograd and packing as by default."""
    import ncnn

    tensor, _, outputs = _case(folder)
    path = folder / "model.ncnn.param"
    if not path.is_file():
        _convert_by_pnnx(folder, tensor.shape)
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))

    def run() -> list[Array]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(tensor[0]))
        return [np.array(extractor.extract(f"out{order.index(name)}")[1])[None] for name in outputs]

    return Opened(run, run, {})


def _convert_by_pnnx(folder: Path, shape: Sequence[int]) -> None:
    import onnx

    program = Path(sys.executable).with_name("pnnx")
    command = [
        program if program.is_file() else "pnnx",
        "model.onnx",
        f"inputshape=[{','.join(map(str, shape))}]",
        "fp16=0",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    order = [output.name for output in onnx.load(folder / "model.onnx").graph.output]
    (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")


CONTESTANTS = {
    OURS: Contestant(WHOLE, "retinasdk", _open_auto),
    DIRECT: Contestant(WHOLE, "retinasdk", _open_direct),
    RUNTIME: Contestant(NETWORK, "onnxruntime", _open_runtime),
    NCNN: Contestant(NETWORK, "ncnn", _open_ncnn, only_float=True),  # pnnx does not read networks in 8 bits.
    OPENVINO: Contestant(NETWORK, "openvino", _open_openvino),
}
