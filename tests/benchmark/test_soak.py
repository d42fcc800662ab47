"""benchmarks/soak.py: its rule on made-up records, its picture, and a short soak of the real programs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="the soak reads /proc")


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("matplotlib", reason="needs matplotlib (retinasdk[eval])")
    pytest.importorskip("PIL")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("soak")


def a_record(count: int = 60, *, mb_per_hour: float = 0.0, noise_mb: float = 0.3) -> dict[str, Any]:
    """A record of `count` minutes, in which the memory of `live` grows, and everything else holds."""
    random = np.random.default_rng(0)
    cycles = []
    for number in range(count):
        held = {
            "calls": {"rss_mb": 340.0, "pss_mb": 310.0, "anonymous_mb": 300.0, "threads": 3, "descriptors": 3},
            "live": {"rss_mb": 270.0, "pss_mb": 230.0, "threads": 12, "descriptors": 9}
            | {"anonymous_mb": 200 + number / 60 * mb_per_hour + float(random.normal(0, noise_mb))},
        }
        cycles.append(
            {
                "minutes": number + 1.0,
                "held": held,
                "cpu": {"calls": 0.3, "live": 0.5},
                "latency_s": {what: {"count": 9, "p50": 0.1, "p99": 0.2} for what in ("detect", "tiles", "age")},
                "frames": {"processed": 300, "dropped": 1200, "failed": 0},
                "outage": {"lost_s": 4.0, "back_s": 1.0} if number % 2 else None,
                "guests": {"viewers": 8, "pictures": 8, "strangers": 8, "scrapes": 20},
                "load": 1.0,
                "gpu_mb": None,
            }
        )
    head = {"machine": "a machine", "device": "cpu", "date": "2026-11-28T00:00:00", "commit": "0" * 40}
    ends = {name: {"status": 0, "seconds": 0.5} for name in ("calls", "live")}
    return {"head": {**head, "limit_mb_per_hour": 2.0, "cycle_s": 60.0}, "cycles": cycles, "end": ends}


def rule() -> Any:
    return importlib.import_module("soak_rule")


def broken(soak: Any, record: dict[str, Any]) -> list[str]:
    return [finding.name for finding in rule().judge(record) if not finding.holds]


def test_a_level_record_is_flat(soak: Any) -> None:
    assert broken(soak, a_record()) == []


def test_growth_above_the_limit_is_not_flat(soak: Any) -> None:
    assert broken(soak, a_record(mb_per_hour=3.0)) == ["live: memory"]


def test_what_cannot_be_excluded_is_not_flat(soak: Any) -> None:
    assert broken(soak, a_record(noise_mb=10.0)) == ["live: memory"]
    assert broken(soak, a_record(4)) == ["calls: memory", "live: memory"]


def test_the_warm_up_does_not_count(soak: Any) -> None:
    record = a_record()
    for number, cycle in enumerate(record["cycles"][:15]):
        cycle["held"]["live"]["anonymous_mb"] = 10.0 * number
        cycle["held"]["live"]["threads"] = 3
    assert broken(soak, record) == []


@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_one_more_at_the_end_is_not_flat(what: str, soak: Any) -> None:
    record = a_record()
    record["cycles"][-1]["held"]["calls"][what] += 1
    assert broken(soak, record) == [f"calls: {what}"]


def test_threads_that_come_and_go_are_flat(soak: Any) -> None:
    """A call in progress has more of them, and a camera that just came back has fewer."""
    record = a_record()
    for number, cycle in enumerate(record["cycles"]):
        for held in cycle["held"].values():
            held["most_threads"] = held["threads"] + 2 * (number % 3 == 0)
            held["threads"] -= 2 * (number % 5 < 4)
    assert broken(soak, record) == []


def test_a_camera_that_stays_away_is_not_flat(soak: Any) -> None:
    record = a_record()
    record["cycles"][7].update(outage={"lost_s": 4.0, "back_s": None}, held=None)
    assert broken(soak, record) == ["camera"]


@pytest.mark.parametrize("seen", [{"viewers": 2, "pictures": 1}, {"viewers": 2, "pictures": 2, "failures": 1}])
def test_a_viewer_without_a_picture_is_not_flat(seen: dict[str, int], soak: Any) -> None:
    record = a_record()
    record["cycles"][3]["guests"] = seen
    assert broken(soak, record) == ["viewers"]


def test_a_program_that_failed_or_had_to_be_killed_is_not_flat(soak: Any) -> None:
    for status in (1, None, -11):
        record = a_record()
        record["end"]["live"]["status"] = status
        assert broken(soak, record) == ["ends"]


def test_the_slope_is_that_of_the_line(soak: Any) -> None:
    slope = rule().slope
    times = np.arange(40.0)
    middle, low, high = slope(times, 3.0 * times + np.random.default_rng(1).normal(0, 1, 40))
    assert low < 3.0 < high
    assert abs(middle - 3.0) < 0.1
    assert slope(times, np.full(40, 5.0)) == (0.0, 0.0, 0.0)


def test_the_interval_covers_the_slope_as_often_as_it_says(soak: Any) -> None:
    slope = rule().slope
    random = np.random.default_rng(2)
    times = np.arange(20.0)
    intervals = [slope(times, 2.0 * times + random.standard_t(4, 20)) for _ in range(400)]
    covered = sum(low <= 2.0 <= high for _, low, high in intervals) / len(intervals)
    assert 0.92 <= covered <= 0.98


def test_an_interrupted_soak_is_drawn(soak: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = a_record(8)
    lines = [{"head": record["head"]}, *({"cycle": cycle} for cycle in record["cycles"])]
    path = tmp_path / "soak.jsonl"
    path.write_text("\n".join(map(json.dumps, lines))[:-30])  # in the middle of the last line
    monkeypatch.setattr(sys, "argv", ["soak.py", "--draw", str(path)])
    assert soak.main() == 1  # not flat
    assert len(soak.read_record(path)["cycles"]) == 7
    first = path.with_suffix(".svg").read_bytes()
    assert soak.main() == 1
    assert path.with_suffix(".svg").read_bytes() == first
    assert b"GPU, all programs" not in first
    texts = {element.text for element in ET.fromstring(first).iter("{http://www.w3.org/2000/svg}text")}
    assert {"live, RSS", "calls, threads", "age of live frames, p99", "live, dropped"} <= texts


def test_memory_of_a_gpu_is_drawn(soak: Any, tmp_path: Path) -> None:
    record = a_record(8)
    for cycle in record["cycles"]:
        cycle["gpu_mb"] = "812"
    record["cycles"][2]["gpu_mb"] = None
    soak.draw(record, tmp_path / "soak.svg")
    assert "GPU, all programs" in (tmp_path / "soak.svg").read_text()


def test_the_page_says_what_its_record_says(soak: Any) -> None:
    path = ROOT / "docs/how/soak.jsonl"
    said = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert said.splitlines() == rule().report(soak.read_record(path))
    head = soak.read_record(path)["head"]
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert all(fact in page for fact in (head["commit"][:7], head["machine"], f"{head['limit_mb_per_hour']:g} MB"))


@needs_proc
def test_what_a_process_holds_is_seen(soak: Any) -> None:
    held = importlib.import_module("soak_programs").Held
    program = "import sys, threading; x = bytearray(b'1' * 50_000_000); files = [open('/dev/null') for _ in range(9)]\n"
    program += (
        "threading.Thread(target=threading.Event().wait, daemon=True).start(); print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = held.by(process.pid)
        process.communicate()
    assert 50 < seen.anonymous_mb < seen.rss_mb < 150
    assert seen.anonymous_mb <= seen.pss_mb <= seen.rss_mb
    assert (seen.threads, seen.descriptors) == (2, 9 + 3)


def test_at_rest_the_least_and_the_most_are_kept(soak: Any) -> None:
    held = importlib.import_module("soak_programs").Held
    resting, calling = held(300.0, 290.0, 280.0, 3, 9, 1.0), held(340.0, 330.0, 320.0, 5, 10, 1.5)
    assert soak.at_rest([{"calls": calling}, {"calls": resting}, {"calls": calling}]) == {
        "calls": {"rss_mb": 300.0, "pss_mb": 290.0, "anonymous_mb": 280.0, "threads": 3, "descriptors": 9}
        | {"most_threads": 5, "most_descriptors": 10}
    }
    assert soak.at_rest([]) is None


@pytest.mark.heavy
@needs_proc
def test_a_short_soak_of_the_real_programs(soak: Any, tmp_path: Path) -> None:
    """Of memory nothing can be said after seconds; everything else has to hold."""
    for package in ("av", "prometheus_client"):
        pytest.importorskip(package)
    needs = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if subprocess.run(["/usr/bin/python3", "-c", needs], capture_output=True, check=False).returncode:
        pytest.skip("needs GStreamer's RTSP server; see tests/support/rtsp_server.py")
    path = tmp_path / "soak.jsonl"
    command = (sys.executable, str(BENCHMARKS / "soak.py"), "--minutes", "0.8", "--cycle", "16", "--record", str(path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    record = soak.read_record(path)
    assert len(record["cycles"]) == 3, done.stdout + done.stderr
    assert {name.partition(": ")[2] for name in broken(soak, record)} <= {"memory"}, done.stdout + done.stderr
    assert record["cycles"][1]["outage"]["back_s"] > 0
    seen = [sum(cycle["guests"].get(what, 0) for cycle in record["cycles"]) for what in ("strangers", "scrapes")]
    assert min(seen) > 0
    assert record["cycles"][-1]["latency_s"]["age"]["p50"] > 0
    assert done.returncode == 1
    assert "not flat over 3 cycles" in done.stdout
