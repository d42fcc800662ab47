"""Figures that others published for their RetinaNets, on other hardware. None of them was measured here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published figure.

    Attributes:
        source: Where it was published.
        hardware: Hardware and precision. Figures of one source and hardware form a line in the chart.
        name: Name of the model.
        ap: COCO box AP, 0 to 1.
        milliseconds: Time per image at batch 1.
    """

    source: str
    hardware: str
    name: str
    ap: float
    milliseconds: float


_PAPER = "RetinaNet paper, arXiv 1708.02002, table 1e, COCO test-dev"
_ODTK = "NVIDIA/retinanet-examples, README, COCO val2017, batch 1, with post-processing"
_MMDEPLOY = "mmdeploy, benchmark page, COCO val2017, 800 x 1344"
_DETECTRON2 = "detectron2, MODEL_ZOO, COCO val2017"

# By depth: (scale, AP, ms)
_PAPER_ROWS = {
    "R50": ((400, 0.305, 64), (500, 0.325, 72), (600, 0.343, 98), (700, 0.351, 121), (800, 0.357, 153)),
    "R101": ((400, 0.319, 81), (500, 0.344, 90), (600, 0.360, 122), (700, 0.371, 154), (800, 0.378, 198)),
}
_ODTK_HARDWARE = ("V100 fp16", "T4 int8", "A100 fp16", "A100 int8")
# (backbone, AP, ms on each of these)
_ODTK_ROWS = (
    ("R18", 0.318, (14, 18, 9, 7)),
    ("MobileNetV2", 0.333, (14, 18, 9, 7)),
    ("R34", 0.343, (16, 20, 10, 7)),
    ("R50", 0.358, (18, 22, 11, 8)),
    ("R101", 0.376, (22, 27, 13, 9)),
    ("R152", 0.393, (26, 33, 15, 10)),
)

PUBLISHED = (
    *(
        Published(_PAPER, f"M40, {depth}", f"{depth}-{scale}", ap, ms)
        for depth, rows in _PAPER_ROWS.items()
        for scale, ap, ms in rows
    ),
    *(
        Published(_ODTK, hardware, name, ap, ms)
        for name, ap, times in _ODTK_ROWS
        for hardware, ms in zip(_ODTK_HARDWARE, times, strict=True)
    ),
    Published(_MMDEPLOY, "T4 fp32", "R50", 0.364, 97.09),
    Published(_MMDEPLOY, "T4 fp16", "R50", 0.364, 25.79),
    Published(_MMDEPLOY, "T4 int8", "R50", 0.363, 16.88),
    Published(_DETECTRON2, "V100", "R50 1x", 0.374, 41),
    Published(_DETECTRON2, "V100", "R50 3x", 0.387, 41),
    Published(_DETECTRON2, "V100", "R101 3x", 0.404, 54),
)
