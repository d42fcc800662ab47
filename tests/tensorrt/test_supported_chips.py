"""Tests which TensorRT is chosen for which GPU, over stand-ins, and what is said if none runs on it."""

from __future__ import annotations

import importlib
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from paths import ROOT
from pictures import blocks

from retinasdk import Detector, DeviceError, MissingDependencyError, ModelError, ModelSpec
from retinasdk.cuda.device import GpuIdentity
from retinasdk.tensorrt.build import build_engine
from retinasdk.tensorrt.engine_info import EngineInfo
from retinasdk.tensorrt.installed import choose_for_gpu, import_tensorrt, installed_tensorrts, why_no_gpu
from retinasdk.tensorrt.supported_chips import how_to_install, runs_on

TENSORRT, RTX = {"tensorrt": "10.13.3"}, {"tensorrt_rtx": "1.7.1"}
BOTH = {**TENSORRT, **RTX}

# For each GPU: whether TensorRT 10.13.3 runs on it, whether TensorRT for RTX 1.7.1 does, and the choice between both.
CHIPS: dict[tuple[int, int], tuple[bool | None, bool | None, str | None]] = {
    (7, 2): (False, False, None),
    (7, 5): (True, True, "tensorrt"),
    (8, 0): (True, None, "tensorrt"),
    (8, 6): (True, True, "tensorrt"),
    (8, 7): (None, False, "tensorrt"),
    (8, 9): (True, True, "tensorrt"),
    (9, 0): (True, False, "tensorrt"),
    (10, 0): (True, False, "tensorrt"),
    (10, 1): (None, False, "tensorrt"),
    (10, 3): (True, False, "tensorrt"),
    (11, 0): (True, False, "tensorrt"),
    (12, 0): (True, True, "tensorrt"),
    (12, 1): (None, True, "tensorrt_rtx"),
}
NEITHER = "TensorRT 10.13.3 and TensorRT for RTX 1.7.1 do not support compute capability 7.2"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RETINASDK_CACHE", str(folder))
    return folder


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", CHIPS)
def test_both_products_on_every_chip(chip: tuple[int, int]) -> None:
    known = runs_on("tensorrt", "10.13.3.9", chip), runs_on("tensorrt_rtx", "1.7.1.116", chip)
    assert known == CHIPS[chip][:2]


@pytest.mark.parametrize(
    ("product", "chip", "answers"),
    [
        ("tensorrt", (7, 0), {"8.5.3": True, "10.4.0": True, "10.5.0": False, "11.4.0": False}),
        ("tensorrt", (7, 2), {"8.5.2": True, "8.6.2": None, "10.3.0": None, "10.5.0": False}),
        ("tensorrt", (7, 5), {"8.4.1": None, "8.5.3": True, "11.4.1": True, "11.5.0": None, "12.0": None}),
        ("tensorrt", (8, 7), {"8.5.2": True, "8.6.2": True, "10.3.0": True, "10.9.0": None, "10.16.2": True}),
        ("tensorrt", (8, 7), {"11.3.0": None, "11.4.0": None, "11.4.1": True}),
        ("tensorrt", (9, 0), {"8.5.3": True, "8.6.1": True, "10.0.1": True, "11.4.0": True}),
        ("tensorrt", (10, 0), {"8.6.1": False, "10.7.0": False, "10.8.0": True}),
        ("tensorrt", (10, 1), {"10.3.0": False, "10.10.10": None}),
        ("tensorrt", (10, 3), {"10.7.0": False, "10.8.0": None, "10.13.2": True}),
        ("tensorrt", (11, 0), {"10.3.0": False, "10.12.0": None, "10.13.3": True, "10.16.2": True}),
        ("tensorrt", (12, 0), {"10.7.0": False, "10.8.0": True, "11.4.0": True}),
        ("tensorrt", (12, 1), {"10.3.0": False, "10.13.3": None, "10.16.1": True}),
        ("tensorrt_rtx", (9, 0), {"1.0.0": False, "1.7.1": False, "1.8.0": None, "2.0": None}),
        ("tensorrt_rtx", (12, 1), {"1.4.0": False, "1.5.0": True, "1.7.1": True}),
        ("tensorrt_rtx", (13, 0), {"1.7.1": None}),
        ("tensorrt", (13, 0), {"11.4.0": None}),
    ],
)
def test_versions_of_the_table(product: str, chip: tuple[int, int], answers: dict[str, bool | None]) -> None:
    assert {version: runs_on(product, version, chip) for version in answers} == answers
    assert runs_on(product, None, chip) is runs_on(product, "unknown", chip) is None


