"""JSON from outside: what Python's parser accepts and later code cannot work with is refused by every reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retinasdk import ModelError, ModelSpec
from retinasdk._util.json_text import parse_json
from retinasdk.benchmark.bench import BenchReport
from retinasdk.cli.import_options import read_anchors_file
from retinasdk.convert.configs import read_config
from retinasdk.evaluation.annotations import read_annotations
from retinasdk.live.zones import Zones
from retinasdk.tensorrt.engine_info import EngineInfo
from retinasdk.verification.expected_boxes import read_expected


def from_file(read: Callable[[Path], Any]) -> Callable[[Path, str], Any]:
    def call(folder: Path, text: str) -> Any:
        path = folder / "file.json"
        path.write_text(text, encoding="utf-8")
        return read(path)

    return call


READERS = {
    "spec": lambda folder, text: ModelSpec.from_json(text),
    "engine": lambda folder, text: EngineInfo.from_json(text),
    "bench": lambda folder, text: BenchReport.from_json(text),
    "zones": from_file(Zones.load),
    "anchors": from_file(read_anchors_file),
    "boxes": from_file(lambda path: read_expected(path, ("a",), None)),
    "config": from_file(read_config),
    "annotations": from_file(read_annotations),
}
# Where a value stands that the reader looks at, or shows in an error.
TEMPLATES = {
    "spec": '{"format": 1, "name": %s}',
    "engine": '{"format": 1, "spec": %s}',
    "bench": '{"machine": %s}',
    "zones": '{"zones": [%s]}',
    "anchors": "[%s]",
    "boxes": '{"boxes": [[1, 2, 3, 4]], "scores": [0.5], "labels": [%s]}',
    "config": '{"min_size": %s}',
    "annotations": '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "a"}], '
    '"annotations": [{"image_id": %s, "category_id": 1, "bbox": [1, 2, 3, 4]}]}',
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a": ', "}")], ids=["lists", "objects"])
def test_nesting(kind: str, start: str, end: str, tmp_path: Path) -> None:
    """At some depths the parser just succeeds, and whatever comes behind it fails: so at all of them."""
    for depth in (70, *range(800, 1010, 3), 100_000):
        value = start * depth + "1" + end * depth
        with pytest.raises((ModelError, ValueError)) as caught:
            READERS[kind](tmp_path, TEMPLATES[kind] % value)
        assert type(caught.value) in (ModelError, ValueError)
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "config"])
def test_halves_of_surrogate_pairs(kind: str, tmp_path: Path) -> None:
    with pytest.raises((ModelError, ValueError)) as caught:
        READERS[kind](tmp_path, TEMPLATES[kind] % r'"\ud800"')
    assert type(caught.value) in (ModelError, ValueError)
    str(caught.value).encode()


def test_annotations_are_text(tmp_path: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "a\ud800.png"}], "categories": [], "annotations": []}
    for name, message in (("a\ud800.png", "is not Unicode"), ("a\0.png", "contains a zero byte")):
        content["images"] = [{"id": 1, "file_name": name}]
        with pytest.raises(ValueError, match=message):
            from_file(read_annotations)(tmp_path, json.dumps(content))


def test_what_is_accepted() -> None:
    content = {"a": [1, 2.5, None, True, {"b": "\U0001f600 é"}], "": []}
    assert parse_json(json.dumps(content)) == content
    assert parse_json("[" * 64 + "]" * 64)
    with pytest.raises(ValueError, match="nested more than 64 levels deep"):
        parse_json("[" * 65 + "]" * 65)
    with pytest.raises(ValueError, match="is not Unicode"):
        parse_json(r'{"\ud800": 1}')
