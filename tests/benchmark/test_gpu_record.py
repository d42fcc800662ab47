"""`make gpu` as a whole, over stand-ins for GPU, compute-sanitizer and ncu; and what its steps say of failures."""

from __future__ import annotations

import importlib
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
# memcheck runs the tests; racecheck finds a race; initcheck prints no summary; synccheck does not end.
SANITIZER = """#!/bin/sh
tool=$2
shift 2
case $tool in
  memcheck) "$@" || exit 1; echo "========= ERROR SUMMARY: 0 errors" ;;
  racecheck) echo "========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)"; exit 1 ;;
  initcheck) echo "========= Error: Target application terminated before first instrumented API call"; exit 1 ;;
  *) sleep 600 & wait ;;
esac
"""
NCU = """#!/bin/sh
echo '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
echo '"0","filter_logits(int)","gpu__time_duration.sum","ns","47,000"'
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return {
        name: importlib.import_module(name)
        for name in ("gpu_record", "gpu_steps", "gpu_build", "gpu_machine", "gpu_process")
    }


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """compute-sanitizer and ncu on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in (("compute-sanitizer", SANITIZER), ("ncu", NCU)):
        (folder / name).write_text(script)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def session(modules: Any, tmp_path: Path) -> Any:
    chip = modules["gpu_machine"].stand_in_chip()
    return modules["gpu_steps"].Session(chip, True, time.monotonic() + 600, folder=tmp_path / "gpu")


