"""Decode and NMS of one 800 x 1088 input: 163,206 anchors x 91 classes, 0.3 % of the logits above the threshold.

    python benchmarks/postprocess.py [--passing 0.003] [--rounds N]

Set against a plain pass over the same 59 MB of logits (NumPy's maximum: one vectorised thread) and, where
torch and torchvision are installed, against torchvision's `RetinaNet.postprocess_detections` on the same heads, which
it gets in its own layout (N, anchors, classes): the time it takes to permute them is not counted.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from timing import interleave, print_machine, print_ratio, print_times

from retinasdk import Detections, _native
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.postprocess import decode, nms, postprocess
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import logit
from retinasdk.pipeline.types import HeadOutputs
from retinasdk.spec import ModelSpec

CELLS = ((100, 136), (50, 68), (25, 34), (13, 17), (7, 9))  # P3 to P7 of 800 x 1088
TRANSFORM = Transform(original=(480, 640), resized=(800, 1066), padded=(800, 1088))


def random_heads(spec: ModelSpec, passing: float) -> HeadOutputs:
    """Independent normal logits, a share of `passing` above the spec's threshold; small normal deltas."""
    random = np.random.default_rng(0)
    mean = logit(spec.score_threshold) - NormalDist().inv_cdf(1 - passing)
    channels = spec.anchors_per_cell * len(spec.labels)
    logits = [random.standard_normal((1, channels, *cells), dtype=np.float32) + np.float32(mean) for cells in CELLS]
    deltas = [
        np.float32(0.2) * random.standard_normal((1, spec.anchors_per_cell * 4, *cells), dtype=np.float32)
        for cells in CELLS
    ]
    return HeadOutputs(tuple(logits), tuple(deltas))


def torchvision_postprocess(heads: HeadOutputs, spec: ModelSpec) -> Callable[[], dict[str, Any]]:
    """`postprocess_detections` of a torchvision RetinaNet, ready to be called on the same heads."""
    import torch
    from torchvision.models.detection import retinanet_resnet50_fpn
    from torchvision.models.detection.image_list import ImageList

    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=len(spec.labels)).eval()
    images = ImageList(torch.zeros(1, 3, *TRANSFORM.padded), [TRANSFORM.resized])
    anchors = model.anchor_generator(images, [torch.zeros(1, 1, *cells) for cells in CELLS])
    anchors = [list(anchors[0].split([rows * columns * spec.anchors_per_cell for rows, columns in CELLS]))]

    def permuted(levels: tuple[Any, ...], last: int) -> list[Any]:
        flat = [
            torch.from_numpy(level).unflatten(1, (-1, last)).permute(0, 3, 4, 1, 2).reshape(1, -1, last)
            for level in levels
        ]
        counts = [level.shape[1] for level in flat]
        return list(torch.cat(flat, dim=1).split(counts, dim=1))  # views into one tensor, as in its forward()

    outputs = {"cls_logits": permuted(heads.logits, len(spec.labels)), "bbox_regression": permuted(heads.deltas, 4)}

    def call() -> dict[str, Any]:
        with torch.inference_mode():
            found: dict[str, Any] = model.postprocess_detections(outputs, anchors, images.image_sizes)[0]
        return found

    return call


def print_agreement(ours: Detections, theirs: dict[str, Any]) -> None:
    same_number = len(ours) == len(theirs["scores"])
    print(f"  retinasdk {len(ours)} detections, torchvision {len(theirs['scores'])}", end="")
    if same_number:
        boxes = theirs["boxes"].numpy()
        scale = np.array([TRANSFORM.original[i] / TRANSFORM.resized[i] for i in (1, 0, 1, 0)])
        same_class = ours.class_ids == theirs["labels"].numpy()
        difference = np.abs(ours.xyxy - boxes * scale)[same_class].max(initial=0.0)
        print(
            f", {100 * same_class.mean():.1f} % equal in class by rank, those boxes within {difference:.2g} px", end=""
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passing", type=float, default=0.003, help="share of logits above the threshold")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))
    print_machine("retinasdk", "numpy", *(("torch", "torchvision") if has_torch else ()))

    spec = flavour_spec("torchvision")
    heads = random_heads(spec, arguments.passing)
    count = sum(level.size for level in heads.logits)
    size_bytes = sum(level.nbytes for level in heads.logits)
    anchors = sum(rows * columns for rows, columns in CELLS) * spec.anchors_per_cell
    print(f"shapes: {anchors:,} anchors x {len(spec.labels)} classes = {size_bytes / 1e6:.1f} MB of logits,")
    above = sum(int((level > logit(spec.score_threshold)).sum()) for level in heads.logits)
    candidates = decode(heads, spec, [TRANSFORM], score_threshold=spec.score_threshold)
    print(f"  {100 * above / count:.2f} % above {spec.score_threshold}, {candidates.counts[0]} candidates for NMS")
    print(f"filter: {_native.simd_name()}; threads: 1")

    options: dict[str, Any] = {"iou_threshold": spec.nms_iou_threshold, "max_detections": spec.max_detections}
    calls: dict[str, Callable[[], object]] = {
        "decode + NMS": lambda: nms(decode(heads, spec, [TRANSFORM], score_threshold=spec.score_threshold), **options),
        "postprocess()": lambda: postprocess(heads, spec, [TRANSFORM], score_threshold=spec.score_threshold),
        "NMS alone": lambda: nms(candidates, **options),
        "plain pass": lambda: [level.max() for level in heads.logits],
    }
    times = interleave(calls, rounds=arguments.rounds)
    print_times(times)
    for name in ("decode + NMS", "plain pass"):
        print(f"  {name}: {size_bytes / 1e6 / np.median(times[name]):.1f} GB/s of logits")
    print_ratio(times, "decode + NMS", "plain pass", target="at most 2")

    if not has_torch:
        print("torch or torchvision is not installed: no comparison with torchvision")
        return
    import torch

    theirs = torchvision_postprocess(heads, spec)
    ours = postprocess(heads, spec, [TRANSFORM], score_threshold=spec.score_threshold)[0]
    print_agreement(ours, theirs())
    for threads in (1, 2):
        torch.set_num_threads(threads)
        name = f"torchvision, {threads} thread{'s' if threads > 1 else ''}"
        pair = {name: theirs, "decode + NMS": calls["decode + NMS"]}
        times = interleave(pair, rounds=max(5, arguments.rounds // 3), warmup=1)
        print_times(times)
        print_ratio(times, name, "decode + NMS", target="at least 15")


if __name__ == "__main__":
    main()
