"""Compares the rules of frameworks other than torchvision with the NumPy reference, from heads to image pixels."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import reference
from cases import BASE
from cuda_ops import CudaOps
from emulated_cuda import emulated_native
from reference import Coder, Listed, assert_same_detections

from retinasdk import BoxCoder, Detections, Level, ModelSpec, Normalise, Resize
from retinasdk.pipeline.postprocess import decode, nms, postprocess
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import base_anchors, clip_sizes, decode_rules, logit, suppression_op
from retinasdk.pipeline.suppression import AS_FRAMEWORK
from retinasdk.pipeline.types import HeadOutputs

LIMIT = math.log(1000 / 16)
ORIGINAL, RESIZED, PADDED = (180, 200), (90, 100), (96, 128)
TRANSFORMS = [Transform(ORIGINAL, RESIZED, PADDED)] * 2
STRIDES = (8, 16)


@dataclass(frozen=True)
class Flavour:
    """The rules of a framework as fields of the spec and as arguments of the NumPy reference, without defaults."""

    spec: dict[str, Any]
    oracle: dict[str, Any]


MEANS, WEIGHTS = (0.1, -0.2, 0.3, 0.05), (2.0, 4.0, 2.0, 3.0)
FLAVOURS = {
    # mmdetection and keras-retinanet have means and std as options; here std is 1 / weight.
    "means": Flavour(
        {"box_coder": BoxCoder(WEIGHTS, means=MEANS)}, {"coder": Coder(WEIGHTS, clamp_max=LIMIT, means=MEANS)}
    ),
    "detectron2": Flavour(
        {"clip": "original", "drop_empty": "after_nms"},
        {"clip_size": (-1, -1), "last_clip": ORIGINAL, "drop_empty": "after_nms", "coder": Coder(clamp_max=LIMIT)},
    ),
    "mmdetection": Flavour(
        {"box_coder": BoxCoder(clamp_min=-LIMIT), "drop_empty": "before_nms"},
        {"coder": Coder(clamp_max=LIMIT, clamp_min=-LIMIT), "drop_empty": "before_nms"},
    ),
    "ODTK": Flavour(
        {"box_coder": BoxCoder(clamp_max=None), "inclusive_pixels": True, "clip": "padded", "clip_limit": "last_pixel"},
        {"coder": Coder(inclusive_pixels=True), "clip_size": (PADDED[0] - 1, PADDED[1] - 1)},
    ),
    "keras-retinanet": Flavour(
        {
            "box_coder": BoxCoder((5.0, 5.0, 5.0, 5.0), None, kind="corner"),
            "clip_limit": "last_pixel",
            "top_k": 65_536,
        },
        {
            "coder": Coder((5.0, 5.0, 5.0, 5.0), kind="corner"),
            "clip_size": (RESIZED[0] - 1, RESIZED[1] - 1),
            "top_k": 65_536,
        },
    ),
}


def spec_of(flavour: str, **changes: Any) -> ModelSpec:
    anchors = [BASE * (2**i) for i in range(len(STRIDES))]
    spec = ModelSpec(
        name="small",
        flavour=flavour,
        labels=("a", "b", "c"),
        levels=tuple(
            Level(f"l{i}", f"d{i}", tuple(tuple(map(float, box)) for box in anchors[i]), (float(stride), float(stride)))
            for i, stride in enumerate(STRIDES)
        ),
        resize=Resize("squash", RESIZED),
        normalise=Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        pad_multiple=32,
        top_k=100,
    )
    return spec.replace(**{**FLAVOURS[flavour].spec, **changes})


def heads(seed: int) -> HeadOutputs:
    """Heads of two images, with deltas so large that boxes leave the image, become empty and reach every clamp."""
    random = np.random.default_rng(seed)
    cells = [(PADDED[0] // stride, PADDED[1] // stride) for stride in STRIDES]
    logits = [random.normal(-2.5, 1.5, (2, 9, *size)).astype(np.float32) for size in cells]
    deltas = [random.normal(0.0, 1.5, (2, 12, *size)).astype(np.float32) for size in cells]
    for level in deltas:
        level[random.random(level.shape) < 0.02] *= 20
    # A box so wide that it reaches across the image from far away, unless dw is clamped.
    logits[0][:, 3, 5, 5], deltas[0][:, 4:8, 5, 5] = 6.0, [-30.0, 0.0, 5.0, 0.0]
    return HeadOutputs(tuple(logits), tuple(deltas))


def found(spec: ModelSpec, seed: int) -> list[Detections]:
    return postprocess(heads(seed), spec, TRANSFORMS, score_threshold=0.05)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_equals_the_reference(flavour: str, seed: int) -> None:
    spec, given = spec_of(flavour), heads(seed)
    for image, detections in enumerate(found(spec, seed)):
        levels = [
            reference.Level(logits[image], deltas[image], np.array(level.base_anchors), (stride, stride))
            for level, logits, deltas, stride in zip(spec.levels, given.logits, given.deltas, STRIDES, strict=True)
        ]
        plain = {"clip_size": RESIZED, "top_k": 100}
        boxes, scores, class_ids = reference.postprocess(
            levels,
            original=ORIGINAL,
            resized=RESIZED,
            score_threshold=0.05,
            iou_threshold=0.5,
            max_detections=300,
            **{**plain, **FLAVOURS[flavour].oracle},
        )
        assert len(detections) > 20
        ours = Listed(detections.xyxy, detections.scores, detections.class_ids)
        assert_same_detections(ours, Listed(boxes, scores, class_ids), tie=1e-9)


@pytest.mark.parametrize(("flavour", "field"), [(name, field) for name in FLAVOURS for field in FLAVOURS[name].spec])
def test_every_rule_matters(flavour: str, field: str) -> None:
    """Every rule changes the result, so the comparison with the reference can fail."""
    spec = spec_of(flavour)
    (default,) = (item.default for item in dataclasses.fields(ModelSpec) if item.name == field)
    without = spec.replace(**{field: 100 if field == "top_k" else default})
    assert any(found(spec, seed) != found(without, seed) for seed in range(5))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_gpu_is_given_the_same_rules(flavour: str) -> None:
    spec, given, cuda = spec_of(flavour, top_k=100), heads(7), CudaOps(emulated_native())
    candidates = decode(given, spec, TRANSFORMS, score_threshold=0.05)
    ours = cuda.decode(
        list(given.logits),
        list(given.deltas),
        base_anchors(spec),
        strides=[(float(stride), float(stride)) for stride in STRIDES],
        clip_sizes=clip_sizes(TRANSFORMS, spec),
        logit_threshold=logit(0.05),
        class_ids=[],
        **decode_rules(spec),
    )
    np.testing.assert_array_equal(ours[3], candidates.counts)
    for image, count in enumerate(candidates.counts):
        assert ours[0][image, :count].tobytes() == candidates.boxes[image, :count].tobytes()
    kept, counts = cuda.nms(*ours, max_detections=300, **suppression_op(AS_FRAMEWORK, spec)[1])
    wanted, wanted_counts = nms(candidates, max_detections=300, **suppression_op(AS_FRAMEWORK, spec)[1])
    np.testing.assert_array_equal(counts, wanted_counts)
    for image, count in enumerate(counts):
        assert kept[image, :count].tolist() == wanted[image, :count].tolist()


# -- rules that are applied after NMS ----------------------------------------------------------------------------------


def one_box(deltas: list[float], **changes: Any) -> list[list[float]]:
    """Decodes one anchor of 16 x 16 pixels around (0, 0); the network input has half the size of the original."""
    spec = spec_of("detectron2", **changes)
    spec = spec.replace(labels=("a",), levels=(Level("l", "d", ((-8.0, -8.0, 8.0, 8.0),), (8.0, 8.0)),))
    logits = np.ones((1, 1, 1, 1), dtype=np.float32)
    moved = np.array(deltas, dtype=np.float32).reshape(1, 4, 1, 1)
    (detections,) = postprocess(HeadOutputs((logits,), (moved,)), spec, TRANSFORMS[:1], score_threshold=0.5)
    return detections.xyxy.tolist()


@pytest.mark.parametrize(
    ("deltas", "changes", "boxes"),
    [
        ([0, 0, 0, 0], {}, [[0, 0, 16, 16]]),
        ([6, 5.25, 0, 0], {}, [[176, 152, 200, 180]]),
        ([6, 5.25, 0, 0], {"clip_limit": "last_pixel"}, [[176, 152, 199, 179]]),
        ([6, 5.25, 0, 0], {"clip": "none"}, [[176, 152, 208, 184]]),
        ([-1, 0, 0, 0], {}, []),
        ([-1, 0, 0, 0], {"drop_empty": "never"}, [[0, 0, 0, 16]]),
        ([-1, 0, 0, 0], {"clip": "none"}, [[-48, -16, -16, 16]]),  # Outside of the image, but not empty.
        ([0, 20, 0, 0], {}, []),
        ([0, 20, 0, 0], {"drop_empty": "before_nms"}, [[0, 180, 16, 180]]),  # Before NMS it is not clipped yet.
        (
            [0, 20, 0, 0],
            {"inclusive_pixels": True, "clip_limit": "last_pixel"},
            [[0, 179, 16, 179]],
        ),  # One row of pixels.
    ],
)
def test_clipped_and_dropped_in_the_original_image(
    deltas: list[float], changes: dict[str, Any], boxes: list[list[float]]
) -> None:
    np.testing.assert_allclose(np.reshape(one_box(deltas, **changes), (-1, 4)), np.reshape(boxes, (-1, 4)), atol=1e-4)


def test_empty_boxes_take_places_unless_they_go_before_nms() -> None:
    """mmdetection drops empty boxes and then takes the best 100; detectron2 takes 100 and then drops."""
    logits, deltas = np.zeros((1, 3, 1, 1), np.float32), np.zeros((1, 12, 1, 1), np.float32)
    logits[0, :, 0, 0] = [1, 3, 2]
    deltas[0, [0, 4], 0, 0] = [1, -50]
    deltas[0, 6, 0, 0] = -math.inf  # The best box has no width and lies left of the image.
    heads = HeadOutputs((logits,), (deltas,))

    def scores(drop_empty: str, clip: str) -> list[float]:
        spec = spec_of("detectron2", drop_empty=drop_empty, clip=clip, max_detections=2, labels=("a",))
        spec = spec.replace(levels=spec.levels[:1])
        (detections,) = postprocess(heads, spec, TRANSFORMS[:1], score_threshold=0.5)
        return detections.scores.tolist()

    assert scores("never", "resized") == pytest.approx([0.953, 0.881], abs=1e-3)
    assert scores("after_nms", "original") == pytest.approx([0.881], abs=1e-3)
    assert scores("before_nms", "resized") == pytest.approx([0.881, 0.731], abs=1e-3)


def test_scores_at_the_threshold() -> None:
    logits = np.array([0.0, 1.0, -1.0], dtype=np.float32).reshape(1, 3, 1, 1)
    deltas = np.zeros((1, 12, 1, 1), dtype=np.float32)
    for comparison, count in ((">", 1), (">=", 2)):
        spec = spec_of("detectron2", labels=("a",), score_comparison=comparison, nms_iou_threshold=1.0)
        spec = spec.replace(levels=spec.levels[:1])
        (detections,) = postprocess(HeadOutputs((logits,), (deltas,)), spec, TRANSFORMS[:1], score_threshold=0.5)
        assert len(detections) == count


def test_overlaps_at_the_threshold() -> None:
    """Two anchors, 16 x 16 and 16 x 8, have an IoU of 0.5."""
    anchors = ((0.0, 0.0, 16.0, 16.0), (0.0, 0.0, 16.0, 8.0))
    for comparison, count in ((">", 2), (">=", 1)):
        spec = spec_of("detectron2", labels=("a",), nms_comparison=comparison)
        spec = spec.replace(levels=(Level("l", "d", anchors, (8.0, 8.0)),))
        heads = HeadOutputs((np.ones((1, 2, 1, 1), np.float32),), (np.zeros((1, 8, 1, 1), np.float32),))
        (detections,) = postprocess(heads, spec, TRANSFORMS[:1], score_threshold=0.5)
        assert len(detections) == count
