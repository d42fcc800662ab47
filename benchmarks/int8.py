"""8 bits against float32 on the CPU: `session.run` of the network alone, in turn.

    python benchmarks/int8.py [MODEL ...] [--image FILE | --size 480x640] [--classes K] [--threads N] [--rounds N]

MODEL: a bundled name or an ONNX file in float32; without any, a ResNet-50-FPN with random weights. All layers are
quantized, with ranges from the one photo that is timed: which of them `retinasdk quantize` leaves in float32 depends on
its images, and its report says what the file gains. Both precisions are shown twice: as ONNX Runtime runs the file, and
as a `Detector` does, with the convolutions that it chooses on this processor. Needs onnx.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime
from inputs import random_model, read_or_make, size
from timing import interleave, print_machine, print_ratio, print_times

from retinasdk import Detector
from retinasdk.models import find_model
from retinasdk.onnx_graph.calibration import network_inputs
from retinasdk.onnx_graph.network import Network, prepared
from retinasdk.onnx_graph.ranges import observe
from retinasdk.quantization.writing import quantized

# Fused multiplying and adding of bytes: with it one instruction does what takes three without.
_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--image", type=Path, help="an image file")
    parser.add_argument("--size", type=size, default=(480, 640), help="HEIGHTxWIDTH of a synthetic photo instead")
    parser.add_argument("--classes", type=int, default=3, help="of the random network")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print_machine("retinasdk", "onnxruntime", "onnx", "numpy")
    print(f"dot products of bytes: {', '.join(_dot_products()) or 'none'}; threads: {arguments.threads}")

    photo = read_or_make(arguments.image, arguments.size)
    with ExitStack() as opened:
        models = [(name, find_model(name)) for name in arguments.models]
        if not models:
            random = random_model("resnet50", classes=arguments.classes, prior=0.02)
            models.append(("ResNet-50", opened.enter_context(random)))
        for name, path in models:
            compare(name, path, photo, arguments.threads, arguments.rounds)


def compare(name: str, path: Path, photo: Any, threads: int, rounds: int) -> None:
    """Prints the times of one network and their ratio."""
    with Detector(path, device="cpu", threads=1) as detector:
        (tensor,) = network_inputs([photo], detector.spec)
    network = Network(prepared(onnx.load(path)))
    observed = observe(network, [tensor])
    in_codes = quantized(network, network.layers, observed.ranges)
    with TemporaryDirectory() as folder:
        optimized, written = Path(folder) / "optimized.onnx", Path(folder) / "model.onnx"
        sessions = {
            f"{name} float32": _session(network.model, threads),
            f"{name} 8 bits": _session(in_codes, threads, optimized),
        }
        kinds = Counter(node.op_type for node in onnx.load(optimized).graph.node)
        written.write_bytes(in_codes.SerializeToString())
        detectors = {
            f"{name} float32, Detector": Detector(path, device="cpu", threads=threads),
            f"{name} 8 bits, Detector": Detector(written, spec=detector.spec, device="cpu", threads=threads),
        }
    print(f"{name}: input {tensor.shape}, {sum(observed.work.values()) / 1e9:.1f} billion multiplications")
    print(f"  as ONNX Runtime runs it: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}")
    calls = {key: _call(session, network.input, tensor) for key, session in sessions.items()}
    calls |= {key: partial(one._backend.infer, tensor) for key, one in detectors.items()}
    times = interleave(calls, rounds=rounds, warmup=1)
    print_times(times)
    print_ratio(times, f"{name} float32", f"{name} 8 bits", target="at least 1.8 for ResNet-50")
    eight, exact = f"{name} 8 bits, Detector", f"{name} float32, Detector"
    print_ratio(times, exact, eight, target="above 1, for 8 bits to be of use here")
    print_ratio(times, f"{name} 8 bits", eight, target="at least 1")


def _session(model: onnx.ModelProto, threads: int, optimized: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _call(session: Any, name: str, tensor: Any) -> Any:
    return lambda: session.run(None, {name: tensor})


def _dot_products() -> list[str]:
    information = Path("/proc/cpuinfo")
    words = information.read_text().split() if information.is_file() else []
    return [name for name in _DOT_PRODUCTS if name in words]


if __name__ == "__main__":
    main()
