"""Tests an installation that was built with CUDA on a machine without a GPU: it imports, and says what is missing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

MODULE = importlib.util.find_spec("retinasdk._native_cuda")


@pytest.fixture(autouse=True)
def driverless(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    if MODULE is None:
        pytest.skip("this retinasdk was built without CUDA: there was no nvcc")
    said = run_python(["-c", "import retinasdk._native_cuda as n; print(n.device_count()[0])"])
    assert said.returncode == 0, said.stderr
    if said.stdout.strip() != "0":
        pytest.skip("there is a GPU here")


def test_what_is_missing_is_one_sentence(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    said = run_python(["-c", "import retinasdk; retinasdk.Detector(device='cuda')"])
    last = said.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "retinasdk.errors.DeviceError: device 'cuda' needs a GPU, but there is no usable one here (cudaError"
    )
    assert last.endswith(". Install NVIDIA's driver, or use device='cpu'.")


def test_auto_is_the_cpu(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    said = run_python(["-c", "import retinasdk; print(retinasdk.Detector().device)"])
    assert (said.stdout.strip(), said.stderr) == ("cpu", "")


def test_calls_fail_politely(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Without a GPU, every function of the module raises `DeviceError` instead of crashing."""
    calls = ("device_properties(0)", "begin_capture(0)", "wait_for_stream(0, 0)", "destroy_graph(0)")
    for call in calls:
        said = run_python(["-c", f"import retinasdk._native_cuda as n; n.{call}"])
        assert said.returncode in (0, 1), (call, said.returncode, said.stderr)
        if said.returncode == 1:
            assert "DeviceError" in said.stderr.splitlines()[-1], (call, said.stderr)


@pytest.mark.skipif(shutil.which("ldd") is None, reason="ldd tells it")
def test_no_library_of_cuda_is_wanted() -> None:
    """The CUDA runtime is linked statically, and the driver is loaded when it is first needed."""
    assert MODULE is not None
    assert MODULE.origin is not None
    needed = subprocess.run(["ldd", Path(MODULE.origin)], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in needed.replace(str(Path(MODULE.origin).parent), "")
    assert "not found" not in needed
