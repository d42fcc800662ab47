"""The architectures that the CUDA kernels are compiled for by default."""

from __future__ import annotations

import re
import runpy

from paths import ROOT


def test_each_is_checked() -> None:
    """`make test` compiles for one of them. kernel_resources.py proves that all of them compile, with nvcc 13."""
    listed = re.findall(
        r"CMAKE_CUDA_ARCHITECTURES ([\d a-z-]+)\)", (ROOT / "csrc/cuda/CMakeLists.txt").read_text("utf-8")
    )
    newest = next(line for line in listed if line[0].isdigit())
    checks = runpy.run_path(str(ROOT / "tests/native/checks/kernel_resources.py"))
    assert [name.removesuffix("-real") for name in newest.split()] == list(checks["_ARCHITECTURES"])
