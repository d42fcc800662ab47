"""Compares each kernel on the device with the CPU's function: the results are equal bit for bit."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import (
    INF,
    NAN,
    DecodeCase,
    NmsCase,
    crowd,
    decode_cases,
    image,
    nms_cases,
    random_heads,
    sprinkled,
    with_rules,
)
from cuda_ops import CudaOps
from cuda_parity import (
    MEAN,
    SIZES,
    STD,
    as_batch,
    assert_same_candidates,
    assert_same_fused,
    assert_same_kept,
    assert_same_soft,
    halved,
    one_image,
)
from gpu_device import DeviceMemory, Gpu, OnStream
from overlap_cases import OverlapCase, fusion_cases, soft_cases

from retinasdk import _native
from retinasdk.cuda.device import CudaStream

HALVES = pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])


def ops(gpu: Gpu, stream: CudaStream, *, half: bool = False, skew: int = 0) -> CudaOps:
    memory: Any = functools.partial(DeviceMemory, gpu, stream, skew=skew)
    native: Any = OnStream(gpu.native, stream)
    return CudaOps(native, memory, half=half)


# -- decode ------------------------------------------------------------------------------------------------------------


def assert_decodes_alike(case: DecodeCase, gpu: Gpu, stream: CudaStream, *, half: bool, skew: int = 0) -> None:
    assert_same_candidates(halved(case) if half else case, ops(gpu, stream, half=half, skew=skew))


@HALVES
@pytest.mark.parametrize("case", list(decode_cases()), ids=lambda case: case.name)
def test_decode(gpu: Gpu, stream: CudaStream, case: DecodeCase, half: bool) -> None:
    assert_decodes_alike(case, gpu, stream, half=half)


@HALVES
@pytest.mark.parametrize("batch", range(1, 9))
def test_batches(gpu: Gpu, stream: CudaStream, batch: int, half: bool) -> None:
    """The logits of an image, and the arrays themselves, may begin at addresses that vector loads cannot use."""
    for anchors, classes in ((1, 1), (3, 1), (1, 5), (9, 3)):
        case = random_heads(
            batch, batch=batch, anchors=anchors, classes=classes, sizes=[(9, 13), (5, 7), (2, 2), (1, 1)]
        )
        for skew in (0, 1):
            assert_decodes_alike(case, gpu, stream, half=half, skew=skew)


@HALVES
@pytest.mark.parametrize("seed", range(40))
def test_any_heads(gpu: Gpu, stream: CudaStream, seed: int, half: bool) -> None:
    random = np.random.default_rng(seed)
    case = random_heads(
        seed,
        batch=int(random.integers(1, 9)),
        anchors=int(random.integers(1, 10)),
        classes=int(random.integers(1, 13)),
        sizes=[(int(rows), int(columns)) for rows, columns in random.integers(1, 20, (random.integers(1, 6), 2))],
        top_k=int(random.integers(1, 200)),
        logit_threshold=float(random.choice([-INF, -3.0, 0.0, 1.5])),
        coder_clamp_max=float(random.choice([4.135166556742356, 0.5, INF])),
    )
    coarse = [np.round(logits * 16) / np.float32(16) for logits in case.logits]  # ties
    for tried in (case, replace(case, logits=coarse), sprinkled(case, seed), with_rules(case, seed)):
        assert_decodes_alike(tried, gpu, stream, half=half)


@HALVES
def test_more_candidates_than_the_buffer_holds(gpu: Gpu, stream: CudaStream, half: bool) -> None:
    """One of two images is crowded: its level is read again, and no candidate is lost."""
    case = random_heads(70, batch=2, anchors=9, classes=5, sizes=[(50, 45), (3, 3)], top_k=2500, logit_threshold=-INF)
    pairs = case.logits[0][1].size
    assert pairs > 79_872
    case.logits[0][1] = np.where(np.arange(pairs) < 30_000, 0.5, -INF).reshape(case.logits[0][1].shape)
    tried = ops(gpu, stream, half=half)
    assert_same_candidates(halved(case) if half else case, tried)
    assert tried.rescans == [1, 0]


@HALVES
@pytest.mark.parametrize("batch", [1, 8])
def test_three_hundred_thousand_anchors(gpu: Gpu, stream: CudaStream, batch: int, half: bool) -> None:
    case = random_heads(
        71, batch=batch, anchors=9, classes=1, sizes=[(160, 160), (80, 80), (40, 40), (20, 20), (10, 10)]
    )
    assert sum(level[0].size for level in case.logits) == 306_900
    assert_decodes_alike(replace(case, logit_threshold=3.0), gpu, stream, half=half)


@HALVES
@pytest.mark.parametrize("threshold", [3.0, 6.0], ids=["more than the buffer holds", "fewer"])
def test_resnet50_at_800_by_1344(gpu: Gpu, stream: CudaStream, threshold: float, half: bool) -> None:
    """Head outputs of the size in docs/kernel_budget.md, of which 2.3% or 0.02% of the logits pass."""
    sizes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    case = random_heads(72, anchors=9, classes=91, sizes=sizes, logit_threshold=threshold)
    assert sum(level.shape[2] * level.shape[3] * 9 for level in case.logits) == 201_600
    tried = ops(gpu, stream, half=half)
    assert_same_candidates(halved(case) if half else case, tried)
    assert (tried.rescans == [0]) == (threshold == 6.0)


# -- NMS ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(nms_cases()), ids=lambda case: case.name)
def test_nms(gpu: Gpu, stream: CudaStream, case: NmsCase) -> None:
    assert_same_kept(one_image(case), ops(gpu, stream), **case.options())


@pytest.mark.parametrize("case", list(soft_cases()), ids=str)
def test_soft_nms(gpu: Gpu, stream: CudaStream, case: OverlapCase) -> None:
    assert_same_soft(as_batch(case.candidates), ops(gpu, stream), **case.options())


@pytest.mark.parametrize("case", list(fusion_cases()), ids=str)
def test_fusion(gpu: Gpu, stream: CudaStream, case: OverlapCase) -> None:
    assert_same_fused(as_batch(case.candidates), ops(gpu, stream), **case.options())


@pytest.mark.parametrize("count", [1, 31, 32, 33, 255, 256, 257, 511, 513, 2047, 2048, 2049, 5000])
def test_sizes_around_warps_and_tiles(gpu: Gpu, stream: CudaStream, count: int) -> None:
    data = NmsCase("crowd", *crowd(count, count, classes=3, extent=40 + count // 4))
    for maximum in (1, 7, 300, count):
        assert_same_kept(one_image(data), ops(gpu, stream), iou_threshold=0.5, max_detections=maximum)


def test_images_of_a_batch_have_their_own_counts(gpu: Gpu, stream: CudaStream) -> None:
    """Candidates behind the counts are not read."""
    boxes, logits, class_ids = crowd(30, 600, classes=3)
    counts = np.array([600, 0, 63, 1, 257, 599, 300, 2], dtype=np.int32)
    batch = [np.stack([array] * len(counts)) for array in (boxes, logits, class_ids)]
    for i, count in enumerate(counts):
        batch[0][i, count:] = NAN
        batch[1][i, count:] = INF
    assert_same_kept([*batch, counts], ops(gpu, stream), iou_threshold=0.5, max_detections=300)


@pytest.mark.parametrize("seed", range(40))
def test_any_candidates(gpu: Gpu, stream: CudaStream, seed: int) -> None:
    random = np.random.default_rng(seed)
    batch, count = int(random.integers(1, 9)), int(random.integers(1, 1500))
    extent = int(random.integers(1, 400))
    data = [crowd(seed + i, count, classes=int(random.integers(1, 6)), extent=extent) for i in range(batch)]
    boxes, logits, class_ids = (np.stack(arrays) for arrays in zip(*data, strict=True))
    boxes += random.random(boxes.shape, dtype=np.float32) * (seed % 2)
    counts = random.integers(0, count + 1, batch).astype(np.int32)
    options = {
        "iou_threshold": float(random.random(dtype=np.float32)),
        "max_detections": int(random.integers(1, 500)),
        "or_equal": bool(random.integers(2)),
        "inclusive_pixels": bool(random.integers(2)),
    }
    assert_same_kept([boxes, logits, class_ids, counts], ops(gpu, stream), **options)


# -- preprocess --------------------------------------------------------------------------------------------------------

# Of a camera, as torchvision's rules and the bundled model's resize it; and one that grows.
LARGE_SIZES = [
    ((1080, 1920), (750, 1333), (768, 1344)),
    ((1080, 1920), (432, 768), (512, 768)),
    ((480, 640), (800, 1066), (800, 1088)),
]


@HALVES
@pytest.mark.parametrize("antialias", [False, True], ids=["bilinear", "antialias"])
@pytest.mark.parametrize(("size", "resized", "padded"), [*SIZES, *LARGE_SIZES])
def test_preprocess(
    gpu: Gpu,
    stream: CudaStream,
    size: tuple[int, int],
    resized: tuple[int, int],
    padded: tuple[int, int],
    antialias: bool,
    half: bool,
) -> None:
    picture = image(7, *size)
    options: dict[str, Any] = {"resized": resized, "mean": MEAN, "std": STD, "antialias": antialias}
    wanted = np.empty((3, *padded), np.float32)
    canvas = np.empty(wanted.shape, np.float16 if half else np.float32)
    for reverse in (False, True):
        _native.preprocess_into(picture, wanted, **options, reverse_channels=reverse)
        ops(gpu, stream, half=half).preprocess_into(picture, canvas, **options, reverse_channels=reverse)
        assert canvas.tobytes() == wanted.astype(canvas.dtype).tobytes()


@HALVES
@pytest.mark.parametrize("spare", [0, 6], ids=["tight rows", "spare bytes in a row"])
@pytest.mark.parametrize(("size", "resized", "padded"), [
    ((24, 32), (24, 32), (24, 32)), ((48, 64), (80, 106), (96, 128)), ((360, 640), (128, 227), (128, 256)),
])  # fmt: skip
@pytest.mark.parametrize(("format", "matrix", "full_range"), [
    ("nv12", "bt601", False), ("nv12", "bt709", True), ("p010", "bt2020", False), ("p010", "bt709", True),
])  # fmt: skip
def test_camera_frames(
    gpu: Gpu,
    stream: CudaStream,
    format: str,
    matrix: str,
    full_range: bool,
    size: tuple[int, int],
    resized: tuple[int, int],
    padded: tuple[int, int],
    spare: int,
    half: bool,
) -> None:
    """An NV12 or P010 frame gives the same network input as its RGB version."""
    random = np.random.default_rng(11)
    height, width = size
    sample, highest = (np.uint8, 255) if format == "nv12" else (np.uint16, 65535)
    luma = random.integers(0, highest, (height, width + spare), dtype=sample)
    chroma = random.integers(0, highest, (height // 2, width + spare), dtype=sample)
    pairs = chroma[:, :width].reshape(height // 2, width // 2, 2)
    rgb = _native.yuv_to_rgb(luma[:, :width], pairs, matrix=matrix, full_range=full_range)

    wanted = np.empty((3, *padded), np.float32)
    options: dict[str, Any] = {"mean": MEAN, "std": STD, "reverse_channels": False}
    _native.preprocess_into(rgb, wanted, resized=resized, antialias=True, **options)
    memory, dtype = DeviceMemory(gpu, stream), np.dtype(np.float16 if half else np.float32)
    sizes: dict[str, Any] = {"size": size, "resized": resized, "padded": padded, "antialias": True}
    scratch_bytes = gpu.native.preprocess_scratch_bytes(**sizes)
    output = memory.room(wanted.shape, dtype)
    gpu.native.preprocess(
        format=format,
        pixels=memory.put(luma),
        row_bytes=luma.strides[0],
        chroma=memory.put(chroma),
        chroma_row_bytes=chroma.strides[0],
        matrix=matrix,
        full_range=full_range,
        **sizes,
        **options,
        output=output,
        dtype=dtype.name,
        scratch=memory.room((scratch_bytes,), np.uint8),
        scratch_bytes=scratch_bytes,
        stream=stream.handle,
    )
    assert memory.take(output).tobytes() == wanted.astype(dtype).tobytes()