@pytest.mark.parametrize(
    ("chip", "cuda", "command"),
    [
        ((7, 0), "12.6", "pip install 'tensorrt-cu12<10.5'"),
        ((7, 2), "11.4", "JetPack 5 with its TensorRT 8.5, the last one for this board: sudo apt install python3-libn"),
        ((7, 5), "13.0", "pip install 'tensorrt-cu13'"),
        ((8, 0), "12.6", "pip install 'tensorrt-cu12'"),
        ((8, 6), None, "pip install 'tensorrt'"),
        ((8, 7), "12.6", "the TensorRT of its JetPack: sudo apt install python3-libnvinfer"),
        ((8, 9), "14.1", "pip install 'tensorrt'"),
        ((9, 0), "13.0", "pip install 'tensorrt-cu13'"),
        ((10, 0), "12.8", "pip install 'tensorrt-cu12>=10.8'"),
        ((10, 1), "12.8", "pip install 'tensorrt-cu12'"),
        ((10, 3), "13.0", "pip install 'tensorrt-cu13>=10.13'"),
        ((11, 0), "13.0", "the TensorRT of JetPack 7: sudo apt install python3-libnvinfer"),
        ((12, 0), "13.0", "pip install 'tensorrt-cu13>=10.8'"),
        ((12, 1), "13.0", "pip install 'tensorrt-cu13>=10.16'"),
        ((13, 0), "13.0", "pip install 'tensorrt-cu13'"),
    ],
)
def test_what_to_install(chip: tuple[int, int], cuda: str | None, command: str) -> None:
    assert command in how_to_install(chip, cuda)


def test_the_page_says_the_same() -> None:
    rows = re.findall(r"^\| (\d+)\.(\d) \| .* \| (.*) \| (.*) \|$", (ROOT / "docs/guides/gpu.md").read_text(), re.M)
    assert [(int(major), int(minor)) for major, minor, _, _ in rows] == list(CHIPS)
    for major, minor, of_tensorrt, of_rtx in rows:
        for product, newest, words in (("tensorrt", "11.4.1", of_tensorrt), ("tensorrt_rtx", "1.7.1", of_rtx)):
            answer = runs_on(product, "8.5.2" if "8.5" in words else newest, (int(major), int(minor)))
            assert answer == {"no": False, "unknown": None}.get(words, True), (major, minor, product)
            first = re.match(r"(\d+)\.(\d+) or newer", words)
            if first:
                before = f"{first[1]}.{int(first[2]) - 1}.0"
                assert runs_on(product, first[0], (int(major), int(minor)))
                assert not runs_on(product, before, (int(major), int(minor)))


