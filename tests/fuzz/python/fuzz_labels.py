"""Fuzzes files of labels and of anchors, which `retinasdk import` reads."""

from __future__ import annotations

from argparse import ArgumentTypeError

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.cli.arguments import labels
    from retinasdk.cli.import_options import read_anchors_file
    from retinasdk.errors import ModelError


def one_input(data: bytes) -> None:
    with harness.folder_with(labels_txt=data, anchors_json=data) as folder:
        with harness.documented(ArgumentTypeError):
            labels(str(folder / "labels.txt"))
        with harness.documented(ModelError):
            read_anchors_file(folder / "anchors.json")


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=harness.mutate_json)
