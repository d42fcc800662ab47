"""NMS of the same boxes by `_native.nms`, torchvision and supervision, one thread each.

    python benchmarks/nms.py [--boxes 1000 5000] [--classes 91] [--rounds N]

Boxes lie around random objects, so that most are suppressed, as behind a detector. Each side starts from its own
arrays of boxes, scores and classes, and the kept boxes are compared. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
from timing import Times, interleave, print_machine, print_ratio, print_times

from retinasdk import _native

IOU_THRESHOLD = 0.5
Call = Callable[[], npt.NDArray[np.int64]]


def candidates(
    count: int, classes: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """boxes (count, 4) xyxy, scores (count,) float32, class ids (count,) int32: about 20 boxes an object."""
    random = np.random.default_rng(0)
    objects = max(1, count // 20)
    centres = random.uniform(0, (1088, 800), (objects, 2))
    sides = random.uniform(20, 200, (objects, 2))
    of = random.integers(0, objects, count)
    centre = centres[of] + random.normal(0, 0.1, (count, 2)) * sides[of]
    half = 0.5 * sides[of] * np.exp(random.normal(0, 0.1, (count, 2)))
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    class_ids = random.integers(0, classes, objects)[of].astype(np.int32)
    return boxes, random.uniform(0.05, 1, count).astype(np.float32), class_ids


def contestants(count: int, classes: int) -> dict[str, Call]:
    """Indices of the kept boxes, by name of who keeps them; ours first, then those that are installed."""
    boxes, scores, class_ids = candidates(count, classes)
    logits = np.log(scores / (1 - scores)).astype(np.float32)
    counts = np.array([count], np.int32)

    def ours() -> npt.NDArray[np.int64]:
        kept, kept_counts = _native.nms(
            boxes[None],
            logits[None],
            class_ids[None],
            counts,
            iou_threshold=IOU_THRESHOLD,
            max_detections=count,
            or_equal=False,
            inclusive_pixels=False,
        )
        return kept[0, : kept_counts[0]].astype(np.int64)

    calls: dict[str, Call] = {"retinasdk": ours}
    if find_spec("torchvision"):
        import torch
        from torchvision.ops import batched_nms

        torch.set_num_threads(1)
        tensors = torch.from_numpy(boxes), torch.from_numpy(logits), torch.from_numpy(class_ids)
        calls["torchvision"] = lambda: batched_nms(*tensors, IOU_THRESHOLD).numpy()
    if find_spec("supervision"):
        from supervision import box_non_max_suppression

        rows = np.concatenate([boxes, logits[:, None], class_ids[:, None]], axis=1)
        calls["supervision"] = lambda: np.flatnonzero(box_non_max_suppression(rows, IOU_THRESHOLD))
    return calls


def measure(count: int, classes: int, rounds: int) -> Times:
    """Times by name; prints how far the kept boxes agree."""
    calls = contestants(count, classes)
    kept = {name: set(call().tolist()) for name, call in calls.items()}
    ours = kept["retinasdk"]
    print(f"\n{count} boxes of {classes} classes, {len(ours)} kept")
    for name in list(calls)[1:]:
        print(f"  {name}: {len(kept[name])} kept, {len(kept[name] ^ ours)} of them different")
    return interleave(calls, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, nargs="+", default=(1000, 5000))
    parser.add_argument("--classes", type=int, default=91)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    peers = [name for name in ("torch", "torchvision", "supervision") if find_spec(name)]
    print_machine("retinasdk", "numpy", *peers)
    for count in arguments.boxes:
        times = measure(count, arguments.classes, arguments.rounds)
        print_times(times)
        for name in list(times)[1:]:
            print_ratio(times, name, "retinasdk", target="above 1")


if __name__ == "__main__":
    main()
