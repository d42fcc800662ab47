"""What compute-sanitizer and Nsight Compute print is read as they mean it.

The summaries are those of NVIDIA's documentation of compute-sanitizer. The table of ncu has the columns of its CSV
output; it was not printed by a real ncu.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from paths import ROOT

NCU = """==PROF== Connected to process 12
==PROF== Profiling "filter_logits": 0%....50%....100% - 8 passes
1 passed
==PROF== Disconnected from process 12
"ID","Process ID","Kernel Name","Block Size","Grid Size","Section Name","Metric Name","Metric Unit","Metric Value"
"""
LAUNCHES = [
    ("0", "void retinasdk::cuda::<unnamed>::filter_logits<__half>(Levels, Options)", "90,000"),
    ("1", "nms_kernel(int, float*)", "98,000"),
    ("2", "void retinasdk::cuda::<unnamed>::filter_logits<__half>(Levels, Options)", "47,000"),
]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu_tools")


@pytest.mark.parametrize(
    ("tool", "summary", "expected"),
    [
        ("memcheck", "========= ERROR SUMMARY: 0 errors", {"reports": 0}),
        ("memcheck", "========= ERROR SUMMARY: 1 error", {"reports": 1}),
        ("synccheck", "========= ERROR SUMMARY: 12 errors", {"reports": 12}),
        ("initcheck", "=== 12 passed in 3 s ===", None),
        (
            "racecheck",
            "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
            {"reports": 0, "warnings": 0},
        ),
        (
            "racecheck",
            "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)",
            {"reports": 1, "warnings": 0},
        ),
        (
            "racecheck",
            "========= RACECHECK SUMMARY: 111 hazards displayed (109 errors, 2 warnings)",
            {"reports": 109, "warnings": 2},
        ),
        ("racecheck", "========= ERROR SUMMARY: 0 errors", None),
    ],
)
def test_summaries(tool: str, summary: str, expected: Any, tools: Any) -> None:
    assert tools.reports(tool, f"========= COMPUTE-SANITIZER\n12 passed\n{summary}\n") == expected


def test_kernels_of_nsight(tools: Any) -> None:
    rows = ""
    for number, name, nanoseconds in LAUNCHES:
        for metric, unit, value in (
            ("gpu__time_duration.sum", "ns", nanoseconds),
            ("launch__registers_per_thread", "register/thread", "52"),
            ("dram__throughput.avg.pct_of_peak_sustained_elapsed", "%", "0.00"),
        ):
            rows += f'"{number}","12","{name}","(256, 1, 1)","(9, 1, 1)","Command line","{metric}","{unit}","{value}"\n'
    found = tools.nsight_kernels(NCU + rows, "float16")
    unknown = {"dram_percent": None, "occupancy_percent": None, "blocks": None, "threads": None, "dtype": "float16"}
    assert found == [
        {"kernel": "filter_logits", "microseconds": pytest.approx(47.0), "registers": 52, **unknown},
        {"kernel": "nms_kernel", "microseconds": pytest.approx(98.0), "registers": 52, **unknown},
    ]
    assert tools.nsight_kernels("==ERROR== ERR_NVGPUCTRPERM\n", "float16") == []
