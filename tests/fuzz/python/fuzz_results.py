"""Fuzzes the boxes that a framework printed as JSON: COCO results, and tables of boxes, scores and labels."""

from __future__ import annotations

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.verification.expected_boxes import read_expected


def one_input(data: bytes) -> None:
    with harness.folder_with(boxes_json=data) as folder, harness.documented(ValueError):
        read_expected(folder / "boxes.json", ("person", "chair", "dog"), None)


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=harness.mutate_json)
