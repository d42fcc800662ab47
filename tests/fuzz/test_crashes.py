"""Replays the fuzzers' corpus, and every input that was ever a finding. atheris is not needed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("resource", reason="the harness measures memory as Unix does")

FUZZ = Path(__file__).parent
TARGETS = sorted((FUZZ / "python").glob("fuzz_*.py"))
# What a target needs beyond the packages of all tests.
NEEDS = {"bag": "rosbags", "ros": "rosbags"}


def load(path: Path) -> ModuleType:
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs(target: Path, kind: str) -> list[Path]:
    return sorted((FUZZ / kind / target.stem.removeprefix("fuzz_")).glob("*"))


@pytest.mark.parametrize("target", TARGETS, ids=lambda path: path.stem.removeprefix("fuzz_"))
def test_every_input_is_handled(target: Path) -> None:
    subject = target.stem.removeprefix("fuzz_")
    if subject in NEEDS:
        pytest.importorskip(NEEDS[subject], reason=f"needs {NEEDS[subject]}")
    one_input = load(target).one_input
    assert inputs(target, "corpus"), f"{target.name} needs seeds in corpus/{subject}"
    for path in (*inputs(target, "corpus"), *inputs(target, "crashes")):
        try:
            one_input(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(FUZZ)}: {type(error).__name__}: {error}") from error


def test_atheris_is_not_loaded() -> None:
    for target in TARGETS:
        if target.stem.removeprefix("fuzz_") not in NEEDS:
            load(target)
    assert "atheris" not in sys.modules


def test_other_errors_are_findings() -> None:
    load(TARGETS[0])
    harness = sys.modules["harness"]
    with harness.documented(ValueError):
        raise ValueError("a sentence")
    with pytest.raises(UnicodeEncodeError), harness.documented(ValueError):
        "\ud800".encode()
    with pytest.raises(KeyError), harness.documented(ValueError):
        raise KeyError("x")
    with pytest.raises(harness.FindingError, match="without a text"), harness.documented(ValueError):
        raise ValueError
    with pytest.raises(harness.FindingError, match=r"1 bytes took .* MiB"):
        harness.measured(lambda data: bytearray(600 << 20).__len__())(b"x")
