"""Heads that leave TensorRT with their channels last: results are equal to the CPU's, bit for bit.

What is no layout that the kernels can read is rejected before a frame runs.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import FakeGpu, fake_gpu
from fakes.tensor_formats import VECTOR_SIZES, TensorFormat, in_memory, strides
from fakes.tensorrt import save_engine
from pictures import blocks
from random_retinanet import random_retinanet

from retinasdk import Detector, ModelError, ModelSpec
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.tensorrt.build import build_engine
from retinasdk.tensorrt.engine_info import EngineInfo
from retinasdk.tensorrt.head_layout import (
    OutputMemory,
    StoredOutput,
    cell_stride,
    formats_to_allow,
    head_memory,
    other_memory,
)

SHAPES = [
    (1, 36, 4, 5),
    (2, 27, 3, 7),
    (1, 9, 1, 1),
    (3, 9, 1, 1),
    (2, 8, 1, 6),
    (2, 9, 5, 1),
    (1, 1, 2, 3),
    (2, 1, 1, 1),
]
REBUILD = "Build the engine again with: retinasdk build model.onnx -o model.engine --head-layout channels_first"


# -- which formats the builder allows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("product", "version", "dtype", "channels", "formats"),
    [
        ("tensorrt", "8.5.2.2", "FLOAT", 27, ("HWC", "LINEAR")),
        ("tensorrt", "8.6.1", "HALF", 27, ("LINEAR",)),
        ("tensorrt", "8.6.1", "HALF", 720, ("HWC8", "LINEAR")),
        ("tensorrt", "10.3.0", "HALF", 36, ("LINEAR",)),
        ("tensorrt", "10.5.0", "HALF", 36, ("LINEAR",)),
        ("tensorrt", "10.5.0", "HALF", -1, ("LINEAR",)),
        ("tensorrt", "10.6.0", "HALF", 36, ("HWC", "LINEAR")),
        ("tensorrt", "11.4.0.106", "HALF", 720, ("HWC", "LINEAR")),
        ("tensorrt_rtx", "1.7.1.116", "HALF", 36, ("HWC", "LINEAR")),
        ("tensorrt_rtx", "1.7.1.116", "FLOAT", 36, ("HWC", "LINEAR")),
        ("tensorrt", "11.4.0", "INT8", 64, ("LINEAR",)),
        ("tensorrt", "unknown", "HALF", 36, ("LINEAR",)),
    ],
)
def test_formats(product: str, version: str, dtype: str, channels: int, formats: tuple[str, ...]) -> None:
    assert formats_to_allow(product, version, dtype, channels) == formats


@pytest.mark.parametrize(
    ("version", "rtx", "precision", "logits", "deltas"),
    [
        pytest.param("8.6.1", False, "fp32", "HWC", "HWC", marks=pytest.mark.heavy),
        ("8.6.1", False, "fp16", "HWC8", "LINEAR"),
        ("10.3.0", False, "int8", "HWC8", "LINEAR"),
        ("10.13.3.9", False, "fp16", "HWC", "HWC"),
        ("1.7.1", True, "fp16", "HWC", "HWC"),
    ],
)
def test_builds(tmp_path: Path, version: str, rtx: bool, precision: str, logits: str, deltas: str) -> None:
    """The inputs stay row-major. The engine with 72 logits and 36 deltas a cell detects what its own heads say."""
    model, spec = random_retinanet(classes=8)
    (tmp_path / "eight.onnx").write_bytes(model.SerializeToString())
    spec = spec.replace(score_threshold=0.02)
    path, images = tmp_path / "eight.engine", [blocks(seed=seed) for seed in range(2)]
    with fake_gpu(tensorrt=version, rtx=rtx) as gpu:
        info = build_engine(
            tmp_path / "eight.onnx", path, precision=precision, batch=(1, 2, 2), images=images, spec=spec
        )
        allowed = gpu.built[-1].formats  # type: ignore[attr-defined]
        for level in spec.levels:
            assert allowed[level.logits] == mask(logits, "LINEAR")
            assert allowed[level.deltas] == mask(deltas, "LINEAR")
        assert allowed[spec.input] == mask("LINEAR")
        assert set(info.head_formats) == {logits, deltas, "LINEAR"}
        assert EngineInfo.load(path).head_formats == info.head_formats
        with Detector(path) as on_gpu:
            memory = on_gpu_outputs(on_gpu, images)
            assert {name: bool(memory[name].cell_stride) for name in memory} == {
                name: format != "LINEAR"
                for level in spec.levels
                for name, format in ((level.logits, logits), (level.deltas, deltas))
            }
            assert on_gpu(images) == from_its_heads(on_gpu, images)


def mask(*formats: str) -> int:
    return sum(1 << TensorFormat[name] for name in set(formats))


def on_gpu_outputs(detector: Detector, images: list[Any]) -> dict[str, OutputMemory]:
    """The layouts that the engine has for a batch of images."""
    backend: Any = detector._backend
    shape = (len(images), 3, *Transform.plan(images[0].shape[:2], detector.spec).padded)
    with backend._engine.device.current():
        context = backend._engine.new_context()
        assert context.set_input_shape(detector.spec.input, shape)
        outputs: dict[str, OutputMemory] = backend._engine.output_memory(backend._engine.stored_outputs(context))
    return outputs


def from_its_heads(detector: Detector, images: list[Any]) -> list[Any]:
    """What the CPU's post-processing makes of the engine's own heads."""
    transforms = [Transform.plan(image.shape[:2], detector.spec) for image in images]
    heads = detector._backend.infer(preprocess(images, transforms, detector.spec).tensor)
    found = postprocess(heads, detector.spec, transforms, score_threshold=detector.score_threshold)
    assert sum(map(len, found)) > 0
    return found


def test_channels_first_on_request(model_path: Path, tmp_path: Path, spec: ModelSpec) -> None:
    path = tmp_path / "out.engine"
    with fake_gpu(tensorrt="11.4.0") as gpu:
        info = build_engine(model_path, path, head_layout="channels_first")
        assert set(gpu.built[-1].formats.values()) == {mask("LINEAR")}  # type: ignore[attr-defined]
        assert info.head_formats == ("LINEAR",)
        assert info.fingerprint.options["head_layout"] == "channels_first"
        with pytest.raises(ValueError, match="head_layout must be channels_first, or None, but got 'rows'"):
            build_engine(model_path, path, head_layout="rows")


# -- what engines with each layout detect ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [
        {"formats": {"heads": "HWC"}},
        {"formats": {"heads": "HWC"}, "gap": 5},
        {"formats": {"heads": "HWC"}, "dtypes": {"heads": "float16"}},
        {"formats": {"heads": "HWC8"}, "dtypes": {"heads": "float16"}},
        {"formats": {"logits_p3": "HWC8", "deltas_p5": "HWC8", "logits_p6": "HWC"}, "dtypes": {"heads": "float16"}},
    ],
    ids=["float32", "with a gap", "float16", "padded to eight", "mixed"],
)
def test_layouts(
    gpu: FakeGpu, detector: Detector, model_path: Path, spec: ModelSpec, tmp_path: Path, stored: dict[str, Any]
) -> None:
    """Raw heads and detections are those of the row-major engine; in float32, those of the CPU."""
    images = [blocks(seed=seed) for seed in range(3)] + [blocks(61, 47)]
    rows = save_engine(tmp_path / "rows.engine", model_path, spec, dtypes=stored.get("dtypes"))
    cells = save_engine(tmp_path / "cells.engine", model_path, spec, **stored)
    tensor = np.random.default_rng(0).normal(size=(2, 3, 128, 160)).astype(np.float32)
    with Detector(rows, device="cuda") as plain, Detector(cells, device="cuda") as last:
        wanted, heads = plain._backend.infer(tensor), last._backend.infer(tensor)
        for ours, theirs in zip(heads.logits + heads.deltas, wanted.logits + wanted.deltas, strict=True):
            assert ours.flags.c_contiguous
            assert (ours.shape, ours.dtype, ours.tobytes()) == (theirs.shape, theirs.dtype, theirs.tobytes())
        found = [last(image) for image in images]
        assert last(images) == found == plain(images)
        assert sum(map(len, found)) > 0
        if "dtypes" not in stored:
            assert found == detector(images)


def test_a_layout_that_the_kernels_cannot_read(gpu: FakeGpu, model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    formats, halves = {"deltas_p4": "CHW2"}, {"heads": "float16"}
    engine = save_engine(tmp_path / "pairs.engine", model_path, spec, dtypes=halves, formats=formats)
    with Detector(engine, device="cuda") as on_gpu, pytest.raises(ModelError) as caught:
        on_gpu(blocks())
    assert "pairs.engine: TensorRT stores the head output 'deltas_p4' of shape (1, 36, " in str(caught.value)
    assert "in the format CHW2 with strides (" in str(caught.value)
    assert "2 values of axis 1 in each element" in str(caught.value)
    assert str(caught.value).endswith(REBUILD)


# -- strides -----------------------------------------------------------------------------------------------------------


def stored_as(format: TensorFormat, shape: tuple[int, ...], dtype: npt.DTypeLike, of: tuple[int, ...]) -> StoredOutput:
    """An output with the format, and with these strides."""
    vector = (1, VECTOR_SIZES[format]) if format in VECTOR_SIZES else (-1, 1)
    return StoredOutput("out", np.dtype(dtype), shape, of, format.name, *vector)


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("format", [TensorFormat.LINEAR, TensorFormat.HWC, TensorFormat.HWC8])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("in_values", [False, True])
def test_what_lies_where(shape: tuple[int, ...], format: TensorFormat, gap: int, in_values: bool) -> None:
    """Every value is found where the strides say, whether they count elements or values."""
    size = VECTOR_SIZES.get(format, 1)
    given = strides(format, shape, gap)
    if in_values and size > 1:
        given = tuple(step if axis == 1 else step * size for axis, step in enumerate(given))
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    stored: npt.NDArray[np.float32] = np.ascontiguousarray(in_memory(format, values, gap)).reshape(-1)
    memory = head_memory(stored_as(format, shape, values.dtype, given), "some.engine")
    assert np.prod(memory.memory_shape) == stored.size
    assert memory.channels_first(stored.reshape(memory.memory_shape)).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("shape", "given", "vectorized"),
    [
        ((1, 36, 4, 5), (960, 24, 6, 1), (-1, 1)),  # rows with a gap
        ((2, 36, 4, 5), (800, 20, 5, 1), (-1, 1)),  # images with a gap
        ((1, 36, 4, 5), (720, 1, 200, 36), (-1, 1)),  # rows of cells with a gap
        ((1, 36, 4, 5), (720, 1, 36, 144), (-1, 1)),  # (N, W, H, C)
        ((1, 36, 4, 5), (400, 1, 100, 20), (-1, 1)),  # cells that overlap
        ((1, 36, 4, 5), (720, 20, 5, 1), (1, 2)),  # pairs of channels
        ((1, 36, 4, 5), (120, 1, 30, 6), (1, 8)),  # cells of 48
        ((1, 36, 4, 5), (720, 20, 5, 1), (3, 4)),  # vectors along the width
        ((1, 36, 20), (720, 20, 1), (-1, 1)),
        ((1, 36, 4, 5), (-1,), (-1, 1)),  # no answer
    ],
)
def test_what_is_neither(shape: tuple[int, ...], given: tuple[int, ...], vectorized: tuple[int, int]) -> None:
    assert cell_stride(shape, given, *vectorized) is None


def test_memory_of_outputs_that_nobody_reads() -> None:
    """TensorRT writes them in any layout, with all gaps."""
    for shape, format, gap in itertools.product(SHAPES, TensorFormat, (0, 3)):
        values = in_memory(format, np.zeros(shape, np.float16), gap)
        memory = other_memory(stored_as(format, shape, np.float16, strides(format, shape, gap)))
        assert memory.memory_shape[0] >= values.size
    assert other_memory(stored_as(TensorFormat.LINEAR, (), np.float16, ())).memory_shape == (1,)
    assert other_memory(stored_as(TensorFormat.LINEAR, (3, 4), np.float16, (6, 1))).memory_shape == (18,)
