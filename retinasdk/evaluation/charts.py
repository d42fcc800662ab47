"""Draws the charts of the report: precision against recall, and the scores of right and false detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retinasdk._util.charts import INK, add_legend, as_png, new_chart
from retinasdk.evaluation.coco import CocoNumbers
from retinasdk.evaluation.operating_point import OperatingPoint

TRUE, FALSE, MISSED = "#2e9e4f", "#f28c1e", "#d62728"  # in every chart and picture of the report
_IOU_50, _IOU_75 = 0, 5
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_NAMED = 10  # more colors than a reader can distinguish do not help


def precision_recall(numbers: CocoNumbers) -> bytes:
    """Draws the mean over all classes at IoU 0.50, at 0.75, and averaged over 0.50:0.95. Returns a PNG file."""
    figure, axes = new_chart(6.4, 4.6, "Precision and recall, mean over classes")
    of_any_size = numbers.precision[..., 0]
    defined = of_any_size[:, :, (of_any_size > -1).all(axis=(0, 1))]
    curves = (("IoU 0.50", defined[_IOU_50]), ("IoU 0.75", defined[_IOU_75]), ("IoU 0.50:0.95", defined.mean(axis=0)))
    for (name, curve), color in zip(curves, ("#1f77b4", "#17a2a2", INK), strict=True):
        mean = curve.mean(axis=1)
        axes.plot(_RECALLS, mean, color=color, linewidth=2, label=f"{name}: AP {mean.mean():.3f}")
    _finish(axes)
    return as_png(figure)


def precision_recall_of_classes(numbers: CocoNumbers, labels: Sequence[str]) -> bytes:
    """Draws each class at IoU 0.50, the ten with most boxes in color. Returns a PNG file."""
    figure, axes = new_chart(6.4, 4.6, "Precision and recall of each class, IoU 0.50")
    curves = numbers.precision[_IOU_50, :, :, 0]
    defined = [number for number in range(len(labels)) if numbers.boxes[number, 0]]
    by_boxes = sorted(defined, key=lambda number: -int(numbers.boxes[number, 0]))
    for number in by_boxes[_MOST_NAMED:]:
        axes.plot(_RECALLS, curves[:, number], color="#c8c8c8", linewidth=0.8)
    for place, number in enumerate(by_boxes[:_MOST_NAMED]):
        label = f"{labels[number]}: AP50 {curves[:, number].mean():.3f}, {numbers.boxes[number, 0]} boxes"
        axes.plot(_RECALLS, curves[:, number], color=f"C{place}", linewidth=2, label=label)
    if len(by_boxes) > _MOST_NAMED:
        axes.plot([], [], color="#c8c8c8", linewidth=0.8, label=f"{len(by_boxes) - _MOST_NAMED} more classes")
    _finish(axes)
    return as_png(figure)


def score_histogram(numbers: CocoNumbers, point: OperatingPoint | None) -> bytes:
    """Draws how many detections of each score are right and false at IoU 0.50. Returns a PNG file."""
    figure, axes = new_chart(6.4, 4.6, "Scores of detections, IoU 0.50")
    edges = np.linspace(0.0, 1.0, 41)
    for name, color, members in (("false", FALSE, ~numbers.is_true), ("true", TRUE, numbers.is_true)):
        scores = numbers.scores[members]
        axes.hist(
            scores,
            edges,
            histtype="stepfilled",
            facecolor=f"{color}66",
            edgecolor=color,
            linewidth=1.5,
            label=f"{name}: {scores.size}",
        )
    if numbers.scores.size:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)  # a single detection stays visible
    else:
        axes.set_ylim(0, 1)
    if point is not None:
        axes.axvline(
            point.score,
            color=INK,
            linestyle="--",
            linewidth=1.2,
            label=f"best F1 {point.f1:.3f}, above {point.score:.3f}:\nprecision {point.precision:.3f}, "
            f"recall {point.recall:.3f}",
        )
    axes.set(xlim=(0, 1), xlabel="score", ylabel="detections")
    add_legend(axes, loc="upper right")
    return as_png(figure)


def _finish(axes: object) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")  # type: ignore[attr-defined]
    add_legend(axes, loc="best")
