"""Tests every flavour on whole inputs: anchors by index at real sizes, and images on the CPU and CUDA paths."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from pictures import LABELS, blocks

from retinasdk import Detector, ModelSpec, Resize
from retinasdk.convert.flavours import flavour_spec, list_flavours, load_preset
from retinasdk.pipeline.postprocess import decode
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.types import HeadOutputs

UPRIGHT = [name for name in list_flavours() if not load_preset(name).box_coder.is_rotated]

# -- anchors -----------------------------------------------------------------------------------------------------------

TORCHVISION_SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
ROUNDED = ("torchvision", "mlperf", "keras-hub")
CENTRED = ("odtk", "keras-retinanet", "pytorch-retinanet", "tf-models")  # Half a stride inside the cell.


def oracle_anchors(
    flavour: str, cells: list[tuple[int, int]], padded: tuple[int, int]
) -> list[npt.NDArray[np.float64]]:
    """Computes (h, w, 9, 4) anchors xyxy of each level in float64, written from the sources of the frameworks."""
    levels = []
    for index, (rows, columns) in enumerate(cells):
        nominal = 8 * 2**index
        if flavour in ROUNDED:
            sizes = [float(size) for size in TORCHVISION_SIZES[index]]
        else:
            sizes = [4 * nominal * 2 ** (octave / 3) for octave in range(3)]
        ratios = {"odtk": [1.0, 2.0, 0.5], "tf-models": [2.0, 1.0, 0.5]}.get(flavour, [0.5, 1.0, 2.0])
        if flavour in ("detectron2", "odtk", "tf-models"):
            pairs = [(size, ratio) for size in sizes for ratio in ratios]
        else:
            pairs = [(size, ratio) for ratio in ratios for size in sizes]
        base = []
        for size, ratio in pairs:
            width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
            box = np.array([-width, -height, width, height]) / 2
            base.append(np.round(box) if flavour in ROUNDED else box)  # Half to even, as in PyTorch.
        # ROUNDED and ODTK compute the stride from the input size; in the others it is fixed.
        known = flavour not in (*ROUNDED, "odtk")
        stride_y, stride_x = (nominal, nominal) if known else (padded[0] // rows, padded[1] // columns)
        centre = nominal / 2 if flavour in CENTRED else 0.0
        y, x = np.meshgrid(np.arange(rows) * stride_y + centre, np.arange(columns) * stride_x + centre, indexing="ij")
        levels.append(np.stack([x, y, x, y], axis=-1)[:, :, None] + np.array(base))
    return levels


def cells_of(padded: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns (rows, columns) of P3 to P7. Every halving rounds up."""
    return [(-(-padded[0] // 2**level), -(-padded[1] // 2**level)) for level in range(3, 8)]


@pytest.mark.parametrize("padded", [(800, 800), (800, 1344), (640, 640), (544, 928), (96, 1184)], ids=str)
@pytest.mark.parametrize("flavour", UPRIGHT)
def test_anchors_by_index(flavour: str, padded: tuple[int, int]) -> None:
    """With one (anchor, class) pair above the threshold and deltas of 0, the box is the anchor of that index."""
    spec = flavour_spec(flavour, labels=["a", "b"]).replace(clip="none", drop_empty="never", top_k=4000)
    cells = cells_of(padded)
    wanted = oracle_anchors(flavour, cells, padded)
    random = np.random.default_rng(0)
    logits, places = [], []
    for level, (rows, columns) in enumerate(cells):
        values = np.full((1, 18, rows, columns), -20, np.float32)
        for _ in range(60):
            anchor, y, x = random.integers(9), random.integers(rows), random.integers(columns)
            values[0, anchor * 2 + 1, y, x] = len(places) + 1  # A different logit for each, to identify its box.
            places.append((level, y, x, anchor))
        logits.append(values)
    deltas = tuple(np.zeros((1, 36, *size), np.float32) for size in cells)
    found = decode(HeadOutputs(tuple(logits), deltas), spec, [Transform(padded, padded, padded)], score_threshold=0.5)
    count = found.counts[0]
    assert count > 200
    for box, logit, class_id in zip(found.boxes[0][:count], found.logits[0], found.class_ids[0], strict=False):
        level, y, x, anchor = places[round(float(logit)) - 1]
        assert class_id == 1
        assert box == pytest.approx(wanted[level][y, x, anchor], abs=2e-3)


def test_a_fixed_stride_would_be_pixels_off() -> None:
    """With strides of 64 and 128, the last cells of P6 and P7 would be 36 and 84 pixels off at 800 pixels."""
    (*_, p6, p7) = oracle_anchors("torchvision", cells_of((800, 800)), (800, 800))
    fixed = oracle_anchors("mmdet", cells_of((800, 800)), (800, 800))
    assert p6[-1, -1, 3, 0] + 128 == 12 * 61
    assert p7[-1, -1, 3, 0] + 256 == 6 * 114
    assert 12 * 64 - 12 * 61 == 36
    assert 6 * 128 - 6 * 114 == 84
    assert fixed[3].shape == p6.shape


# -- whole images ------------------------------------------------------------------------------------------------------


def small_spec(flavour: str) -> ModelSpec:
    """The rules of the flavour for the tiny network: only the image size and the anchors are smaller."""
    spec = flavour_spec(flavour, labels=list(LABELS))
    levels = tuple(
        dataclasses.replace(
            level, base_anchors=tuple(tuple(side / 4 for side in anchor) for anchor in level.base_anchors)
        )
        for level in spec.levels
    )
    resize = spec.resize
    size = (128, 192) if resize.rule == "squash" else (128, 224)
    resize = Resize(resize.rule, size, resize.rounding, resize.antialias)
    return spec.replace(levels=levels, resize=resize, score_threshold=0.25, pad_multiple=max(spec.pad_multiple, 32))


_LONG = ("keras-retinanet", "mmdeploy", "pytorch-retinanet")


@pytest.mark.parametrize(
    "flavour", [pytest.param(name, marks=[pytest.mark.heavy] if name in _LONG else []) for name in UPRIGHT]
)
def test_cpu_and_cuda_alike(flavour: str, network: onnx.ModelProto, tmp_path: Path) -> None:
    """Single images and batches of three give the same bits on the CPU and with emulated CUDA kernels."""
    path = tmp_path / "tiny.onnx"
    onnx.save(network, path)
    spec = small_spec(flavour)
    spec.save(path.with_suffix(".json"))
    images = [blocks(*size, seed=seed) for seed, size in enumerate(((90, 120), (61, 47), (30, 200)))]
    batch = [blocks(90, 120, seed=seed) for seed in range(3)]
    with Detector(path, device="cpu", threads=1) as on_cpu:
        wanted, wanted_batch = [on_cpu(image) for image in images], on_cpu(batch)
    assert sum(map(len, wanted)) > 20
    engine = save_engine(tmp_path / "tiny.engine", path, spec)
    with fake_gpu(), Detector(engine) as on_gpu:
        assert [on_gpu(image) for image in images] == wanted
        assert on_gpu(batch) == wanted_batch


@pytest.mark.parametrize("flavour", ["odtk", "keras-retinanet"])
def test_one_scale_for_both_axes(flavour: str) -> None:
    """427 x 640 becomes 800 x 1199 (exactly 1199.06), so one scale and a scale per axis differ at the right edge."""
    spec = flavour_spec(flavour)
    transform = Transform.plan((427, 640), spec)
    box = np.array([[10, 20, 1199, 800]], np.float32)
    scale = 800 / 427
    assert transform.to_original(box)[0] == pytest.approx(box[0] / scale, rel=1e-6)
    by_axis = Transform.plan((427, 640), spec.replace(rescale="per_axis")).to_original(box)
    assert abs(by_axis[0, 2] - transform.to_original(box)[0, 2]) > 0.01
