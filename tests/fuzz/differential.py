"""Compares the CPU, the CUDA kernels on the emulated device, and the NumPy oracle on the same random cases.

    python tests/fuzz/differential.py --seconds 60
    python tests/fuzz/differential.py --seed 17 --cases 1

Each seed is one case: heads with random sizes and rules, candidates for every suppression, and an image. The CPU and
the kernels must agree bit for bit. The oracle computes in float64, so boxes and scores must be close to its own, and
all decisions must be the same. At the first difference, the command that repeats it is printed, and the exit status
is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import reference
import reference_overlap
import rotated_oracle
from cases import INF, DecodeCase, NmsCase, crowd, random_heads, sprinkled, with_logits, with_overlap_rules, with_rules
from cuda_ops import CudaOps
from cuda_parity import (
    MEAN,
    STD,
    as_batch,
    assert_same_candidates,
    assert_same_fused,
    assert_same_kept,
    assert_same_soft,
    halved,
)
from emulated_cuda import emulated_native

from retinasdk import _native

CLASSES = 5
CLOSE = 1e-5  # Decisions of a fusion that are nearer than this may fall otherwise in float32.


def heads(random: np.random.Generator) -> DecodeCase:
    """Heads with random sizes, values and rules. Logits are often equal, and sometimes not finite."""
    sides = [(int(random.integers(1, 14)), int(random.integers(1, 14))) for _ in range(random.integers(1, 5))]
    seed = int(random.integers(1 << 30))
    case = random_heads(
        seed,
        batch=int(random.integers(1, 4)),
        anchors=int(random.integers(1, 5)),
        classes=int(random.integers(1, 8)),
        sizes=sides,
        top_k=int(random.integers(1, 60)),
        logit_threshold=float(random.choice([-INF, -2.0, -1.0, 0.0, 1.5])),
    )
    if random.random() < 0.7:
        case = with_rules(case, seed)
    if random.random() < 0.4:
        case = with_overlap_rules(case, seed)
    if random.random() < 0.3:
        case = with_logits(case, random.integers(-2, 3, int(random.integers(1, 30))).astype(np.float32))
    if random.random() < 0.3:
        case = sprinkled(case, seed)
    if random.random() < 0.3:
        classes = case.logits[0].shape[1] // len(case.base_anchors[0])
        wanted = random.permutation(classes)[: random.integers(1, classes + 1)]
        case = replace(case, class_ids=[int(class_id) for class_id in wanted])
    return case


def candidates(random: np.random.Generator) -> NmsCase:
    """Boxes with whole coordinates, so that float32 and float64 decide alike."""
    count = int(random.choice([0, 1, 2, random.integers(3, 64), random.integers(64, 300)]))
    boxes = crowd(int(random.integers(1 << 30)), count, classes=CLASSES, extent=int(random.choice([40, 200, 2000])))
    return NmsCase(
        "random",
        *boxes,
        iou_threshold=float(random.integers(0, 17)) / 16,
        max_detections=int(random.choice([1, 20, 300])),
        or_equal=bool(random.integers(2)),
        inclusive_pixels=bool(random.integers(2)),
        across_classes=bool(random.integers(2)),
        max_per_class=int(random.choice([1, 7, 1 << 20])),
    )


def compare_heads(random: np.random.Generator, native: Any) -> None:
    case = heads(random)
    padding = None if random.random() < 0.5 else int(random.integers(0, 9))
    assert_same_candidates(case, CudaOps(native, padding=padding))
    assert_same_candidates(halved(case), CudaOps(native, half=True, padding=padding))
    boxes, logits, class_ids, counts = _native.decode(case.logits, case.deltas, case.base_anchors, **case.options())
    for image, count in enumerate(counts):
        wanted = case.expected(image)
        np.testing.assert_array_equal(logits[image, :count], wanted.logits.astype(np.float32))
        np.testing.assert_array_equal(class_ids[image, :count], wanted.class_ids)
        np.testing.assert_allclose(boxes[image, :count], wanted.boxes, rtol=2e-6, atol=1e-3)


def compare_nms(random: np.random.Generator, native: Any) -> None:
    case = candidates(random)
    batch = as_batch(case)
    assert_same_kept(batch, CudaOps(native), **case.options())
    kept, counts = _native.nms(*batch, **case.options())
    wanted = reference.nms(case.boxes, case.logits, case.class_ids, **case.options())
    np.testing.assert_array_equal(kept[0, : counts[0]], np.array(wanted, np.int32))


def compare_soft_nms(random: np.random.Generator, native: Any) -> None:
    case = candidates(random)
    rule = {
        "decay": str(random.choice(["linear", "gaussian"])),
        "sigma": float(random.choice([0.125, 0.5, 1.0])),
        "score_thresholds": random.choice(np.array([0.0, 0.05, 0.3], np.float32), CLASSES),
    }
    batch = as_batch(case)
    assert_same_soft(batch, CudaOps(native), **case.options(), **rule)
    kept, counts, scores = _native.soft_nms(*batch, **case.options(), **rule)
    given = (case.boxes, case.logits, case.class_ids)
    wanted, wanted_scores = reference_overlap.soft_nms(*given, **case.options(), **rule)
    np.testing.assert_array_equal(kept[0, : counts[0]], np.array(wanted, np.int32))
    np.testing.assert_allclose(scores[0, : counts[0]], wanted_scores, rtol=1e-6)


def compare_fusion(random: np.random.Generator, native: Any) -> None:
    case = candidates(random)
    rule = {"fused_score": str(random.choice(["mean", "best"])), "models": int(random.integers(1, 4))}
    batch = as_batch(case)
    assert_same_fused(batch, CudaOps(native), **case.options(), **rule, classes=CLASSES)
    boxes, scores, class_ids, counts = _native.fuse(*batch, **case.options(), **rule, classes=CLASSES)
    given = (case.boxes, reference.sigmoid(case.logits), case.class_ids)
    wanted = reference_overlap.fuse(*given, **case.options(), **rule)
    if wanted.margin < CLOSE:
        return
    np.testing.assert_array_equal(class_ids[0, : counts[0]], wanted.class_ids)
    np.testing.assert_allclose(scores[0, : counts[0]], wanted.scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(boxes[0, : counts[0]], wanted.boxes, rtol=1e-6, atol=1e-4)


def compare_rotated(random: np.random.Generator, native: Any) -> None:
    count = int(random.integers(1, 60))
    angles = random.uniform(-4, 4, count)
    sides = random.uniform(0.5, 40, (count, 2))
    boxes = np.column_stack([random.uniform(-50, 50, (count, 2)), sides, np.sin(angles), np.cos(angles)])
    boxes = boxes.astype(np.float32)
    logits, class_ids = random.normal(size=count).astype(np.float32), random.integers(0, 3, count).astype(np.int32)
    batch = [boxes[None], logits[None], class_ids[None], np.array([count], np.int32)]
    options: dict[str, Any] = {
        "iou_threshold": float(random.uniform(0, 1)),
        "max_detections": int(random.integers(1, 80)),
        "across_classes": bool(random.integers(2)),
        "shares_angle": bool(random.integers(2)),
    }
    for ours, theirs in zip(
        CudaOps(native).rotated_nms(*batch, **options), _native.rotated_nms(*batch, **options), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    few, others = boxes[:4], boxes[-4:]
    exact = [[rotated_oracle.iou(box, other) for other in others] for box in few]
    np.testing.assert_allclose(_native.rotated_ious(few, others), exact, atol=1e-6)


def compare_preprocess(random: np.random.Generator, native: Any) -> None:
    height, width, *resized = (int(side) for side in random.integers(1, 70, 4))
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    padded = (resized[0] + int(random.integers(0, 4)), resized[1] + int(random.integers(0, 33)))
    options: dict[str, Any] = {
        "resized": (resized[0], resized[1]),
        "mean": MEAN,
        "std": STD,
        "reverse_channels": bool(random.integers(2)),
        "antialias": bool(random.integers(2)),
    }
    for eight_bit in (False, True):
        rules = {**options, "eight_bit": eight_bit, "source_step": 0.0}
        ours, theirs = np.full((3, *padded), np.nan, np.float32), np.full((3, *padded), np.nan, np.float32)
        _native.preprocess_into(picture, ours, **rules)
        CudaOps(native).preprocess_into(picture, theirs, **rules)
        np.testing.assert_array_equal(ours, theirs)
        halves = np.empty((3, *padded), np.float16)
        CudaOps(native, half=True).preprocess_into(picture, halves, **rules)
        np.testing.assert_array_equal(halves, ours.astype(np.float16))
        if not eight_bit:
            wanted = reference.preprocess(picture, padded=padded, **options)
            # A float32 position is off by up to 1e-7 of the side, and a pixel differs from the next by up to 255.
            positions = 255 * 2e-7 * (height + width)
            np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=(positions + 1e-4) / min(STD))


COMPARISONS = (
    compare_heads,
    compare_nms,
    compare_soft_nms,
    compare_fusion,
    compare_rotated,
    compare_preprocess,
)


def compare(seed: int) -> None:
    """Makes the cases of a seed and compares them."""
    native = emulated_native()
    for place, comparison in enumerate(COMPARISONS):
        comparison(np.random.default_rng((seed, place)), native)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares the CPU, the emulated CUDA kernels and the NumPy oracle.")
    parser.add_argument("--seed", type=int, default=1, help="of the first case (default: 1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long new cases are made (default: 60)")
    parser.add_argument("--cases", type=int, help="how many cases are compared, at most")
    options = parser.parse_args()
    end, seed = time.monotonic() + options.seconds, options.seed
    while time.monotonic() < end and (options.cases is None or seed < options.seed + options.cases):
        try:
            compare(seed)
        except Exception:
            traceback.print_exc()
            print(f"seed {seed} differs; repeat it: python tests/fuzz/differential.py --seed {seed} --cases 1")
            return 1
        seed += 1
    done = seed - options.seed
    print(f"stat::number_of_executed_units: {done}")
    print(f"seeds {options.seed} to {seed - 1}: {done * len(COMPARISONS)} comparisons, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
