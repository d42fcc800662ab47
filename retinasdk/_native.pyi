"""The C++ code for the CPU.

Shapes and rules are described in csrc/include/retinasdk/ops.h. Invalid arguments raise `TypeError` or `ValueError`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

def preprocess_into(
    image: npt.NDArray[np.uint8],
    canvas: npt.NDArray[np.float32],
    *,
    resized: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    reverse_channels: bool,
    antialias: bool,
    source_step: float = 0.0,
    eight_bit: bool = False,
    threads: int = 1,
) -> None:
    """Resizes, normalizes and pads an RGB image (H, W, 3) into `canvas`, (3, h, w), with up to `threads` threads.

    The image may be a view of BGR pixels whose channel stride is -1.
    """

def yuv_to_rgb(
    luma: npt.NDArray[np.uint8 | np.uint16],
    chroma: npt.NDArray[np.uint8 | np.uint16],
    *,
    matrix: str,
    full_range: bool,
) -> npt.NDArray[np.uint8]:
    """Converts luma (H, W) and chroma (H / 2, W / 2, 2) to RGB (H, W, 3). uint8 is NV12, uint16 is P010."""

def decode(
    logits: list[npt.NDArray[np.float32]],
    deltas: list[npt.NDArray[np.float32]],
    base_anchors: list[npt.NDArray[np.float32]],
    *,
    strides: list[tuple[float, float]],
    clip_sizes: npt.NDArray[np.float32],
    level_clips: list[tuple[float, float]] = ...,
    top_k_anchors: bool = False,
    logit_threshold: float,
    top_k: int,
    coder_weights: tuple[float, float, float, float],
    coder_clamp_max: float,
    class_ids: list[int],
    coder_kind: str = "center",
    coder_means: tuple[float, float, float, float] = ...,
    coder_clamp_min: float = ...,
    inclusive_pixels: bool = False,
    or_equal: bool = False,
    drop_empty: bool = False,
    class_thresholds: npt.NDArray[np.float32] | None = None,
    ignored: npt.NDArray[np.float32] | None = None,
    rotated: dict[str, Any] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Decodes head outputs of N images.

    Returns:
        Boxes (N, C, 4), or (N, C, 6) with `rotated`, logits (N, C), class indices (N, C) and counts (N,).
    """

def rotated_nms(
    boxes: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
    *,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    across_classes: bool = False,
    max_per_class: int = ...,
    shares_angle: bool = False,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Applies greedy NMS to rotated boxes (N, C, 6). Returns what `nms` returns."""

def rotated_ious(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the IoU of each rotated box (n, 6) with each of the others (m, 6), as (n, m)."""

def nms(
    boxes: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
    *,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = ...,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Applies greedy NMS.

    Returns:
        Indices of the kept candidates (N, M), padded with -1, and counts (N,).
    """

def soft_nms(
    boxes: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
    *,
    score_thresholds: npt.NDArray[np.float32],
    decay: str,
    sigma: float,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = ...,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Applies Soft-NMS.

    Returns:
        Indices of the kept candidates (N, M), padded with -1, counts (N,), and reduced scores (N, M).
    """

def fuse(
    boxes: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
    *,
    classes: int,
    fused_score: str,
    scale: str = "logit",
    models: int = 1,
    iou_threshold: float,
    max_detections: int,
    or_equal: bool = False,
    inclusive_pixels: bool = False,
    across_classes: bool = False,
    max_per_class: int = ...,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Applies weighted boxes fusion.

    Returns:
        Boxes (N, M, 4), scores (N, M), class indices (N, M) and counts (N,).
    """

def merge_tiles(
    boxes: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int32],
    tiles: npt.NDArray[np.int32],
    *,
    tops: npt.NDArray[np.int32],
    lefts: npt.NDArray[np.int32],
    tile_size: tuple[int, int],
    image_size: tuple[int, int],
    iou_threshold: float,
    or_equal: bool,
    inclusive_pixels: bool,
    cut_slack: tuple[float, float],
    cover_limit: float,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Merges the boxes of all tiles of an image.

    Returns:
        Indices of the kept boxes (m,), and the kept box that each box belongs to, or -1, (n,).
    """

def simd_name() -> str:
    """Returns the name of the vector instructions in use."""

def convolution_isa() -> str:
    """Returns the instruction set of the convolutions.

    Returns:
        "avx512", "avx2", "neon" or "plain": the fastest that the processor runs, or what RETINASDK_ISA names.

    Raises:
        ValueError: If RETINASDK_ISA names one that the processor does not run.
    """

def int8_isa() -> str:
    """Returns the instruction set of the 8-bit convolutions.

    Returns:
        "vnni": AVX-512 with its products of bytes; "avx_vnni": AVX2 with these; "avx2"; "dotprod": NEON with its
        products of bytes; or "plain", which is slow. It is never above that of convolution_isa().

    Raises:
        ValueError: If RETINASDK_ISA names one that the processor does not run.
    """
