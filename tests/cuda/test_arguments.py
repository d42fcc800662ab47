"""Tests that the CUDA functions refuse bad arguments before any kernel starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cases import NAN
from emulated_cuda import emulated_native


def decode_arguments(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "logits": [256], "deltas": [256], "base_anchors": [256], "sizes": [(2, 2)], "strides": [(8.0, 8.0)],
        "batch": 1, "anchors": 1, "classes": 1, "dtype": "float32", "top_k": 4, "coder_weights": (1.0, 1.0, 1.0, 1.0),
        "coder_clamp_max": 4.0, "logit_threshold": 256, "class_mask": 256, "clip_sizes": 256, "boxes": 256,
        "out_logits": 256, "class_ids": 256, "counts": 256, "rescans": 0, "scratch": 256, "scratch_bytes": 1 << 20,
        "stream": 0,
    }  # fmt: skip
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": []}, "need one entry for each level"),
        ({"dtype": "int8"}, "dtype must be 'float32' or 'float16', got 'int8'"),
        ({"batch": 0}, "batch must be 1 to 65535, got 0"),
        ({"batch": 65536}, "batch must be 1 to 65535, got 65536"),
        ({"top_k": 0}, "top_k must be 1 to 1048576, got 0"),
        ({"top_k": (1 << 20) + 1}, "top_k must be 1 to 1048576, got 1048577"),
        ({"classes": 0}, "classes must be 1 to 65536, got 0"),
        ({"classes": 65537}, "classes must be 1 to 65536, got 65537"),
        ({"anchors": 2000}, "anchors per cell must be 1 to 1024, got 2000"),
        ({"sizes": [(0, 2)]}, "level sides must be 1 to 65536, got 0 x 2"),
        ({"sizes": [(65537, 2)]}, "level sides must be 1 to 65536, got 65537 x 2"),
        ({"sizes": [(2, 0)]}, "level sides must be 1 to 65536, got 2 x 0"),
        ({"sizes": [(2, 65537)]}, "level sides must be 1 to 65536, got 2 x 65537"),
        ({"sizes": [(65536, 65536)], "anchors": 1024, "classes": 65536}, "at most 2147483647 pairs are supported"),
        ({"coder_weights": (1.0, 0.0, 1.0, 1.0)}, "box coder weights must be above 0"),
        ({"coder_means": (NAN, 0.0, 0.0, 0.0)}, "box coder means must be finite"),
        ({"coder_kind": "edge"}, "coder_kind must be 'center' or 'corner', got 'edge'"),
        ({"scratch_bytes": 10}, r"scratch must have \d+ bytes, got 10"),
        ({"scratch": 0}, r"scratch must have \d+ bytes"),
        ({name: [256] * 17 for name in ("logits", "deltas", "base_anchors")}
         | {"sizes": [(1, 1)] * 17, "strides": [(1.0, 1.0)] * 17}, "decode takes 1 to 16 levels, got 17"),
    ],
)  # fmt: skip
def test_bad_arguments_of_decode(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        emulated_native().decode(**decode_arguments(**changes))


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("decode_scratch_bytes",
         {"sizes": [], "batch": 1, "anchors": 1, "classes": 1, "top_k": 1}, "decode takes 1 to 16 levels, got 0"),
        ("nms_scratch_bytes", {"batch": 0, "capacity": 1, "max_detections": 1}, "batch must be 1 to 65535, got 0"),
        ("nms_scratch_bytes", {"batch": 1, "capacity": 0, "max_detections": 1}, "capacity of the candidates must be 1"),
        ("nms_scratch_bytes", {"batch": 1, "capacity": 1, "max_detections": 0}, "max_detections must be 1 to 1048576"),
        ("nms_scratch_bytes",
         {"batch": 65536, "capacity": 1, "max_detections": 1}, "batch must be 1 to 65535, got 65536"),
        ("nms_scratch_bytes",
         {"batch": 1, "capacity": (1 << 24) + 1, "max_detections": 1}, "must be 1 to 16777216 per image, got 16777217"),
        ("nms_scratch_bytes",
         {"batch": 1, "capacity": 1, "max_detections": (1 << 20) + 1}, "must be 1 to 1048576, got 1048577"),
        ("soft_nms_scratch_bytes",
         {"batch": 1, "capacity": 1, "max_detections": 1, "classes": 65537}, "must be 1 to 65536, got 65537"),
        ("preprocess_scratch_bytes",
         {"size": (65537, 1), "resized": (1, 1), "padded": (1, 1), "antialias": False}, "got 65537"),
        ("preprocess_scratch_bytes",
         {"size": (0, 1), "resized": (1, 1), "padded": (1, 1), "antialias": False}, "image height must be 1 to 65536"),
        ("preprocess_scratch_bytes",
         {"size": (1, 1), "resized": (1, 9), "padded": (1, 8), "antialias": False}, "padded width must be 9 to 65536"),
    ],
)  # fmt: skip
def test_bad_arguments(call: str, arguments: dict[str, Any], message: str) -> None:
    function: Callable[..., int] = getattr(emulated_native(), call)
    with pytest.raises(ValueError, match=message):
        function(**arguments)


def preprocess_arguments(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "format": "p010", "pixels": 256, "row_bytes": 8, "chroma": 256, "chroma_row_bytes": 8, "size": (4, 4),
        "resized": (2, 2), "padded": (2, 2), "antialias": False, "mean": (0.0,) * 3, "std": (1.0,) * 3,
        "reverse_channels": False, "output": 256, "dtype": "float32", "scratch": 256, "scratch_bytes": 1 << 20,
        "stream": 0,
    }  # fmt: skip
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": (1.0, 0.0, 1.0)}, "std must be above 0 in each channel"),
        ({"source_step": -1.0}, "source_step must be 0 to 65536, got -1"),
        ({"source_step": 65537.0}, "source_step must be 0 to 65536, got 65537"),
        ({"source_step": 2.0, "antialias": True}, "source_step must be 0 with antialias, got 2"),
        ({"size": (3, 4)}, "must have an even height and width, got 3 x 4"),
        ({"size": (4, 3)}, "must have an even height and width, got 4 x 3"),
        ({"pixels": 257}, "addresses and row distances of P010 images must be even"),
        ({"chroma_row_bytes": 9}, "addresses and row distances of P010 images must be even"),
    ],
)
def test_bad_arguments_of_preprocess(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        emulated_native().preprocess(**preprocess_arguments(**changes))
