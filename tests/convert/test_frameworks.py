"""Exports of the frameworks themselves give the boxes that the frameworks themselves computed.

The boxes were recorded by the scripts in tests/support/record, with the frameworks' own code. Run
`PYTHONPATH=tests/support python tests/convert/test_frameworks.py` to see the table of all cases.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import ROOT
from recorded_case import Comparison, RecordedCase, compare, recorded_cases, summary

import retinasdk


def comparisons(path: Path, folder: Path) -> list[Comparison]:
    """Imports the export of a case as a user would, and compares the boxes of each picture."""
    case = RecordedCase.read(path)
    options = dict(case.options)
    if "config" in options:
        options["config"] = path.parent / options["config"]
    retinasdk.import_onnx(path.with_suffix(".onnx"), folder / "model.onnx", **options)
    # Direct convolutions: Winograd's differ from the framework's in the fifth digit, and a test must not hide more.
    with retinasdk.Detector(folder / "model.onnx", convolution="direct") as detector:
        results = []
        for item in case.pictures:
            found = detector(item.pixels())
            boxes = found.xyxy if found.xywhr is None else found.xywhr
            results.append(compare(item, boxes, found.scores, found.class_ids))
    return results


CASES = {f"{path.parent.name}-{path.stem}": path for path in recorded_cases()}
LONG = ("mlperf-official",)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=name, marks=[pytest.mark.heavy] if name in LONG else []) for name, path in CASES.items()],
)
def test_boxes_of_the_framework(path: Path, tmp_path: Path) -> None:
    for item, result in zip(RecordedCase.read(path).pictures, comparisons(path, tmp_path), strict=True):
        assert result.expected >= 10, "a case without detections proves nothing"
        assert result.is_equal, f"picture {item.height} x {item.width}: {result}"


def test_the_page_lists_every_case() -> None:
    page = (ROOT / "docs" / "how" / "frameworks.md").read_text(encoding="utf-8")
    for path in recorded_cases():
        case = RecordedCase.read(path)
        boxes = sum(len(item.boxes) for item in case.pictures)
        row = f"| {case.framework} | {case.version} | {case.setting} | {boxes} of {boxes} |"
        assert row in page, f"{path.stem}: write the table anew, see the page"


if __name__ == "__main__":
    import tempfile

    rows = []
    for file in recorded_cases():
        with tempfile.TemporaryDirectory() as folder:
            found = comparisons(file, Path(folder))
        values = {
            "boxes": f"{sum(item.agreeing for item in found)} of {sum(item.expected for item in found)}",
            "pixels": max(item.worst_pixels for item in found),
            "score": max(item.worst_score for item in found),
        }
        rows.append((RecordedCase.read(file), values))
    print(summary(rows))
