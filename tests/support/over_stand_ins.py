"""Runs a script over the stand-ins of support/fakes: python over_stand_ins.py SCRIPT ARGUMENTS.

What comes out is marked by whoever runs it: times mean nothing, and no kernel has met a GPU.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeGpu, fake_gpu
from fakes.gpu import memory_at
from gpu_device import Gpu

import retinasdk
from retinasdk.cuda.device import CudaDevice


def add_what_benchmarks_need(patch: pytest.MonkeyPatch, fake: FakeGpu, gpu: Gpu) -> None:
    """Adds a copy inside the GPU's memory, and a build that puts an ONNX model into the file."""

    def copy(target: int, source: int, size: int, stream: Any) -> None:
        def work() -> None:
            memory_at(target, (size,), np.uint8)[:] = memory_at(source, (size,), np.uint8)

        fake.enqueue(stream.handle, "copy", work)

    def build(path: Path, engine: Path, *, spec: retinasdk.ModelSpec, **options: Any) -> None:
        copied = engine.with_name("model.onnx")
        copied.write_bytes(path.read_bytes())
        spec.save(copied.with_suffix(".json"))
        gpu.build_engine(copied, engine, batch=(1, 1, 1), **options)

    patch.setattr(gpu.driver, "memcpy_dtod_async", copy, raising=False)
    patch.setattr(retinasdk, "build_engine", build, raising=False)


def main() -> None:
    script = Path(sys.argv[1])
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(script.parent))
    os.environ["RETINASDK_GPU_TESTS"] = "fake"
    with fake_gpu() as fake, pytest.MonkeyPatch.context() as patch:
        device = CudaDevice()
        add_what_benchmarks_need(patch, fake, Gpu(device, fake))
        device.close()
        code: Any = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
    sys.exit(code)


if __name__ == "__main__":
    main()
