"""The records of runs on GPUs are complete, and the pages that are made from them are up to date."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

FOLDER = ROOT / "benchmarks" / "records"
PATHS = sorted(FOLDER.glob("*.json"))


@pytest.fixture
def gpu_records(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu_records")


@pytest.fixture
def first() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((FOLDER / "h200-2026-11-9d3680d.json").read_text(encoding="utf-8"))
    return record


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_record_is_complete_and_of_a_gpu(path: Path, gpu_records: Any) -> None:
    record = gpu_records.read(path)
    assert record["kind"] == "gpu"
    markdown = path.with_suffix(".md").read_text(encoding="utf-8")
    assert markdown == gpu_records.markdown(record), "write it anew: python benchmarks/gpu_records.py"


def test_the_first_record() -> None:
    assert FOLDER / "h200-2026-11-9d3680d.json" in PATHS


def test_the_pages_are_made_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for path, text in importlib.import_module("tested_page").pages().items():
        assert path.read_text(encoding="utf-8") == text, "write it anew: python benchmarks/tested_page.py"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("commit",), "main", "record: commit is 'main'; expected 7 to 40 hexadecimal digits"),
        (("date",), "yesterday", "record: date is 'yesterday'; expected YYYY-MM-DD"),
        (("copy_gb_s",), "4179", "record: copy_gb_s is '4179'; expected GB/s"),
        (("copy_gb_s",), True, "record: copy_gb_s is True; expected GB/s"),
        (("steps", 0, "outcome"), "fine", "steps[0]: outcome is 'fine'; expected passed, failed, time limit, left out"),
        (("steps", 0, "counts"), {"passed": -1}, "steps[0]: counts is {'passed': -1}"),
        (("postprocess", 0, "passing"), 30, "postprocess[0]: passing is 30; expected share"),
        (("postprocess", 0, "both_ms"), 0, "postprocess[0]: both_ms is 0; expected milliseconds"),
        (("postprocess", 0, "dtype"), "int8", "postprocess[0]: dtype is 'int8'"),
        (("nsight", 0, "microseconds"), None, "nsight[0]: microseconds is None"),
        (("notes",), "one", "record: notes is 'one'; expected a list of sentences"),
    ],
)
def test_what_is_wrong_is_said(
    place: tuple[Any, ...], value: Any, said: str, gpu_records: Any, first: dict[str, Any]
) -> None:
    item: Any = first
    for key in place[:-1]:
        item = item[key]
    item[place[-1]] = value
    found = gpu_records.problems(first)
    assert len(found) == 1
    assert found[0].startswith(said)


def test_fields_are_neither_missing_nor_unknown(gpu_records: Any, first: dict[str, Any]) -> None:
    changed = copy.deepcopy(first)
    del changed["commit"]
    changed["host_name"] = "robot"
    assert [line.split(";")[0] for line in gpu_records.problems(changed)] == [
        "record: the field 'host_name' is not known",
        "record: the field 'commit' is missing",
    ]


def test_a_stand_in_is_marked_and_stays_out_of_the_records(
    gpu_records: Any, first: dict[str, Any], tmp_path: Path
) -> None:
    first["kind"] = "stand-in"
    with pytest.raises(ValueError, match="real GPUs only"):
        gpu_records.write(first, gpu_records.FOLDER)
    path = gpu_records.write(first, tmp_path)
    assert "**This record is of stand-ins for a GPU." in path.with_suffix(".md").read_text(encoding="utf-8")


def test_a_renamed_file_is_refused(gpu_records: Any, first: dict[str, Any], tmp_path: Path) -> None:
    gpu_records.write(first, tmp_path).rename(tmp_path / "h100.json")
    with pytest.raises(ValueError, match="expected the name of the file, 'h100'"):
        gpu_records.records(tmp_path)
