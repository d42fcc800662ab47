"""The examples in docstrings run, and print what they say. Those that need a GPU or OpenCV are marked `+SKIP`."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from paths import EXAMPLES

MODULES = ("detections", "detector", "pipeline.fusion", "pipeline.suppression", "spec", "tensorrt.build", "tiling.grid")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"retinasdk.{name}")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
