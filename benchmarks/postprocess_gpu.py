"""Decode and NMS on head outputs in the GPU's memory, in a CUDA graph, and the other kernels. Needs no TensorRT.

    python benchmarks/postprocess_gpu.py [--shapes 800x1344x91 ...] [--passing 0.003 0.05 0.5 1] [--batches 1 8]
                                         [--dtypes float32 float16] [--rounds N] [--seconds S] [--json FILE]

Times are medians by CUDA events over graphs of ten launches. The floor is the bytes of the logits over the bandwidth of
a copy, measured in the same run. Where torch with CUDA is installed, `amax` over the same logits and torchvision's
`postprocess_detections` on the same float32 heads are measured beside them. --seconds ends the run early: what was
measured is kept. --profile launches decode and NMS of the first case once, for Nsight Compute.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torchvision_gpu
from gpu_heads import GpuHeads, batched, normal_heads, opened_heads, shift, spec_of, use_driver
from gpu_kernels import other_kernels
from gpu_stages import copy_bandwidth, graph_time
from record_page import number, postprocess_table, table

from retinasdk.cuda.device import CudaDevice
from retinasdk.errors import RetinaSdkError

SHAPES = [(800, 1344, 91), (800, 800, 264), (800, 1088, 91), (384, 512, 1)]
PASSING = [0.003, 0.05, 0.5, 1.0]
COPY_MIB = 256  # beyond any second-level cache
TORCHVISION_ROUNDS = 10

Shape = tuple[int, int, int]


def shape(text: str) -> Shape:
    """(height, width, classes) of "800x1344x91"; for argparse."""
    height, width, classes = map(int, text.split("x"))
    return height, width, classes


class Run:
    """Measures case after case. `numbers` goes to the file after each of them."""

    def __init__(self, device: CudaDevice, driver: str, arguments: argparse.Namespace) -> None:
        self._device, self._arguments = device, arguments
        self._end = time.monotonic() + arguments.seconds
        self._why_no_torch = torchvision_gpu.why_no_torch()
        self.numbers: dict[str, Any] = {
            "driver": driver,
            "torch": self._why_no_torch or torchvision_gpu.versions(),
            "copy_gb_s": None,
            "cases": [],
            "kernels_ms": {},
            "left_out": [],
        }

    def measure(self) -> None:
        """Every case, the most important first."""
        given = self._arguments
        for batch, one, dtype in itertools.product(given.batches, given.shapes, given.dtypes):
            name = f"{'x'.join(map(str, one))} {dtype} batch {batch}"
            try:
                self._heads(one, dtype, batch)
            except (RetinaSdkError, self._device.driver.Error, RuntimeError, MemoryError) as error:
                # Too little memory for these heads is no reason to lose the rest.
                self.numbers["left_out"].append(f"{name}: {' '.join(str(error).split())}")
            self._write()
            print(f"measured: {name}", file=sys.stderr)
        if self._has_time("the other kernels"):
            spec, size = spec_of(given.shapes[0][2]), given.shapes[0][:2]
            self.numbers["kernels_ms"] = other_kernels(self._device, spec, size, given.rounds)
            self._write()

    def _heads(self, one: Shape, dtype: str, batch: int) -> None:
        if not self._has_time(f"{'x'.join(map(str, one))} {dtype} batch {batch}"):
            return
        spec, size, rounds = spec_of(one[2]), one[:2], self._arguments.rounds
        scores, boxes = normal_heads(spec, size)
        deltas = batched(boxes, batch, np.float32(0), dtype)
        with opened_heads(self._device, spec, size, batch=batch, dtype=dtype) as heads:
            if self.numbers["copy_gb_s"] is None:
                self.numbers["copy_gb_s"] = copy_bandwidth(heads.lane, self._arguments.copy_mib << 20, rounds)
            for passing in self._arguments.passing:
                if self._has_time(f"{'x'.join(map(str, one))} {dtype} batch {batch}, {100 * passing:g}% passing"):
                    logits = batched(scores, batch, shift(spec, passing), dtype)
                    heads.upload(logits, deltas)
                    self.numbers["cases"].append(self._case(heads, one, passing, logits, deltas))

    def _case(self, heads: GpuHeads, one: Shape, passing: float, logits: list[Any], deltas: list[Any]) -> Any:
        rounds, size_bytes = self._arguments.rounds, sum(level.nbytes for level in logits)
        ours = heads.results()
        times = {
            "decode_ms": graph_time(heads.lane, heads.decode, rounds),
            "nms_ms": graph_time(heads.lane, heads.suppress, rounds),
            "both_ms": graph_time(heads.lane, heads.both, rounds),
        }
        case: dict[str, Any] = {
            "shape": list(one),
            "dtype": logits[0].dtype.name,
            "batch": logits[0].shape[0],
            "passing": passing,
            "logits_mb": size_bytes / 1e6,
            **times,
            "plain_pass_ms": None,
            "torchvision_ms": None,
            "floor_ms": size_bytes / self.numbers["copy_gb_s"] / 1e6,
            "agreeing": None,
            "worst_pixels": None,
        }
        if self._why_no_torch is None:
            case["plain_pass_ms"] = torchvision_gpu.plain_pass_ms(logits, rounds)
            if logits[0].dtype == np.float32:
                theirs = torchvision_gpu.postprocess(heads.spec, one[:2], logits, deltas)
                case["agreeing"], case["worst_pixels"] = torchvision_gpu.agreement(ours, theirs())
                case["torchvision_ms"] = torchvision_gpu.median_ms(theirs, TORCHVISION_ROUNDS)
        return case

    def _has_time(self, what: str) -> bool:
        if time.monotonic() < self._end:
            return True
        self.numbers["left_out"].append(f"{what}: no time left")
        return False

    def _write(self) -> None:
        if self._arguments.json is not None:
            self._arguments.json.write_text(json.dumps(self.numbers, indent=1) + "\n", encoding="utf-8")


def profile(device: CudaDevice, arguments: argparse.Namespace) -> None:
    """Launches decode and NMS of the first case once, behind a launch that warms up."""
    one, dtype, passing = arguments.shapes[0], arguments.dtypes[0], arguments.passing[0]
    spec = spec_of(one[2])
    scores, boxes = normal_heads(spec, one[:2])
    with opened_heads(device, spec, one[:2], batch=1, dtype=dtype) as heads:
        heads.upload(batched(scores, 1, shift(spec, passing), dtype), batched(boxes, 1, np.float32(0), dtype))
        for _ in range(2):
            heads.results()


def page(numbers: dict[str, Any]) -> str:
    """The Markdown of what was measured."""
    lines = [f"- driver's interface: {numbers['driver']}", f"- torch: {numbers['torch']}"]
    lines += [f"- copy: {number(numbers['copy_gb_s'], 4)} GB/s, read and written", ""]
    lines += [*postprocess_table(numbers["cases"]), ""]
    rows = [(name, number(value)) for name, value in numbers["kernels_ms"].items()]
    lines += [*table(("other kernel", "ms"), rows), "", *(f"- left out: {name}" for name in numbers["left_out"])]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The process's exit code: 2 where no GPU can be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=shape, nargs="+", default=SHAPES, help="HEIGHTxWIDTHxCLASSES")
    parser.add_argument(
        "--passing", type=float, nargs="+", default=PASSING, help="shares of logits above the threshold"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float16"), default=["float32", "float16"])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--copy-mib", type=int, default=COPY_MIB, help="size of the copy")
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no case after so many")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--profile", action="store_true", help="launch the first case once, for Nsight Compute")
    arguments = parser.parse_args()
    driver = use_driver()
    try:
        device = CudaDevice()
    except RetinaSdkError as error:
        print(f"benchmarks/postprocess_gpu.py measures the GPU, which cannot be used here: {error}", file=sys.stderr)
        return 2
    with closing(device), device.current():
        if arguments.profile:
            profile(device, arguments)
            return 0
        run = Run(device, driver, arguments)
        run.measure()
    print(page(run.numbers), end="")
    return 0 if run.numbers["cases"] else 1


if __name__ == "__main__":
    sys.exit(main())