@pytest.mark.heavy
@pytest.mark.skipif(os.name != "posix", reason="`make gpu` runs on Linux")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs PYTHONSAFEPATH to run the installed package")
def test_everything_over_stand_ins(tools: Path, modules: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("RETINASDK_GPU_TESTS", "fake")
    monkeypatch.setenv("COMMIT", "9d3680d")  # for copies of the source without its repository
    record = modules["gpu_record"]
    monkeypatch.setitem(record.PARTS, "synccheck", (record.PARTS["synccheck"][0], 1.0))
    parts = "tests postprocess sanitizers nsight"
    monkeypatch.setattr(sys, "argv", ["gpu_record.py", "--parts", parts, "--budget", "900"])
    assert record.main() == 1
    said = capfd.readouterr()
    assert "Not everything passed: racecheck, initcheck, synccheck." in said.err

    path = Path(said.out.partition("The record is ")[2].strip().rstrip(".")).with_suffix(".json")
    assert path.is_relative_to(ROOT / "build" / "gpu"), "a stand-in's record must not be among the others"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["kind"] == "stand-in"
    assert found["name"].startswith("stand-in-")
    assert {one["part"]: one["outcome"] for one in found["steps"]} == {
        "build": "passed",
        "tests": "passed",
        "postprocess": "passed",
        "memcheck": "passed",
        "racecheck": "failed",
        "initcheck": "failed",
        "synccheck": "time limit",
        "frames": "left out",
        "nsight": "passed",
    }
    steps = {one["part"]: one for one in found["steps"]}
    assert steps["memcheck"]["counts"] == {"tests": 1, "reports": 0}
    assert steps["racecheck"]["counts"] == {"reports": 1, "warnings": 1}
    assert steps["initcheck"]["note"].startswith("It printed no summary: ========= Error: Target application")
    assert steps["frames"]["note"] == "it was not asked for"
    assert str(ROOT) not in json.dumps([one["command"] for one in found["steps"]]), "paths of this machine"
    assert [(case["dtype"], case["passing"]) for case in found["postprocess"]] == [("float32", 0.05), ("float16", 0.05)]
    for case in found["postprocess"]:
        assert case["floor_ms"] == pytest.approx(case["logits_mb"] / found["copy_gb_s"])
    assert len(found["kernels_ms"]) == 7
    assert found["nsight"][0]["microseconds"] == pytest.approx(47)
    path.unlink()
    path.with_suffix(".md").unlink()


def test_without_a_gpu(modules: Any) -> None:
    """One sentence, and the exit code that make passes on."""
    environment = {name: value for name, value in os.environ.items() if name != "RETINASDK_GPU_TESTS"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_record.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("make gpu needs a machine with an NVIDIA GPU, and there is none here: ")
    assert done.stderr.count("\n") == 1


def test_parts(modules: Any) -> None:
    parts_of = modules["gpu_record"].parts_of
    assert parts_of("memcheck, tests benchmark") == ["tests", "postprocess", "memcheck", "frames"]
    with pytest.raises(Exception, match="there is no part 'test'; known are: tests, postprocess, memcheck"):
        parts_of("test")


def test_a_spent_budget_and_missing_kernels_leave_parts_out(
    modules: Any, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = modules["gpu_record"]
    step = modules["gpu_steps"].step
    monkeypatch.setattr(record, "build", lambda session, seconds: step("build", "failed", "no"))
    notes = {one["part"]: one["note"] for one in record.carry_out(session, ["tests"])}
    assert notes["tests"] == "There are no kernels: they were not built"
    assert notes["memcheck"] == "it was not asked for"
    session.why_no_kernels, session.end = None, time.monotonic()
    assert record.carry_out(session, ["tests"])[1]["note"] == "the budget of time was spent"


def test_counters_that_the_user_may_not_read(modules: Any, session: Any, tools: Path) -> None:
    (tools / "ncu").write_text(
        "#!/bin/sh\necho '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission'\nexit 1\n"
    )
    assert modules["gpu_steps"].nsight(session, 60)["outcome"] == "left out"


def test_tests_that_do_not_end(modules: Any, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = modules["gpu_process"].Done(None, "..", 7.0)
    monkeypatch.setattr(session, "run", lambda *given, **more: ended)
    session.why_no_tensorrt = "there is none"
    step = modules["gpu_steps"].tests(session, 7)
    assert step["outcome"] == "time limit"
    assert step["note"] == "Tests that need TensorRT were skipped: there is none. Ended after 7 s"
    assert modules["gpu_steps"].frames(session, 7)["outcome"] == "left out"
    assert modules["gpu_steps"].postprocess(session, 7)["outcome"] == "time limit"


def test_results_of_pytest(modules: Any, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken(): 1 / 0\n"
        "def test_good(): pass\ndef test_bad(): assert 0\ndef test_left(): pytest.skip('no')\n"
        "def test_error(broken): pass\n"
    )
    results = tmp_path / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}", "test_some.py"]
    done = modules["gpu_process"].run(command, seconds=60, log=tmp_path / "log", env=dict(os.environ), cwd=tmp_path)
    assert done.code == 1
    counts, failed = modules["gpu_steps"].test_results(results)
    assert counts == {"passed": 1, "failed": 1, "skipped": 1, "errors": 1}
    assert failed == ["test_bad", "test_error"]


def test_what_hangs_is_ended_with_its_children(modules: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"(sleep 3; touch {mark}) & echo begun; wait"
    begin = time.monotonic()
    done = modules["gpu_process"].run(
        ["sh", "-c", script], seconds=1, log=tmp_path / "log", env=dict(os.environ), cwd=tmp_path
    )
    assert (done.code, done.text) == (None, "begun\n")
    time.sleep(max(0.0, begin + 4 - time.monotonic()))
    assert not mark.exists()


def test_builds_for_the_present_chip_alone(modules: Any, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command lines of the build, with programs that only report them."""
    session.is_stand_in = False
    commands: list[list[str]] = []

    def run(part: str, command: list[str], seconds: float, **more: str) -> Any:
        commands.append(command)
        return modules["gpu_process"].Done(1 if len(commands) == 2 else 0, "ninja: no\n", 1.0)

    monkeypatch.setattr(session, "run", run)
    monkeypatch.setattr(modules["gpu_build"], "program", lambda name: f"/cuda/bin/{name}")
    monkeypatch.setattr(modules["gpu_build"], "_missing", lambda session: [])
    step = modules["gpu_build"].build(session, 60)
    assert step["outcome"] == "failed"
    assert step["note"] == session.why_no_kernels == "The build failed: ninja: no"
    assert "-DCMAKE_CUDA_ARCHITECTURES=87-real" in commands[0]
    assert "-DRETINASDK_CUDA=ON" in commands[0]
