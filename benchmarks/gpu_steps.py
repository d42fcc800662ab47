"""The steps of `make gpu`. Each runs programs with a time limit and returns what goes into the record."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_machine import Chip
from gpu_process import Done, run
from gpu_tools import nsight_arguments, nsight_kernels, program, reports

ROOT = Path(__file__).resolve().parent.parent
# Tests in which every kernel runs, and which end in time although a sanitizer slows them 10 to 100 times.
SANITIZED = (
    "tests/gpu/test_kernels.py",
    "-k",
    "not any_ and not batches and not three_hundred and not resnet50 and not test_preprocess",
)
_NETWORK_OPTIONS: dict[bool, list[str]] = {  # by whether it runs over stand-ins
    False: ["--rounds", "100"],
    True: ["--sizes", "64x96", "--precisions", "fp32", "--rounds", "2", "--seconds", "0.05", "--threads", "1"],
}
_POSTPROCESS_OPTIONS: dict[bool, list[str]] = {
    False: [],
    True: ["--shapes", "64x96x3", "--batches", "1", "--passing", "0.05", "--rounds", "2", "--copy-mib", "1"],
}

Step = dict[str, Any]


@dataclass
class Session:
    """What the steps share: where they run, until when, and what they found."""

    chip: Chip
    is_stand_in: bool
    end: float  # time.monotonic() when the budget is spent
    python: str = sys.executable
    folder: Path = ROOT / "build" / "gpu"
    why_no_kernels: str | None = "they were not built"
    why_no_tensorrt: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)  # fields of the record

    def environment(self, **more: str) -> dict[str, str]:
        paths = [ROOT / "benchmarks", ROOT / "tests" / "support"]
        if not self.is_stand_in:
            paths.insert(0, ROOT)  # where the package is built in place
        inherited = os.environ.get("PYTHONPATH")
        together = os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])])
        # Stand-ins run the installed package, so the folder in which programs run must not be on their path.
        stand_in = {"RETINASDK_GPU_TESTS": "fake", "PYTHONSAFEPATH": "1"} if self.is_stand_in else {}
        # Numbers of programs are read, so they must not follow the user's language.
        return {**os.environ, "PYTHONPATH": together, "LC_ALL": "C", **stand_in, **more}

    def run(self, part: str, command: Sequence[str], seconds: float, **more: str) -> Done:
        """Runs a program for so many seconds at most, or until the budget is spent."""
        limit = min(seconds, self.end - time.monotonic())
        log = self.folder / f"{part}.log"
        print(f"{part}: {shlex.join(command)} (at most {limit:.0f} s; output in {log})", flush=True)
        return run(command, seconds=limit, log=log, env=self.environment(**more), cwd=ROOT)

    def script(self, name: str, *arguments: str) -> list[str]:
        over = [str(ROOT / "tests" / "support" / "over_stand_ins.py")] if self.is_stand_in else []
        return [self.python, *over, str(ROOT / "benchmarks" / name), *arguments]


def step(part: str, outcome: str, note: str | None = None, done: Done | None = None, **more: Any) -> Step:
    seconds = None if done is None else round(max(done.seconds, 0.1), 1)
    return {"part": part, "outcome": outcome, "seconds": seconds, "command": None, "counts": {}, "note": note, **more}


def shown(command: Sequence[str]) -> str:
    """The command line as in a terminal in the repository's root, without paths of this machine."""
    words = [word.replace(f"{ROOT}{os.sep}", "") for word in command]
    return shlex.join(["python" if word == command[0] and "python" in Path(word).name else word for word in words])


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


# -- tests -------------------------------------------------------------------------------------------------------------


