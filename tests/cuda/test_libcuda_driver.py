"""The driver by ctypes works over a library with libcuda's functions, and finds all of them in NVIDIA's header."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libcuda_driver
import numpy as np
import pytest
from paths import ROOT, SUPPORT


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    built = tmp_path_factory.mktemp("libcuda") / "libcuda_on_host.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(SUPPORT / "libcuda_on_host.c")], check=True)
    return str(built)


@pytest.fixture
def driver(library: str) -> Iterator[Any]:
    driver = libcuda_driver.Driver(library)
    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    yield driver
    context.detach()


def test_copies(driver: Any) -> None:
    values = np.arange(1000, dtype=np.float32)
    found = np.zeros_like(values)
    stream = driver.Stream(1)
    first, second = driver.mem_alloc(values.nbytes), driver.mem_alloc(values.nbytes)
    driver.memcpy_htod_async(int(first), values, stream)
    driver.memcpy_dtod_async(int(second), int(first), values.nbytes, stream)
    driver.memcpy_dtoh_async(found, int(second), stream)
    stream.synchronize()
    assert (found == values).all()
    driver.memcpy_htod(first, values[::-1].copy())
    driver.memcpy_dtoh_async(found, first, stream)
    driver.Context.synchronize()
    assert (found == values[::-1]).all()
    with pytest.raises(BufferError):
        driver.memcpy_htod(first, values[::-1])
    first.free()
    first.free()  # The second time, there is nothing to free.


def test_pinned_memory(driver: Any) -> None:
    block = driver.pagelocked_empty(64, np.uint8, mem_flags=driver.host_alloc_flags.DEVICEMAP)
    block[:] = 7
    assert block.base.get_device_pointer() == block.ctypes.data
    block.base.free()
    assert driver.mem_get_info() == (1 << 33, 1 << 34)


def test_events(driver: Any) -> None:
    stream = driver.Stream()
    begin = driver.Event().record(stream)
    assert driver.Event().record(stream).time_since(begin) >= 0


def test_errors(driver: Any) -> None:
    with pytest.raises(driver.MemoryError, match="cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY"):
        driver.mem_alloc(1 << 41)
    driver.Context.pop()
    with pytest.raises(driver.LogicError, match="CUDA_ERROR_INVALID_CONTEXT"):
        driver.Stream()
    driver.Device(0).retain_primary_context().push()


def test_the_header_declares_every_function() -> None:
    nvcc = shutil.which("nvcc")
    headers = [Path("/usr/local/cuda/include/cuda.h")]
    if nvcc is not None:
        headers.insert(0, Path(nvcc).resolve().parents[1] / "include" / "cuda.h")
    header = next((path for path in headers if path.is_file()), None)
    if header is None:
        pytest.skip("needs cuda.h of a CUDA toolkit")
    text = header.read_text(encoding="utf-8", errors="replace")
    for name, types in libcuda_driver._FUNCTIONS.items():
        declared = re.search(rf"CUresult CUDAAPI {name.removesuffix('_v2')}\(([^)]*)\);", text)
        assert declared is not None, name
        arguments = [one for one in declared[1].split(",") if one.strip() != "void"]
        assert len(arguments) == len(types), declared[0]


def test_the_chip(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    machine = importlib.import_module("gpu_machine")
    chip = machine.chip_here(library)
    assert (chip.name, chip.compute_capability, chip.cuda) == ("NVIDIA RTX 4090", (8, 9), "13.0")
    assert machine.slug(chip) == "rtx-4090"
    facts = machine.facts(chip)
    assert facts["GPU"] == "NVIDIA RTX 4090, compute capability 8.9, 128 multiprocessors, 17.2 GB"
    assert facts["highest clocks"] == "2520 MHz, memory 10501 MHz"
    assert machine.chip_here("libcuda-that-is-not-there.so").startswith("NVIDIA's driver is not installed (")
