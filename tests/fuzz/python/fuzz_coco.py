"""Fuzzes COCO annotations: reading, the paths of the pictures, and the classes that are scored."""

from __future__ import annotations

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.evaluation.annotations import read_annotations
    from retinasdk.evaluation.categories import scored_classes

LABELS = ("person", "chair", "dog")


def one_input(data: bytes) -> None:
    with harness.folder_with(coco_json=data, a_png=b"") as folder, harness.documented(ValueError):
        annotations = read_annotations(folder / "coco.json")
        scored_classes(annotations, LABELS, rename={}, classes=None)
        for path in annotations.paths(folder):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise harness.FindingError(f"{path} is outside the folder of the pictures")


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=harness.mutate_json)