def tests(session: Session, seconds: float) -> Step:
    """tests/gpu on the GPU; without a TensorRT that runs here, the tests that need none."""
    results = session.folder / "tests.xml"
    results.unlink(missing_ok=True)
    chosen = ["-k", "test_sizes_around_warps_and_tiles"] if session.is_stand_in else []
    command = [session.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu", *chosen]
    required = {} if session.is_stand_in else {"RETINASDK_REQUIRE_CUDA": "kernels" if session.why_no_tensorrt else "1"}
    done = session.run("tests", [*command, f"--junitxml={results}"], seconds, **required)
    notes = []
    if session.why_no_tensorrt:
        notes.append(f"Tests that need TensorRT were skipped: {session.why_no_tensorrt}")
    if done.code is None:
        notes.append(f"Ended after {done.seconds:.0f} s")
        return step("tests", "time limit", ". ".join(notes), done, command=shown(command))
    counts, failed = test_results(results)
    if failed:
        notes.append(f"Failed: {', '.join(failed[:10])}{' and others' * (len(failed) > 10)}")
    if not counts:
        notes.append(f"No results: {last_line(done.text)}")
    passed = done.code == 0 and counts.get("passed", 0) > 0
    outcome = "passed" if passed else "failed"
    return step("tests", outcome, ". ".join(notes) or None, done, command=shown(command), counts=counts)


def test_results(path: Path) -> tuple[dict[str, int], list[str]]:
    """Numbers by outcome, and the names of the tests that failed, from pytest's XML file."""
    if not path.is_file():
        return {}, []
    counts: dict[str, int] = {}
    failed = []
    for case in ElementTree.parse(path).iter("testcase"):
        outcomes = {"failure": "failed", "error": "errors", "skipped": "skipped"}
        outcome = next((outcomes[child.tag] for child in case if child.tag in outcomes), "passed")
        counts[outcome] = counts.get(outcome, 0) + 1
        if outcome in ("failed", "errors"):
            failed.append(case.get("name", ""))
    return counts, failed


def sanitizer(session: Session, tool: str, seconds: float) -> Step:
    """One tool of compute-sanitizer over a choice of the kernels' tests."""
    path = program("compute-sanitizer")
    if path is None:
        return step(tool, "left out", "compute-sanitizer is not installed; it comes with the CUDA toolkit")
    pytest = [session.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SANITIZED]
    if session.is_stand_in:
        pytest[-1] = "test_images_of_a_batch_have_their_own_counts"
    results = session.folder / f"{tool}.xml"
    results.unlink(missing_ok=True)
    required = {} if session.is_stand_in else {"RETINASDK_REQUIRE_CUDA": "kernels"}
    if tool == "initcheck":
        required["RETINASDK_RAW_SCRATCH"] = "1"  # else it would see written memory only
    command = [path, "--tool", tool, *pytest, f"--junitxml={results}"]
    done = session.run(tool, command, seconds, **required)
    line = f"compute-sanitizer --tool {tool} {shown(pytest)}"
    counts, failed = test_results(results)
    tested = {"tests": sum(counts.values())} if counts else {}
    reported = reports(tool, done.text)
    if done.code is None:
        return step(tool, "time limit", f"Ended after {done.seconds:.0f} s", done, command=line)
    if reported is None:
        return step(tool, "failed", f"It printed no summary: {last_line(done.text)}", done, command=line, counts=tested)
    note = f"Failed under the tool: {', '.join(failed[:10])}" if failed else None
    if not failed and not reported["reports"] and done.code:
        note = f"Exit code {done.code}: {last_line(done.text)}"
    clean = done.code == 0 and not reported["reports"] and bool(tested)
    return step(tool, "passed" if clean else "failed", note, done, command=line, counts={**tested, **reported})


# -- benchmarks --------------------------------------------------------------------------------------------------------


def postprocess(session: Session, seconds: float) -> Step:
    """Decode and NMS, and the other kernels."""
    limit = min(seconds, session.end - time.monotonic())
    options = _POSTPROCESS_OPTIONS[session.is_stand_in]
    command = session.script("postprocess_gpu.py", *options, "--seconds", f"{0.8 * limit:.0f}")
    done, numbers = _measured(session, "postprocess", command, seconds)
    if numbers is not None:
        session.found["copy_gb_s"] = numbers["copy_gb_s"]
        session.found["postprocess"], session.found["kernels_ms"] = numbers["cases"], numbers["kernels_ms"]
    outcome = _outcome(done, bool(numbers and numbers["cases"]))
    left_out = "; ".join(numbers["left_out"]) if numbers else ""
    note = f"Left out: {left_out}" if left_out else None if outcome == "passed" else last_line(done.text)
    return step("postprocess", outcome, note, done, command=shown(command))


def frames(session: Session, seconds: float) -> Step:
    """Whole frames through TensorRT."""
    if session.why_no_tensorrt:
        return step("frames", "left out", session.why_no_tensorrt)
    command = session.script("gpu.py", *_NETWORK_OPTIONS[session.is_stand_in])
    done, numbers = _measured(session, "frames", command, seconds)
    session.found["frames"] = numbers
    if session.found.get("copy_gb_s") is None and numbers is not None:
        session.found["copy_gb_s"] = numbers["copy_gb_s"]
    outcome = _outcome(done, numbers is not None)
    return step("frames", outcome, None if outcome == "passed" else last_line(done.text), done, command=shown(command))


def nsight(session: Session, seconds: float) -> Step:
    """Nsight Compute over one launch of decode and NMS."""
    path = program("ncu")
    if path is None:
        return step("nsight", "left out", "ncu (Nsight Compute) is not installed")
    options = _POSTPROCESS_OPTIONS[session.is_stand_in]
    script = session.script("postprocess_gpu.py", *options, "--dtypes", "float16", "--profile")
    done = session.run("nsight", [path, *nsight_arguments(), *script], seconds)
    if "ERR_NVGPUCTRPERM" in done.text:
        return step(
            "nsight", "left out", "The user may not read the GPU's performance counters (ERR_NVGPUCTRPERM)", done
        )
    session.found["nsight"] = nsight_kernels(done.text, "float16")
    outcome = _outcome(done, bool(session.found["nsight"]))
    note = None if outcome == "passed" else last_line(done.text)
    return step("nsight", outcome, note, done, command=f"ncu {shlex.join(nsight_arguments())} {shown(script)}")


def _measured(session: Session, part: str, command: list[str], seconds: float) -> tuple[Done, Any]:
    """The numbers that a benchmark wrote, even if it was ended; None if it wrote none."""
    path = session.folder / f"{part}.json"
    path.unlink(missing_ok=True)
    done = session.run(part, [*command, "--json", str(path)], seconds)
    try:
        return done, json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return done, None


def _outcome(done: Done, has_numbers: bool) -> str:
    if done.code is None:
        return "time limit"
    return "passed" if done.code == 0 and has_numbers else "failed"