# -- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("products", [TENSORRT, RTX, {"tensorrt_rtx_bindings": "1.7.1"}, BOTH], ids="+".join)
@pytest.mark.parametrize("chip", CHIPS)
def test_auto_takes_what_runs_here(
    chip: tuple[int, int], products: dict[str, str], model_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`device="auto"` never fails, `device="cuda"` and `build_engine` refuse before a build what cannot run."""
    of_tensorrt, of_rtx, of_both = CHIPS[chip]
    if len(products) == 2:
        wanted = of_both
    elif "tensorrt" in products:
        wanted = None if of_tensorrt is False else "tensorrt"
    else:
        wanted = None if of_rtx is False else "tensorrt_rtx"
    caplog.set_level(logging.INFO, "retinasdk")
    with fake_gpu(products=products, compute_capability=chip) as gpu:
        choice = choose_for_gpu()
        assert (choice.tensorrt and choice.tensorrt.product) == wanted
        assert why_no_gpu() == (None if wanted else choice.why)
        with Detector(model_path, precision="fp32") as detector:
            assert detector.device == ("cuda" if wanted else "cpu")
            detector(blocks())
        (line,) = [record for record in caplog.records if " runs on " in record.message]
        assert choice.why in line.message
        assert line.levelno == (logging.INFO if wanted else logging.WARNING)
        if wanted:
            (engine,) = cache.glob("*.engine")
            assert EngineInfo.load(engine).fingerprint.tensorrt == wanted
            return
        cure = how_to_install(chip, "12.6").partition(": ")[2]
        assert cure in choice.why
        for run in (
            lambda: Detector(model_path, device="cuda"),
            lambda: build_engine(model_path, cache.parent / "x.engine"),
        ):
            with pytest.raises(DeviceError, match=r"not support compute capability") as caught:
                run()
            assert cure in str(caught.value)
            assert "device='cpu'" in str(caught.value) or "CUDA_VISIBLE_DEVICES= retinasdk build" in str(caught.value)
        assert gpu.built == []  # type: ignore[attr-defined]


def test_it_says_why() -> None:
    with fake_gpu(products=BOTH, compute_capability=(9, 0)):
        assert choose_for_gpu().why == (
            "Fake GPU with TensorRT 10.13.3; TensorRT for RTX 1.7.1 does not support compute capability 9.0 (Fake GPU)"
        )
    with fake_gpu(products=BOTH, compute_capability=(7, 2)):
        assert choose_for_gpu().why.startswith(f"{NEITHER} (Fake GPU). To use it, install JetPack 5 with its TensorRT")
    with fake_gpu(products={"tensorrt": "12.0"}, compute_capability=(9, 0)):
        assert choose_for_gpu().why.endswith("of which it is unknown whether it supports compute capability 9.0")
    with fake_gpu(products={}, compute_capability=(9, 0)):
        assert why_no_gpu() == "TensorRT is not installed"


def test_a_gpu_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu() as gpu:

        def fail(device: int) -> Any:
            raise DeviceError("cudaErrorUnknown")

        monkeypatch.setattr(sys.modules["retinasdk._native_cuda"], "device_properties", fail)
        assert why_no_gpu() == "no usable GPU (cudaErrorUnknown)"
        monkeypatch.undo()
        assert gpu.devices == 1


def test_versions_are_read_without_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen by the version of its package is not imported for it. Only the chosen one is."""
    for module in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{module}.py").write_text("raise AssertionError('imported')")
    for package in ("tensorrt_cu12-10.3.0", "tensorrt_rtx-1.7.1.116"):
        folder = tmp_path / f"{package}.dist-info"
        folder.mkdir()
        name, _, version = package.rpartition("-")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with fake_gpu(products={}, compute_capability=(12, 0)):
        for module in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.delitem(sys.modules, module)
        assert [str(item) for item in installed_tensorrts()] == ["TensorRT 10.3.0", "TensorRT for RTX 1.7.1.116"]
        choice = choose_for_gpu()
        assert str(choice.tensorrt) == "TensorRT for RTX 1.7.1.116"
        assert [str(item) for item in choice.refused] == ["TensorRT 10.3.0"]


def test_a_version_that_only_the_import_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the version of its package, TensorRT 10.3 may run on 12.0. Once it is imported, it turns out not to."""
    gpu = GpuIdentity("NVIDIA RTX 5090", (12, 0), "13.0")
    for name, version in (("tensorrt", "10.3.0"), ("tensorrt_rtx", "1.7.1")):
        (tmp_path / f"{name}.py").write_text(f"__version__ = {version!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("retinasdk.tensorrt.installed._package_version", lambda packages: None)
    with fake_gpu(products={}):
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.delitem(sys.modules, name)
        assert import_tensorrt("the test", gpu=gpu).__name__ == "tensorrt_rtx"
        del sys.modules["tensorrt"]
        with pytest.raises(DeviceError, match=r"TensorRT 10.3.0 does not .* pip install 'tensorrt-cu13>=10.8', or use"):
            import_tensorrt("the test", gpu=gpu, only="tensorrt")


def test_one_that_is_broken_and_one_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    gpu = GpuIdentity("NVIDIA H200", (9, 0), "13.0")
    with fake_gpu(products=RTX):
        monkeypatch.delitem(sys.modules, "tensorrt")
        with pytest.raises(MissingDependencyError, match=r"libnvinfer.so.10: cannot open; TensorRT for RTX 1.7.1 does"):
            import_tensorrt("the test", gpu=gpu)


# -- building ----------------------------------------------------------------------------------------------------------


def test_without_a_gpu_the_one_that_needs_none_builds(model_path: Path, tmp_path: Path) -> None:
    with fake_gpu(devices=0, reason="no driver", products=BOTH):
        info = build_engine(model_path, tmp_path / "x.engine", precision="fp32")
    assert (info.fingerprint.tensorrt, info.fingerprint.gpu) == ("tensorrt_rtx", None)


def test_building_for_other_gpus_with_this_one_hidden(model_path: Path, tmp_path: Path) -> None:
    """What the message says works: CUDA finds no device when CUDA_VISIBLE_DEVICES is empty."""
    with (
        fake_gpu(products=RTX, compute_capability=(9, 0)),
        pytest.raises(DeviceError, match=r"or build for other GPUs with this one hidden: CUDA_VISIBLE_DEVICES= retin"),
    ):
        build_engine(model_path, tmp_path / "x.engine")
    with fake_gpu(products=RTX, compute_capability=(9, 0), devices=0):
        build_engine(model_path, tmp_path / "x.engine", precision="fp32")


# -- engine files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtx", [False, True])
def test_an_engine_picks_the_product_that_built_it(
    rtx: bool, model_path: Path, spec: ModelSpec, tmp_path: Path, detector: Detector
) -> None:
    version = "1.7.1.116" if rtx else "10.13.3.9"
    engine = save_engine(tmp_path / "x.engine", model_path, spec, version=version, rtx=rtx, compute_capability=(8, 9))
    with fake_gpu(products=BOTH, compute_capability=(8, 9)), Detector(engine) as on_gpu:
        assert on_gpu(blocks()) == detector(blocks())
        assert on_gpu._backend._engine.tensorrt == ("tensorrt_rtx 1.7.1" if rtx else "tensorrt 10.13.3")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("products", "rtx", "error", "message"),
    [
        # Building again helps with the one that is installed.
        (
            TENSORRT,
            True,
            ModelError,
            r"by tensorrt_rtx 1.7.1.116, but tensorrt 10.13.3 is .* Build the engine ag",
        ),
        # It does not help, as the one that is installed does not run here.
        (
            RTX,
            False,
            ModelError,
            r"by tensorrt 10.13.3.9, but tensorrt_rtx 1.7.1 is .* That one does not support this GPU, a Fake GPU: "
            r"install TensorRT with: pip install 'tensorrt-cu12'",
        ),
        (
            RTX,
            True,
            DeviceError,
            r"TensorRT for RTX 1.7.1 does not .* pip install 'tensorrt-cu12', or run the ONNX",
        ),
        (
            BOTH,
            True,
            DeviceError,
            r"x.engine is an engine of TensorRT for RTX 1.7.1, which does not support compute capability 9.0 "
            r"\(Fake GPU\). Build the engine again for TensorRT 10.13.3 with: retinasdk build",
        ),
    ],
)
def test_an_engine_that_cannot_run_here(
    products: dict[str, str],
    rtx: bool,
    error: type[Exception],
    message: str,
    model_path: Path,
    spec: ModelSpec,
    tmp_path: Path,
) -> None:
    version = "1.7.1.116" if rtx else "10.13.3.9"
    engine = save_engine(tmp_path / "x.engine", model_path, spec, version=version, rtx=rtx, tensorrt_version=version)
    with fake_gpu(products=products, compute_capability=(9, 0)), pytest.raises(error, match=message):
        Detector(engine)


@pytest.mark.parametrize(("chip", "helps"), [((8, 9), True), ((9, 0), False)])
def test_an_engine_that_tensorrt_refuses_may_not_be_worth_building_again(
    chip: tuple[int, int], helps: bool, model_path: Path, spec: ModelSpec, tmp_path: Path, monkeypatch: Any
) -> None:
    """On an H200, the error after the build of an engine advised to build it again."""
    version = "1.7.1" if helps else "1.8.0"  # of which nothing is known yet
    engine = save_engine(tmp_path / "x.engine", model_path, spec, version=f"{version}.1", rtx=True)
    monkeypatch.setattr("fakes.tensorrt.Runtime.deserialize_cuda_engine", lambda runtime, plan: None)
    with fake_gpu(tensorrt=version, rtx=True, compute_capability=chip), pytest.raises(ModelError) as caught:
        Detector(engine)
    said = str(caught.value)
    assert ("building it again does not help: install TensorRT with: pip install 'tensorrt-cu12'" in said) != helps
    assert re.search(r"[bB]uild it again .*with: retinasdk build model.onnx", said)
