"""Which rule for overlapping boxes helps where cells crowd: `blood-cells` on its validation and test photos.

    python benchmarks/crowded.py DATA [--model blood-cells] [--repeats 1000]

DATA: a folder with images/ and annotations/{val,test}.json, in COCO's format. The network runs once for each photo, and
every rule gets the same heads. AP counts scores above 0.01. The operating point of a rule is the score where its F1 on
the validation photos is best; precision, recall and F1 on the test photos are taken there. What the rules that are best
on the validation photos gain on the test photos is given with the interval around 95 % of the gains over test photos
drawn with replacement, as often as --repeats says.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import print_machine

from retinasdk import Detections, Detector, Suppression
from retinasdk.evaluation.annotations import read_annotations
from retinasdk.evaluation.categories import scored_classes
from retinasdk.evaluation.coco import CocoNumbers, CocoScorer
from retinasdk.evaluation.operating_point import best_f1
from retinasdk.images import as_rgb
from retinasdk.pipeline.postprocess import decode, suppress, to_detections
from retinasdk.pipeline.preprocess import Transform, preprocess

LOWEST_SCORE = 0.01

RULES = {
    "greedy, IoU 0.4": Suppression(iou_threshold=0.4),
    "greedy, IoU 0.5 (the model's)": Suppression(),
    "greedy, IoU 0.6": Suppression(iou_threshold=0.6),
    "greedy, IoU 0.7": Suppression(iou_threshold=0.7),
    "greedy across classes, IoU 0.5": Suppression(across_classes=True),
    "greedy across classes, IoU 0.7": Suppression(across_classes=True, iou_threshold=0.7),
    "soft linear, IoU 0.3": Suppression("soft_linear", iou_threshold=0.3),
    "soft linear, IoU 0.4": Suppression("soft_linear", iou_threshold=0.4),
    "soft linear, IoU 0.5": Suppression("soft_linear"),
    "soft Gaussian, sigma 0.1": Suppression("soft_gaussian", sigma=0.1),
    "soft Gaussian, sigma 0.2": Suppression("soft_gaussian", sigma=0.2),
    "soft Gaussian, sigma 0.3": Suppression("soft_gaussian", sigma=0.3),
    "soft Gaussian, sigma 0.5": Suppression("soft_gaussian", sigma=0.5),
    "soft Gaussian, sigma 1": Suppression("soft_gaussian", sigma=1.0),
    "fusion, best score, IoU 0.5": Suppression("fusion", fused_score="best"),
    "fusion, best score, IoU 0.6": Suppression("fusion", fused_score="best", iou_threshold=0.6),
    "fusion, best score, IoU 0.7": Suppression("fusion", fused_score="best", iou_threshold=0.7),
    "fusion, mean score, IoU 0.4": Suppression("fusion", fused_score="mean", iou_threshold=0.4),
    "fusion, mean score, IoU 0.5": Suppression("fusion", fused_score="mean"),
    "fusion, mean score, IoU 0.6": Suppression("fusion", fused_score="mean", iou_threshold=0.6),
}
PLAIN = "greedy, IoU 0.5 (the model's)"


class Photos:
    """The photos of one split, each with its true boxes and what the network says of it."""

    def __init__(self, detector: Detector, data: Path, split: str) -> None:
        truth = read_annotations(data / "annotations" / f"{split}.json")
        self.scored = scored_classes(truth, detector.labels, rename={}, classes=None)
        self.spec = detector.spec
        self.boxes = [
            [box._replace(category=self.scored.class_of_category[box.category]) for box in boxes]
            for boxes in truth.boxes
        ]
        self.heads = []
        for path in truth.paths(data / "images"):
            image = as_rgb(path)
            transform = Transform.plan(image.shape[:2], self.spec)
            tensor = preprocess([image], [transform], self.spec).tensor
            self.heads.append((detector._backend.infer(tensor), transform))

    def detect(self, rule: Suppression) -> list[Detections]:
        """Of each photo, with class ids that are numbers of the scored labels."""
        number = np.zeros(len(self.spec.labels), np.int32)
        number[list(self.scored.class_ids)] = range(len(self.scored.labels))
        found = []
        for heads, transform in self.heads:
            candidates = decode(heads, self.spec, [transform], score_threshold=LOWEST_SCORE)
            kept = suppress(candidates, self.spec, rule, score_threshold=LOWEST_SCORE)
            (item,) = to_detections(kept, self.spec, [transform])
            found.append(Detections(item.xyxy, item.scores, number[item.class_ids], self.scored.labels))
        return found

    def score(self, found: list[Detections]) -> CocoNumbers:
        scorer = CocoScorer(self.scored.labels)
        for boxes, detections in zip(self.boxes, found, strict=True):
            scorer.add(boxes, detections)
        return scorer.numbers()


class Drawn:
    """Scores of a rule on test photos that are drawn with replacement: boxes are matched once, and counted often."""

    def __init__(self, photos: Photos, rule: Suppression, threshold: float) -> None:
        self.labels, self.threshold = photos.scored.labels, threshold
        matcher = CocoScorer(self.labels)
        pairs = zip(photos.boxes, photos.detect(rule), strict=True)
        self.matched = [matcher._matched(boxes, detections) for boxes, detections in pairs]

    def score(self, drawn: npt.NDArray[np.int64]) -> tuple[float, float]:
        """AP, and F1 at the threshold."""
        scorer = CocoScorer(self.labels)
        for place, photo in enumerate(drawn):
            for number, entries in self.matched[photo].items():
                scorer._records[number].add(place, entries)
        scorer._images = len(drawn)
        numbers = scorer.numbers()
        taken = numbers.is_true[numbers.scores > self.threshold]
        return float(numbers.metrics["AP"] or 0), 2 * taken.sum() / (len(taken) + numbers.boxes_of_image.sum())


@dataclass(frozen=True)
class Row:
    """A rule's numbers. threshold, val_f1: where F1 was best on the validation photos."""

    val: dict[str, Any]
    val_f1: float
    threshold: float
    test: dict[str, Any]
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / (self.precision + self.recall)


