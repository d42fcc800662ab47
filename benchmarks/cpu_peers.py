"""A RetinaNet's heads on the CPU, in float32: this package, with Winograd convolutions and without, against its peers.

    pip install ncnn pnnx openvino MNN    # any of them; what is not installed is left out
    python benchmarks/cpu_peers.py [--model FILE.onnx] [--size 800x1088] [--threads N] [--rounds N] [--only NAME ...]

Without a model: ResNet-50-FPN with random weights and 91 classes. Every one gets the same normalised tensor and gives
the raw heads; each in turn, so that other work on the machine slows all of them alike. How far heads are from ONNX
Runtime's is printed as a part of their standard deviation.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnxruntime
from inputs import size
from timing import Times, interleave, print_machine, print_times

from retinasdk.backends.onnx_cpu import OnnxCpuBackend

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from random_retinanet import save_random_retinanet

Array = npt.NDArray[np.float32]
Run = Callable[[], list[Array]]

OURS, BARE = "retinasdk", "ONNX Runtime"


def retinasdk_run(path: Path, x: Array, threads: int, convolution: str) -> Run:
    backend = OnnxCpuBackend(path, spec=None, threads=threads, convolution=convolution)

    def run() -> list[Array]:
        heads = backend.infer(x)
        return [*heads.logits, *heads.deltas]

    return run


def onnxruntime_run(path: Path, x: Array, names: Sequence[str], threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(names, {session.get_inputs()[0].name: x})


def openvino_run(path: Path, x: Array, names: Sequence[str], threads: int) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(x.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run() -> list[Array]:
        request.infer([x])
        return [request.get_tensor(name).data for name in names]

    return run


def ncnn_run(path: Path, x: Array, names: Sequence[str], threads: int) -> Run:
    """By pnnx, which keeps the order of the outputs; float32 throughout, Winograd and packing as by default."""
    import ncnn

    program = Path(sys.executable).with_name("pnnx")
    shape = ",".join(map(str, x.shape))
    subprocess.run(
        [program if program.is_file() else "pnnx", path.name, f"inputshape=[{shape}]", "fp16=0"],
        cwd=path.parent,
        check=True,
        capture_output=True,
    )
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    net.load_param(str(path.with_suffix(".ncnn.param")))
    net.load_model(str(path.with_suffix(".ncnn.bin")))
    order = [output.name for output in onnxruntime.InferenceSession(str(path)).get_outputs()]

    def run() -> list[Array]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(x[0]))
        return [np.array(extractor.extract(f"out{order.index(name)}")[1])[None] for name in names]

    return run


def mnn_run(path: Path, x: Array, names: Sequence[str], threads: int) -> Run:
    import MNN

    converted = path.with_suffix(".mnn")
    command = ["-f", "ONNX", "--modelFile", str(path), "--MNNModel", str(converted), "--bizCode", "retinasdk"]
    program = Path(sys.executable).with_name("mnnconvert")
    subprocess.run([program if program.is_file() else "mnnconvert", *command], check=True, capture_output=True)
    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    module = MNN.nn.load_module_from_file(str(converted), ["images"], list(names), runtime_manager=runtime)
    given = MNN.expr.const(x, x.shape, MNN.expr.NCHW)

    def run() -> list[Array]:
        return [MNN.expr.convert(output, MNN.expr.NCHW).read() for output in module.forward([given])]

    return run


PEERS = {"OpenVINO": ("openvino", openvino_run), "ncnn": ("ncnn", ncnn_run), "MNN": ("MNN", mnn_run)}


def contestants(path: Path, x: Array, names: Sequence[str], threads: int, only: Sequence[str]) -> dict[str, Run]:
    runs = {
        OURS: retinasdk_run(path, x, threads, "auto"),
        f"{OURS}, direct": retinasdk_run(path, x, threads, "direct"),
        BARE: onnxruntime_run(path, x, names, threads),
    }
    for name, (module, make) in PEERS.items():
        if only and name not in only:
            continue
        if importlib.util.find_spec(module) is None:
            print(f"  {name}: not installed")
            continue
        try:
            runs[name] = make(path, x, names, threads)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            print(f"  {name}: left out, as it does not run here: {error}")
    return runs


def print_ratios(times: Times) -> None:
    """Each one's time over ours and over ONNX Runtime's: medians of the ratios within a round, with quartiles."""
    for name, values in times.items():
        parts = []
        for other in (OURS, BARE):
            low, middle, high = np.percentile(values / times[other], [25, 50, 75])
            parts.append(f"{middle:.3f} ({low:.3f} to {high:.3f}) of {other}")
        print(f"  {name:20} {', '.join(parts)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a heads-only ONNX file with its spec")
    parser.add_argument("--size", type=size, default=(800, 1088), help="HEIGHTxWIDTH of the network's input")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=(), choices=list(PEERS), help="these peers alone")
    arguments = parser.parse_args()
    installed = [name for name in ("openvino", "ncnn", "MNN") if importlib.util.find_spec(name)]
    print_machine("retinasdk", "onnxruntime", "numpy", *installed)
    print(f"threads: {arguments.threads} each")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if arguments.model is None:
            save_random_retinanet(path, "resnet50", classes=91)
        else:
            shutil.copy2(arguments.model, path)
            shutil.copy2(arguments.model.with_suffix(".json"), path.with_suffix(".json"))
        x = np.random.default_rng(0).standard_normal((1, 3, *arguments.size)).astype(np.float32)
        spec = OnnxCpuBackend(path, spec=None, threads=1).spec
        names = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
        print(f"shapes: input {x.shape}, {len(names)} heads of {len(spec.labels)} classes")
        runs = contestants(path, x, names, arguments.threads, arguments.only)
        expected = [np.array(head) for head in runs[BARE]()]
        for name, run in runs.items():
            pairs = zip(run(), expected, strict=True)
            far = max(float(np.abs(np.reshape(a, b.shape) - b).max() / b.std()) for a, b in pairs)
            print(f"  {name}: heads within {far:.1g} of ONNX Runtime's")
        times = interleave(runs, rounds=arguments.rounds, warmup=1)
    print_ratios(times)
    print_times(times)


if __name__ == "__main__":
    main()
