"""The choice between the convolutions of ONNX Runtime and those of retinasdk: rule, measurement and cache."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from retinasdk import ConvolutionChoice, Detector, ModelError, ModelSpec
from retinasdk.backends import blocked_graph, chosen_session, tuning
from retinasdk.backends.chosen_session import open_model
from retinasdk.backends.contest import LIMIT_S, BusyError, Contest, DisagreementError, Size, sizes_to_measure
from retinasdk.backends.tuning import Times, TuningKey, keep_times, kept_times
from retinasdk.models import find_model

PEOPLE = find_model("people")
KEY = TuningKey("abc", "Some CPU", "avx2 fma", "avx2", 2, "1.32.0", "0.1.0", 640, 768)
OURS, THEIRS = Times(100.0, 60.0, 640, 768), Times(100.0, 98.0, 640, 768)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of caches; measuring is on."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RETINASDK_CACHE", str(folder))
    monkeypatch.setenv("RETINASDK_TUNE", "1")
    folder.mkdir(mode=0o700)
    return folder


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("convolution-*.json")
    return path


def is_busy(explanation: str) -> bool:
    """Whether other work on this machine made measuring impossible."""
    return "the machine is too busy to measure (calls take from " in explanation


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_times_are_kept(cache: Path) -> None:
    assert kept_times(KEY) is None
    assert keep_times(KEY, OURS) == OURS
    assert kept_times(KEY) == OURS
    assert [path.name for path in cache.iterdir()] == [the_file(cache).name]  # no lock, no temporary file


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TuningKey)])
def test_every_part_of_the_key_counts(cache: Path, field: str) -> None:
    keep_times(KEY, OURS)
    value = getattr(KEY, field)
    other = dataclasses.replace(KEY, **{field: value + 1 if isinstance(value, int) else f"{value} other"})
    assert kept_times(other) is None
    keep_times(other, THEIRS)
    assert (kept_times(KEY), kept_times(other)) == (OURS, THEIRS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"format": 1, "key": {}, "times": {"direct": 1, "blocked": 1, "height": 1, "width": 1}}',
    ],
)
def test_broken_files_are_replaced(cache: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retinasdk")
    keep_times(KEY, OURS)
    the_file(cache).write_bytes(content)
    assert kept_times(KEY) is None
    assert caplog.messages == [f"{the_file(cache)} is damaged, so convolutions are measured again"]
    assert keep_times(KEY, THEIRS) == THEIRS
    assert kept_times(KEY) == THEIRS


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "0", '"1"', "null", "true", "[1]"])
@pytest.mark.parametrize("name", ["direct", "blocked", "height"])
def test_broken_times_are_replaced(cache: Path, name: str, value: str) -> None:
    keep_times(KEY, OURS)
    content = json.loads(the_file(cache).read_text())
    content["times"][name] = "HERE"
    the_file(cache).write_text(json.dumps(content).replace('"HERE"', value))
    assert kept_times(KEY) is None


def test_file_of_another_format_or_key(cache: Path) -> None:
    keep_times(KEY, OURS)
    text = the_file(cache).read_text()
    the_file(cache).write_text(text.replace('"format": 1', '"format": 2'))
    assert kept_times(KEY) is None
    the_file(cache).write_text(text.replace("Some CPU", "Other CPU"))
    assert kept_times(KEY) is None
    the_file(cache).write_text(text)
    assert kept_times(KEY) == OURS


def test_what_cannot_be_written(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_times(KEY, OURS)
    path = the_file(cache)
    path.unlink()
    path.mkdir()
    assert kept_times(KEY) is None
    assert keep_times(KEY, THEIRS) == THEIRS
    (message,) = caplog.messages
    assert message.startswith("Measured times of convolutions cannot be kept (")
    assert "so the next process measures again. Set RETINASDK_CACHE to a private folder" in message


def test_times_of_another_process_count(cache: Path) -> None:
    """A process that has measured takes the times that another one has written meanwhile."""
    assert keep_times(KEY, OURS) == OURS
    assert keep_times(KEY, THEIRS) == OURS
    assert kept_times(KEY) == OURS


def test_many_processes_at_once(cache: Path) -> None:
    program = (
        "import sys; from retinasdk.backends.tuning import *; from retinasdk.backends.tuning import _path\n"
        f"key, number = {KEY!r}, float(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    keep_times(key, Times(number, number, 640, 768))\n"
        "    times = kept_times(key)\n"
        "    assert times is None or times.direct == times.blocked\n"
        "    _path(key).unlink(missing_ok=True)\n"  # They write only if no other one has.
        "keep_times(key, Times(number, number, 640, 768))\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(1, 4)]
    assert [process.wait() for process in started] == [0, 0, 0]
    times = kept_times(KEY)
    assert times is not None
    assert times.direct == times.blocked
    assert times.direct in (1, 2, 3)
    assert [path.name for path in cache.iterdir()] == [the_file(cache).name]


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


# -- measuring ---------------------------------------------------------------------------------------------------------


class World:
    """Sessions that take a time for each pixel, and a clock that knows it."""

    def __init__(self, **nanoseconds: float) -> None:
        self.nanoseconds = nanoseconds
        self.now = 0.0
        self.open: list[str] = []
        self.calls: list[tuple[str, Size]] = []
        self.spoilt: dict[str, float] = {}
        self.slow_calls: dict[int, float] = {}

    def opens(self, name: str) -> Callable[[], Any]:
        world = self

        class Session:
            def __init__(self) -> None:
                self.name = name
                world.open.append(name)

            def __del__(self) -> None:
                world.open.remove(name)

        return Session

    def run(self, session: Any, size: Size) -> Sequence[npt.NDArray[np.float32]]:
        self.now += self.nanoseconds[session.name] * 1e-9 * size[0] * size[1] + self.slow_calls.get(len(self.calls), 0)
        self.calls.append((session.name, size))
        values = np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
        return [values, values + np.float32(self.spoilt.get(session.name, 0.0))]

    def contest(self, *sizes: Size) -> Contest:
        pauses: Callable[[float], None] = lambda seconds: None  # noqa: E731
        return Contest(self.opens("direct"), self.opens("blocked"), self.run, sizes, lambda: self.now, pauses)


def test_both_take_turns() -> None:
    world = World(direct=100, blocked=50)
    times, direct, blocked = world.contest((100, 100)).together()
    assert (times.direct, times.blocked) == (pytest.approx(1.0), pytest.approx(0.5))
    assert [name for name, _ in world.calls[2:]] == ["direct", "blocked"] * 4
    assert (direct.name, blocked.name) == ("direct", "blocked")


def test_large_files_are_measured_one_after_the_other() -> None:
    world = World(direct=100, blocked=50)
    seen = []
    contest = world.contest((100, 100))
    run = dataclasses.replace(contest, run=lambda *arguments: (seen.append([*world.open]), world.run(*arguments))[1])
    times, last = run.one_after_the_other()
    assert (times.direct, times.blocked) == (pytest.approx(1.0), pytest.approx(0.5))
    assert all(len(names) == 1 for names in seen)
    assert last.name == "blocked"


def test_other_work_on_the_machine_counts_little() -> None:
    world = World(direct=100, blocked=90)
    world.slow_calls = {3: 5.0, 4: 0.01, 7: 2.0}
    times = world.contest((1000, 1000)).together()[0]
    assert (times.direct, times.blocked) == (pytest.approx(100), pytest.approx(90))


@pytest.mark.parametrize("slow_calls", [{4: 0.1, 6: 0.2}, {5: 0.1, 7: 0.2}])
def test_a_busy_machine_is_noticed(slow_calls: dict[int, float]) -> None:
    world = World(direct=100, blocked=90)
    world.slow_calls = slow_calls
    with pytest.raises(BusyError, match=r"calls take from (100|90) to (300|290) ms"):
        world.contest((1000, 1000)).together()


@pytest.mark.parametrize("nanoseconds", [1, 100, 1000, 10_000, 100_000])
def test_measuring_takes_about_two_seconds(nanoseconds: float) -> None:
    world = World(direct=nanoseconds, blocked=nanoseconds / 2)
    sizes = sizes_to_measure((800, 1088), multiple=32)
    assert sizes == [(800, 1088), (416, 544), (224, 288)]
    times = world.contest(*sizes).together()[0]
    smallest = nanoseconds * 1e-9 * 224 * 288
    assert world.now <= max(1.5 * LIMIT_S, 6.6 * smallest)
    assert (times.height, times.width) == world.calls[-1][1]
    if nanoseconds <= 100:
        assert (times.height, times.width) == (800, 1088)


def test_sizes_to_measure() -> None:
    assert sizes_to_measure((256, 320), multiple=32) == [(256, 320)]
    assert sizes_to_measure((640, 768), multiple=128) == [(640, 768), (384, 384), (256, 256)]
    assert sizes_to_measure((800, 1067), multiple=32) == [(800, 1067), (416, 544), (224, 288)]
    assert sizes_to_measure((4096, 4096), multiple=4096) == [(4096, 4096)]
    assert max(sizes_to_measure((65536, 65536), multiple=32)[-1]) <= 320


@pytest.mark.parametrize("spoilt", [0.3, -2.0, float("nan"), float("inf")])
def test_other_results_are_refused(spoilt: float) -> None:
    world = World(direct=100, blocked=50)
    world.spoilt["blocked"] = spoilt
    with pytest.raises(DisagreementError, match="an output differs by"):
        world.contest((100, 100)).together()
    with pytest.raises(DisagreementError, match="an output differs by"):
        world.contest((100, 100)).one_after_the_other()


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
    the_file(cache).unlink()
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