def measure(rule: Suppression, val: Photos, test: Photos) -> Row:
    val_numbers = val.score(val.detect(rule))
    point = best_f1(val_numbers)
    assert point is not None, "the network finds something"
    numbers = test.score(test.detect(rule))
    taken = numbers.is_true[numbers.scores > point.score]
    return Row(
        val_numbers.metrics,
        point.f1,
        point.score,
        numbers.metrics,
        float(taken.mean()),
        float(taken.sum() / numbers.boxes_of_image.sum()),
    )


def print_gains(names: list[str], rows: dict[str, Row], test: Photos, repeats: int) -> None:
    """What rules gain over the plain one on the test photos: mean, and what lies around 95 % of the draws."""
    random = np.random.default_rng(0)
    rules = {name: Drawn(test, RULES[name], rows[name].threshold) for name in (PLAIN, *names)}
    draws = random.integers(0, len(test.boxes), (repeats, len(test.boxes)))
    scores = {name: np.array([rule.score(drawn) for drawn in draws]) for name, rule in rules.items()}
    for name in names:
        gains = scores[name] - scores[PLAIN]
        low, high = np.percentile(gains, [2.5, 97.5], axis=0)
        for i, what in enumerate(("AP", "F1")):
            print(f"{name}: {what} {gains.mean(axis=0)[i]:+.3f}, 95 % of draws {low[i]:+.3f} to {high[i]:+.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="blood-cells")
    parser.add_argument("--repeats", type=int, default=200, help="of the drawing of test photos; 0: none")
    arguments = parser.parse_args()
    print_machine("retinasdk", "numpy", "onnxruntime")
    with Detector(arguments.model, device="cpu") as detector:
        val, test = (Photos(detector, arguments.data, split) for split in ("val", "test"))
    print(f"{len(val.boxes)} validation photos, {sum(map(len, val.boxes))} boxes; ", end="")
    print(f"{len(test.boxes)} test photos, {sum(map(len, test.boxes))} boxes")
    print("| rule | val AP | AP50 | F1 | test AP | AP50 | precision | recall | F1 | at score |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = {}
    for name, rule in RULES.items():
        rows[name] = row = measure(rule, val, test)
        numbers = (row.val["AP"], row.val["AP50"], row.val_f1, row.test["AP"], row.test["AP50"])
        rates = (row.precision, row.recall, row.f1, row.threshold)
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in numbers + rates) + " |", flush=True)
    best = [max(rows, key=lambda name: rows[name].val["AP"]), max(rows, key=lambda name: rows[name].val_f1)]
    print(f"best on the validation photos: AP {best[0]}; F1 {best[1]}")
    if arguments.repeats:
        print_gains(list(dict.fromkeys(best)), rows, test, arguments.repeats)


if __name__ == "__main__":
    main()
