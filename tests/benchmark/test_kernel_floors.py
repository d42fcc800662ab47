"""Tests that the kernel budget has the numbers that its script computes, and that these follow from their sources."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from paths import ROOT

SCRIPT = ROOT / "benchmarks" / "kernel_floors.py"


@pytest.fixture(scope="module")
def floors() -> Any:
    described = importlib.util.spec_from_file_location("kernel_floors", SCRIPT)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules["kernel_floors"] = module  # Dataclasses look their module up.
    described.loader.exec_module(module)
    return module


def test_the_page_has_what_the_script_prints(floors: Any) -> None:
    printed = subprocess.run([sys.executable, str(SCRIPT)], check=True, capture_output=True, text=True).stdout
    assert floors.BEGIN + printed + floors.END in floors.PAGE.read_text(encoding="utf-8"), (
        "The computed part of the page is out of date: python benchmarks/kernel_floors.py --write"
    )


def test_bandwidths_are_those_of_the_memory(floors: Any) -> None:
    """Width of the bus times transfers, where the script names both."""
    checked = 0
    for chip in floors.CHIPS:
        named = re.fullmatch(r"(\d+) bits of .*?([\d.]+)( Gbit/s)?", chip.memory)
        if named is not None:
            gigabits = float(named[2]) if named[3] else float(named[2]) / 1000
            assert int(named[1]) * gigabits / 8 == pytest.approx(chip.gbs)
            checked += 1
    assert checked == 4


def test_bytes_are_those_of_the_heads(floors: Any) -> None:
    """The first frame of the page: heads of 201,600 anchors with 91 classes."""
    shapes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    logits = [np.empty((1, 9 * 91, *shape), np.float16) for shape in shapes]
    deltas = [np.empty((1, 9 * 4, *shape), np.float16) for shape in shapes]
    frame = floors.FRAMES[0]
    assert frame.logits(2) == sum(array.nbytes for array in logits)
    assert frame.deltas(2) == sum(array.nbytes for array in deltas)
    assert frame.resize(3, 2) == 1080 * 1920 * 3 + 3 * 800 * 1344 * 2


def test_expected_is_above_the_floor(floors: Any) -> None:
    orin = floors.CHIPS[0]
    assert floors.floor_us(orin, 204.8e3) == pytest.approx(1.0)
    assert floors.expected_us(orin, 204.8e3) == pytest.approx(1 / 0.8 + 5)
