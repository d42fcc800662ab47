"""Tests that benchmarks/gpu.py finishes and that its numbers are consistent. Over stand-ins, times mean nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_gpu
from gpu_device import Gpu
from over_stand_ins import add_what_benchmarks_need
from paths import ROOT
from pictures import blocks
from PIL import Image as PillowImage

_FOLDER = ROOT / "benchmarks"


def run_benchmark(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the benchmark and returns its exit code. It is loaded under another name, because its own is taken."""
    monkeypatch.syspath_prepend(_FOLDER)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", _FOLDER / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    return int(module.main())


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    """Arguments for a few rounds on an image in which the tiny network detects something."""
    PillowImage.fromarray(blocks(200, 300)).save(tmp_path / "blocks.png")
    return ["--image", str(tmp_path / "blocks.png"), "--rounds", "3", "--seconds", "0.05", "--threads", "1", "2"]


@pytest.fixture
def ready(engine_gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """The device, with the functions that only the benchmark needs added to the stand-ins."""
    if engine_gpu.fake is None:
        return engine_gpu
    add_what_benchmarks_need(monkeypatch, engine_gpu.fake, engine_gpu)
    return engine_gpu


def check(numbers: dict[str, Any], text: str, cases: int) -> None:
    assert numbers["copy_gb_s"] > 0
    assert len(numbers["cases"]) == cases
    for case in numbers["cases"]:
        assert min(case["kernels_ms"].values()) > 0
        assert min(case["frame_ms"].values()) > 0
        assert min(case["frames_per_second"].values()) > 0
        assert 0 < case["passing"] < 1
        stages = case["stages_ms"]
        assert case["postprocess_share"] == (stages["decode"] + stages["nms"]) / stages["network"]
        assert f"| network | {stages['network']:.4f} | 100.00 % |" in text
    for line in ("# Frames on the GPU", "- GPU: ", "- CUDA: ", "- TensorRT: ", "decode + NMS over the network: "):
        assert line in text


def test_an_engine(ready: Gpu, engine: Path, quick: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    found = tmp_path / "numbers.json"
    assert run_benchmark(monkeypatch, "--model", str(engine), "--json", str(found), *quick) == 0
    numbers = json.loads(found.read_text())
    check(numbers, capsys.readouterr().out, cases=1)
    assert numbers["cases"][0]["precision"] == "fp32"


def test_a_model_by_sizes_and_precisions(
    ready: Gpu, model_path: Path, quick: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """The network inputs have the sizes of the options."""
    found = tmp_path / "numbers.json"
    options = ["--model", str(model_path), "--sizes", "64x96", "96x64", "--precisions", "fp32", "fp16"]
    assert run_benchmark(monkeypatch, *options, "--json", str(found), *quick) == 0
    numbers = json.loads(found.read_text())
    check(numbers, capsys.readouterr().out, cases=4)
    assert [case["input"] for case in numbers["cases"]] == [[1, 3, 64, 96]] * 2 + [[1, 3, 96, 64]] * 2


def test_without_a_gpu(monkeypatch: Any, capsys: Any) -> None:
    """Wrong options end with one sentence and exit code 2."""
    with fake_gpu(devices=0, reason="cudaErrorNoDevice: no CUDA-capable device is detected"):
        assert run_benchmark(monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("benchmarks/gpu.py measures the GPU path, which cannot be used here: ")
    assert said.err.count("\n") == 1
