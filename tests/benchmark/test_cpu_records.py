"""Records of speeds on CPUs are complete, pages are made from them, and nothing is recorded on a busy machine."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

PATHS = sorted((ROOT / "benchmarks" / "records" / "cpu").glob("*.json"))
RECORD: dict[str, Any] = {
    "format": 1,
    "kind": "speed of a CPU",
    "date": "2026-11-29",
    "machine": {"processor": "AMD EPYC (test)", "instructions": ["avx2"], "cores": 2, "system": "Linux x86_64"},
    "isa": "avx512",
    "is_forced": False,
    "versions": {"onnxruntime": "1.32.0"},
    "commit": "0123456789",
    "threads": 2,
    "other_work": 0.01,
    "rounds": 3,
    "rest_s": 0.4,
    "cases": [
        {
            "name": "people",
            "title": "`people`, float32",
            "size": [512, 768],
            "contestants": [
                {
                    "name": name,
                    "what": what,
                    "times_ms": times,
                    "heads_difference": None,
                    "peak_mb": None,
                    "about": {"choice": "blocked"},
                }
                for name, what, times in (
                    ("retinasdk", "whole call", [6.0, 5.0, 8.0]),
                    ("ONNX Runtime", "network alone", [10.0, 10.0, 10.0]),
                    ("ncnn", "network alone", [4.0, 5.0, 9.0]),
                )
            ],
            "left_out": {"OpenVINO": "it is not installed"},
        }
    ],
}


@pytest.fixture
def cpu_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("cpu_records")
    monkeypatch.setattr(module, "FOLDER", tmp_path / "cpu")
    return module


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_record_is_complete_and_of_a_quiet_machine(path: Path, cpu_records: Any) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    cpu_records.check(record, path.name)
    cpu_records.check_quiet(record["other_work"], "")
    assert path.name == cpu_records.path_of(record).name


def test_the_pages_are_made_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name, command in (("cpu_page", "cpu_table.py"), ("roofline_page", "roofline.py")):
        page = importlib.import_module(name)
        text = page.PAGE.read_text(encoding="utf-8")
        assert page.page(text) == text, f"write it anew: python benchmarks/{command} --write"


def test_a_record_is_found_again(cpu_records: Any) -> None:
    path = cpu_records.save(RECORD)
    assert path.name == "2026-11-29-amd-epyc-test-avx512.json"
    assert list(cpu_records.records(cpu_records.TABLE)) == [RECORD]
    newer = {**RECORD, "date": "2026-12-01"}
    cpu_records.save(newer)
    cpu_records.save({**RECORD, "isa": "avx2", "is_forced": True})
    found = list(cpu_records.records(cpu_records.TABLE))
    assert [(record["date"], record["isa"]) for record in found] == [("2026-12-01", "avx512"), ("2026-11-29", "avx2")]


def test_nothing_is_recorded_if_other_work_used_the_machine(cpu_records: Any) -> None:
    with pytest.raises(cpu_records.BusyError, match="other work used 20% of the processors while it was measured"):
        cpu_records.save({**RECORD, "other_work": 0.2})
    assert not cpu_records.FOLDER.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "speed"}, "kind is 'speed'; expected one of"),
        ({"isa": None}, "isa is None"),
        ({"date": "today"}, "date is 'today'"),
        ({"rounds": 4}, "people, retinasdk: expected 4 times above 0"),
    ],
)
def test_an_incomplete_record_is_not_written(change: dict[str, Any], said: str, cpu_records: Any) -> None:
    with pytest.raises(ValueError, match=said):
        cpu_records.save({**RECORD, **change})
    assert not cpu_records.FOLDER.exists()


def test_the_table_has_ratios_within_a_round_and_says_who_is_ahead(
    monkeypatch: pytest.MonkeyPatch, cpu_records: Any
) -> None:
    page = importlib.import_module("cpu_page")
    text = "\n".join(page.section(RECORD))
    assert "| `people`, float32, 512 x 768 | retinasdk, whole call | 0.600 (0.550 to 0.700) | 6.0 |" in text
    assert "|  | ONNX Runtime, network alone | 1 | 10.0 |" in text
    assert "|  | ncnn, network alone | **0.500 (0.450 to 0.700)** | 5.0 |" in text
    assert "|  | OpenVINO | left out: it is not installed |" in text
    assert "ncnn is ahead for `people`, float32: retinasdk takes 20.0% more time." in text
    assert "- `people`, float32: blocked" in text
    slower = copy.deepcopy(RECORD)
    slower["cases"][0]["contestants"].pop()
    assert "Nobody is ahead of retinasdk in this table." in "\n".join(page.section(slower))
