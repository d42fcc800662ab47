"""The torchvision flavour against what torchvision 0.29.1 gave for the same inputs (make_golden.py), without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from make_golden import FRAMES, GOLDEN, Frame, heads, level_sizes, picture, sampled, weighted_sums
from reference import Listed, assert_same_detections

from retinasdk import ModelSpec, Resize
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.postprocess import decode, postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.types import HeadOutputs

Golden = dict[str, npt.NDArray[Any]]


def spec_of(frame: Frame) -> ModelSpec:
    labels = [f"class{index}" for index in range(frame.classes)]
    return flavour_spec("torchvision", labels=labels).replace(resize=Resize("shortest", frame.limits))


@pytest.fixture(params=FRAMES, ids=lambda frame: frame.name)
def frame(request: pytest.FixtureRequest) -> Frame:
    return request.param


@pytest.fixture
def golden(frame: Frame) -> Golden:
    with np.load(GOLDEN / f"{frame.name}.npz") as stored:
        return dict(stored)


def test_sizes(frame: Frame) -> None:
    assert Transform.plan(frame.original, spec_of(frame)) == Transform(frame.original, frame.resized, frame.padded)


@pytest.mark.parametrize("kind", ["noise", "scene"])
def test_preprocess(frame: Frame, golden: Golden, kind: str) -> None:
    spec = spec_of(frame)
    tensor = preprocess([picture(frame, kind)], [Transform.plan(frame.original, spec)], spec).tensor
    assert tensor.shape == (1, 3, *frame.padded)
    np.testing.assert_allclose(
        tensor.reshape(-1)[sampled(frame, tensor.size)], golden[f"{kind}_pixels"], rtol=0, atol=1e-5
    )


def test_anchors(frame: Frame, golden: Golden) -> None:
    """Equal logits and no deltas: the candidates are the anchors in their order, which is torchvision's."""
    sizes = level_sizes(frame.padded)
    nothing = HeadOutputs(
        tuple(np.zeros((1, 9, *size), dtype=np.float32) for size in sizes),
        tuple(np.zeros((1, 36, *size), dtype=np.float32) for size in sizes),
    )
    spec = flavour_spec("torchvision", labels=["thing"]).replace(clip="none", top_k=9 * sizes[0][0] * sizes[0][1])
    transform = Transform(frame.original, frame.resized, frame.padded)
    candidates = decode(nothing, spec, [transform], score_threshold=0.05)
    boxes = candidates.boxes[0, : candidates.counts[0]]
    assert len(boxes) == 9 * sum(rows * columns for rows, columns in sizes)
    np.testing.assert_array_equal(weighted_sums(boxes), golden["anchor_sums"])
    np.testing.assert_array_equal(boxes[sampled(frame, len(boxes))[-200:]], golden["anchor_samples"])


def test_detections(frame: Frame, golden: Golden) -> None:
    logits, deltas = heads(frame)
    transform = Transform(frame.original, frame.resized, frame.padded)
    (found,) = postprocess(HeadOutputs(tuple(logits), tuple(deltas)), spec_of(frame), [transform], score_threshold=0.05)
    assert_same_detections(
        Listed(found.xyxy, found.scores, found.class_ids), Listed(golden["boxes"], golden["scores"], golden["labels"])
    )


def test_the_golden_files_say_something() -> None:
    """A full list, a short one, boxes on every border, clamped sides: or these tests would be weaker than they look."""
    counts = {}
    for frame in FRAMES:
        with np.load(GOLDEN / f"{frame.name}.npz") as stored:
            counts[frame.name] = len(stored["scores"])
            assert len(set(stored["labels"].tolist())) == frame.classes
            height, width = frame.original
            np.testing.assert_allclose(stored["boxes"].min(axis=0)[:2], 0, atol=1e-3)
            np.testing.assert_allclose(stored["boxes"].max(axis=0)[2:], [width, height], atol=1e-3)
    assert counts["square"] < max(counts.values()) == 300
    assert sum(path.stat().st_size for path in GOLDEN.glob("*.npz")) < 300_000
