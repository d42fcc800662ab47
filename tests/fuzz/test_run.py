"""run.py: what it says about a target, over programs that stand in for libFuzzer; and one case of differential.py."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parent
# Prints what libFuzzer prints. Writes an input that crashes, if the first argument says so.
PROGRAM = """
import pathlib, sys
options = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
print("#7 NEW cov: 3 ft: 5 corp: 2/6b")
print("stat::number_of_executed_units: 1234")
if sys.argv[1] == "crash":
    pathlib.Path(options["-artifact_prefix"] + "crash-1").write_bytes(b"x")
    sys.exit(77)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_run", FUZZ / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz_run", module)  # For its dataclasses.
    spec.loader.exec_module(module)
    for name, folder in {"ROOT": ".", "BUILD": "build", "FOUND": "found", "FUZZ": "fuzz"}.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.setattr(module, name, tmp_path / folder)
    return module


@pytest.mark.parametrize("ending", ["well", "crash"])
def test_outcome(run: ModuleType, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run.fuzz(run.Target("decode", "native", (sys.executable, "-c", PROGRAM, ending)), 1.0)
    assert (outcome.executions, outcome.features) == (1234, 5)
    assert outcome.crashes == (("crash-1",) if ending == "crash" else ())
    assert run.report([outcome]) == (ending == "well")
    shown = capsys.readouterr().out
    assert "1,234 executions in all" in shown
    assert ("repeat it: " in shown) == (ending == "crash")


def test_unknown_target(run: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no such target: decoder; there are differential"):
        run.chosen(["decoder"])


def test_without_clang(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install clang-14"):
        run.clang()


def test_differential() -> None:
    command = [sys.executable, str(FUZZ / "differential.py"), "--seed", "3", "--cases", "1", "--seconds", "600"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 comparisons, no difference" in done.stdout
