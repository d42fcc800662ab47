"""The choice between the convolutions of ONNX Runtime and those of retinasdk: rule, measurement and what is shown."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from retinasdk import ConvolutionChoice, Detector, ModelError, ModelSpec
from retinasdk.backends import blocked_graph, chosen_session, limited_sums, tuning
from retinasdk.backends.chosen_session import open_model
from retinasdk.backends.contest import BusyError, Contest, Size
from retinasdk.backends.tuning import Times, TuningKey, keep_times
from retinasdk.models import find_model

PEOPLE = find_model("people")
KEY = TuningKey("abc", "Some CPU", "avx2 fma", "avx2", 2, "1.32.0", "0.1.0", 640, 768)
OURS, THEIRS = Times(100.0, 60.0, 640, 768), Times(100.0, 98.0, 640, 768)


def is_busy(explanation: str) -> bool:
    """Whether other work on this machine made measuring impossible."""
    return "the machine is too busy to measure (calls take from " in explanation


# -- the choice --------------------------------------------------------------------------------------------------------


def chosen(path: Path = PEOPLE, *, threads: int = 1, convolution: str = "auto") -> ConvolutionChoice:
    return open_model(path, spec=None, threads=threads, convolution=convolution).choice


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Times], list[str]]:
    """measured(times) replaces the measurement; the list gets a word for each one, and the sessions that are open."""

    def replace(times: Times) -> list[str]:
        done: list[str] = []

        def together(contest: Contest) -> tuple[Times, Any, Any]:
            done.append("together")
            return times, contest.open_direct(), contest.open_blocked()

        def one_after_the_other(contest: Contest) -> tuple[Times, Any]:
            done.append("one after the other")
            return times, contest.open_blocked()

        monkeypatch.setattr(Contest, "together", together)
        monkeypatch.setattr(Contest, "one_after_the_other", one_after_the_other)
        return done

    return replace


@pytest.mark.parametrize(
    ("direct", "blocked", "name"),
    [(100.0, 50.0, "blocked"), (100.0, 97.0, "blocked"), (100.0, 97.1, "direct"), (100.0, 300.0, "direct")],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_faster_one_is_used(
    cache: Path,
    measured: Callable[[Times], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    direct: float,
    blocked: float,
    name: str,
    together: bool,
) -> None:
    monkeypatch.setattr(chosen_session, "_TOGETHER_BYTES", 1 << 40 if together else 0)
    done = measured(Times(direct, blocked, 640, 768))
    first = chosen()
    assert (first.name, first.reason, first.size) == (name, "measured", (640, 768))
    assert first.milliseconds == {"direct": direct, "blocked": blocked}
    again = chosen()
    assert again == dataclasses.replace(first, reason="cached")
    assert done == ["together" if together else "one after the other"]
    assert f"{blocked:.4g} ms, against {direct:.4g} ms" in str(first)
    assert chosen(threads=2).reason == "measured"  # a key of its own


def test_a_choice_depends_on_the_cache_alone(cache: Path, measured: Callable[[Times], list[str]]) -> None:
    measured(OURS)
    assert chosen().name == "blocked"
    measured(THEIRS)
    assert [chosen().name for _ in range(3)] == ["blocked"] * 3
    next(cache.glob("convolution-*.json")).unlink()
    assert [chosen().name for _ in range(3)] == ["direct"] * 3


def test_another_version_measures_again(
    cache: Path, measured: Callable[[Times], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = measured(OURS)
    chosen()
    monkeypatch.setattr(chosen_session, "__version__", "9.9.9")
    assert chosen().reason == "measured"
    monkeypatch.setattr("onnxruntime.__version__", "9.9.9")
    assert chosen().reason == "measured"
    assert len(done) == 3


def test_nothing_is_measured_without_tuning(
    cache: Path, measured: Callable[[Times], list[str]], monkeypatch: pytest.MonkeyPatch, model_path: Path
) -> None:
    done = measured(THEIRS)
    monkeypatch.setenv("RETINASDK_TUNE", "0")
    big, small = chosen(), chosen(model_path)
    assert (big.name, big.reason, big.milliseconds, big.size) == ("blocked", "rule", {}, None)
    assert (small.name, small.reason) == ("direct", "rule")
    assert "the file has less than 1 MB" in small.explanation
    assert done == []
    assert list(cache.iterdir()) == []


def test_without_a_folder_of_caches(
    cache: Path, measured: Callable[[Times], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Path:
        raise PermissionError("No folder of caches can be used")

    done = measured(THEIRS)
    monkeypatch.setattr(tuning, "cache_dir", fail)
    choice = chosen()
    assert (choice.name, choice.reason) == ("blocked", "rule")
    assert done == []


def test_sums_that_onnxruntime_limits_are_left_to_the_other_convolutions(
    cache: Path, measured: Callable[[Times], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = measured(THEIRS)
    monkeypatch.setattr(limited_sums, "are_limited", lambda path: True)
    choice = chosen()
    assert (choice.name, choice.reason) == ("blocked", "rule")
    assert "limits 8-bit sums" in str(choice)
    assert not done


def test_asked_for(cache: Path, measured: Callable[[Times], list[str]]) -> None:
    done = measured(OURS)
    for name in ("direct", "blocked"):
        choice = chosen(convolution=name)
        assert (choice.name, choice.reason) == (name, "given")
    assert done == []


@pytest.mark.parametrize("isa", ["plain", ""])
def test_without_kernels_for_the_processor(cache: Path, monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setattr(chosen_session, "_isa", lambda: isa)
    choice = chosen()
    assert (choice.name, choice.reason, choice.isa) == ("direct", "rule", isa)
    assert list(cache.iterdir()) == []


def test_measuring_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(contest: Contest) -> None:
        raise RuntimeError("the network failed\nin a node")

    caplog.set_level(logging.INFO, "retinasdk")
    monkeypatch.setattr(Contest, "together", fail)
    choice = chosen()
    assert (choice.name, choice.reason, choice.explanation) == ("direct", "rule", "the network failed")
    assert "people.onnx uses the convolutions of ONNX Runtime: the network failed" in caplog.messages
    assert list(cache.iterdir()) == []


def test_on_a_busy_machine(cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(contest: Contest) -> None:
        raise BusyError("calls take from 5 to 50 ms")

    caplog.set_level(logging.INFO, "retinasdk")
    monkeypatch.setattr(Contest, "together", fail)
    choice = chosen()
    assert (choice.name, choice.reason) == ("blocked", "rule")
    assert is_busy(choice.explanation)
    assert caplog.messages[0].startswith("people.onnx is measured again when it is next opened, because the machine is")
    assert list(cache.iterdir()) == []


def test_other_results_are_reported(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def spoilt(spec: ModelSpec, session: Any, size: Size) -> list[npt.NDArray[np.float32]]:
        calls.append(session)
        random = np.random.default_rng(0 if session is calls[0] else 1)
        return [random.standard_normal((1, 8, 4, 4), np.float32)]

    calls: list[Any] = []
    monkeypatch.setattr(chosen_session, "_run_on_noise", spoilt)
    choice = chosen()
    assert (choice.name, choice.reason) == ("direct", "rule")
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "people.onnx uses the convolutions of ONNX Runtime: those of retinasdk gave other results" in warning
    assert list(cache.iterdir()) == []


def test_operators_that_cannot_be_loaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "retinasdk")
    monkeypatch.setattr(blocked_graph, "library", lambda: tmp_path / "missing.so")
    for convolution in ("auto", "blocked"):
        caplog.clear()
        choice = chosen(convolution=convolution)
        assert (choice.name, choice.reason) == ("direct", "rule")
        assert choice.explanation.startswith("they cannot be loaded: ")
        assert f"people.onnx uses the convolutions of ONNX Runtime: {choice.explanation}" in caplog.messages
    monkeypatch.setattr(blocked_graph, "library", lambda: None)
    assert chosen().explanation == "retinasdk has no kernels for this processor"
    assert chosen(convolution="blocked").explanation == "retinasdk was built without its operators for ONNX Runtime"


def test_files_that_cannot_be_loaded(cache: Path, tmp_path: Path, model_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"broken.onnx: ONNX Runtime cannot load it"):
        Detector(tmp_path / "broken.onnx", device="cpu")
    (tmp_path / "alone.onnx").write_bytes(model_path.read_bytes())
    with pytest.raises(ModelError, match=r"alone.onnx has no model spec"):
        Detector(tmp_path / "alone.onnx", device="cpu")


def test_spec_of_another_model(cache: Path, model_path: Path) -> None:
    """It fails as it does without measuring."""
    with pytest.raises(ModelError, match="must have one input named 'other'"):
        Detector(model_path, device="cpu", spec=ModelSpec.load(model_path.with_suffix(".json")).replace(input="other"))


def test_a_wrong_instruction_set(cache: Path, tmp_path: Path) -> None:
    program = "import retinasdk; retinasdk.Detector('people', device='cpu')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "RETINASDK_ISA": "mmx"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ValueError: ")
    assert "RETINASDK_ISA" in done.stderr


def test_workers_use_the_same(cache: Path, measured: Callable[[Times], list[str]]) -> None:
    for times, name in ((OURS, "blocked"), (THEIRS, "direct")):
        done = measured(times)
        for path in cache.iterdir():
            path.unlink()
        with Detector("people", device="cpu", threads=2) as detector:
            assert detector.convolution is not None
            assert detector.convolution.name == name
            worker, _ = detector._backend.for_workers()
            assert worker.convolution is not None
            assert (worker.convolution.name, worker.convolution.threads) == (name, 1)
        assert done == ["together"]


def test_switch_of_the_detector() -> None:
    with pytest.raises(ValueError, match=r"convolution must be one of auto, direct, blocked; got 'fast'"):
        Detector("people", convolution="fast")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_it_is_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked in the middle can open models, and no lock is left when it dies."""
    codes = []

    def run(*arguments: Any) -> Any:
        child = os.fork()
        if child == 0:
            os._exit(0 if keep_times(KEY, OURS) == OURS else 1)
        codes.append(os.waitpid(child, 0)[1])
        return outputs(*arguments)

    outputs = chosen_session._run_on_noise
    monkeypatch.setattr(chosen_session, "_run_on_noise", run)
    choice = Detector("people", device="cpu", threads=1).convolution
    assert choice is not None
    assert choice.reason == "measured" or is_busy(choice.explanation)
    assert codes
    assert set(codes) == {0}
    assert len(list(cache.glob("convolution-*.json"))) == 1 + (choice.reason == "measured")
    assert len(list(cache.iterdir())) == len(list(cache.glob("convolution-*.json")))


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_real_thing(cache: Path, tmp_path: Path) -> None:
    """Measured in one process, found by the next one, which decides alike; results are those of the choice."""
    program = (
        "import json, retinasdk; detector = retinasdk.Detector('people', device='cpu', threads=2)\n"
        "choice = detector.convolution\n"
        "print(json.dumps([choice.name, choice.reason, choice.explanation, dict(choice.milliseconds)]))"
    )
    command = [sys.executable, "-c", program]
    said = [
        json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    ]
    (name, reason, explanation, times), (name_again, reason_again, _, times_again) = said
    if is_busy(explanation):
        assert (name, reason) == ("blocked", "rule")
        return
    assert (reason, reason_again) == ("measured", "cached")
    assert (name, times) == (name_again, times_again)
    assert name == ("blocked" if times["blocked"] <= 0.97 * times["direct"] else "direct")


@pytest.mark.heavy
def test_doctor_and_bench_say_it(cache: Path, run_python: Any) -> None:
    doctor = run_python(["-m", "retinasdk", "doctor", "--model", "people"])
    assert (doctor.returncode, doctor.stderr) == (0, "")
    (line,) = (line for line in doctor.stdout.splitlines() if "model people.onnx" in line)
    assert ("(measured, " in line and "ms with those of ONNX Runtime, at " in line) or is_busy(line)
    (line,) = (line for line in doctor.stdout.splitlines() if re.match("  ok +convolutions ", line))
    assert f"how fast each model runs with them is measured once and kept in {cache}" in line
    bench = run_python(["-m", "retinasdk", "bench", "people", "--device", "cpu", "--rounds", "1"])
    assert bench.returncode == 0
    (line,) = (line for line in bench.stdout.splitlines() if line.startswith("- convolutions of people cpu fp32: "))
    assert "(cached, " in line or is_busy(doctor.stdout)
    missing = run_python(["-m", "retinasdk", "doctor", "--model", "none.onnx"])
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "none.onnx is not the path of a file" in missing.stderr
