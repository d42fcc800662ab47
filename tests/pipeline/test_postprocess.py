"""postprocess(): the whole of it, from heads to pixels of the original image, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from reference import Level, Listed, assert_same_detections
from reference import postprocess as expected_postprocess

from retinasdk import ModelSpec
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.types import HeadOutputs

# original, resized, padded; cells of P3 to P7 as torchvision's network has them, hence P6 and P7 strides of 61 to 122
SIZES = {
    "landscape": ((480, 640), (300, 400), (320, 416), ((40, 52), (20, 26), (10, 13), (5, 7), (3, 4))),
    "portrait": ((333, 200), (416, 250), (416, 256), ((52, 32), (26, 16), (13, 8), (7, 4), (4, 2))),
    "enlarged": ((17, 19), (143, 160), (160, 160), ((20, 20), (10, 10), (5, 5), (3, 3), (2, 2))),
}


def heads_of(spec: ModelSpec, cells: tuple[tuple[int, int], ...], seed: int, batch: int) -> HeadOutputs:
    random = np.random.default_rng(seed)
    anchors = spec.anchors_per_cell
    logits = [random.normal(-5, 1.5, (batch, anchors * len(spec.labels), *size)).astype(np.float32) for size in cells]
    deltas = [random.normal(0, 0.4, (batch, anchors * 4, *size)).astype(np.float32) for size in cells]
    return HeadOutputs(tuple(logits), tuple(deltas))


@pytest.mark.parametrize("clip", ["resized", "padded", "none"])
@pytest.mark.parametrize("name", SIZES)
def test_is_what_the_oracle_says(name: str, clip: str) -> None:
    original, resized, padded, cells = SIZES[name]
    spec = flavour_spec("torchvision", labels=["a", "b", "c"]).replace(clip=clip, top_k=200)
    heads = heads_of(spec, cells, seed=len(name), batch=3)
    transform = Transform(original, resized, padded)
    found = postprocess(heads, spec, [transform] * 3, score_threshold=0.05)
    for image, detections in enumerate(found):
        levels = [
            Level(logits[image], deltas[image], np.array(level.base_anchors), (padded[0] // rows, padded[1] // columns))
            for level, logits, deltas, (rows, columns) in zip(
                spec.levels, heads.logits, heads.deltas, cells, strict=True
            )
        ]
        boxes, scores, class_ids = expected_postprocess(
            levels,
            original=original,
            resized=resized,
            clip_size={"resized": resized, "padded": padded, "none": (-1, -1)}[clip],
            score_threshold=0.05,
            top_k=200,
            iou_threshold=0.5,
            max_detections=300,
            coder_clamp_max=float(np.log(1000 / 16)),
        )
        assert len(detections) > 20
        ours = Listed(detections.xyxy, detections.scores, detections.class_ids)
        assert_same_detections(ours, Listed(boxes, scores, class_ids), tie=1e-9)


def test_a_higher_threshold_only_drops() -> None:
    """Greedy NMS never lets a lower score drop a higher one, so thresholding before or after it is the same."""
    original, resized, padded, cells = SIZES["landscape"]
    spec = flavour_spec("torchvision", labels=["a", "b"])
    heads = heads_of(spec, cells, seed=5, batch=1)
    transforms = [Transform(original, resized, padded)]
    low = postprocess(heads, spec, transforms, score_threshold=0.2)[0]
    high = postprocess(heads, spec, transforms, score_threshold=0.4)[0]
    assert 0 < len(high) < len(low)
    assert high == low[low.scores > np.float32(0.4)]
