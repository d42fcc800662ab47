"""Proves that tests take every branch of csrc/math, cpu and cuda, or that the source says why not.

python tests/native/checks/branch_coverage.py BUILD        in an environment with retinasdk[test]

Clang counts both outcomes of every condition; it needs the packages clang-14 and llvm-14. The CUDA kernels run on the
emulated device (tests/support/cuda_on_cpu). All instances of a template count together. Conditions that are known at
compile time do not count. Code that is not compiled on this machine, such as the NEON filter, is not counted either.

If no test can reach a branch, a comment gives the reason, at the end of the line or above it:

    if (status != cudaSuccess) return;  // uncovered: only a broken driver fails here

It covers every outcome that starts on that line. A reason where everything is covered is an error, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pybind11

_ROOT = Path(__file__).resolve().parents[3]
_VERSION = "14"
_FOLDERS = ("csrc/math", "csrc/cpu", "csrc/cuda")
_PROGRAMS = (("fuzz_core", "1", "100"), ("parity_cuda", "1", "10"))
_MODULES = ("_native", "_native_cuda")
_TESTS = (
    "tests/cuda/test_kernels_on_cpu.py",
    "tests/cuda/test_arguments.py",
    "tests/cuda/test_device.py",
    "tests/cuda/test_color.py",
    "tests/pipeline/test_decode.py",
    "tests/pipeline/test_fuse.py",
    "tests/pipeline/test_fusion.py",
    "tests/pipeline/test_nms.py",
    "tests/pipeline/test_postprocess.py",
    "tests/pipeline/test_preprocess.py",
    "tests/pipeline/test_rotated.py",
    "tests/pipeline/test_soft_nms.py",
    "tests/pipeline/test_suppression.py",
    "tests/tiling/test_merge_tiles.py",
    "tests/faults/test_emulated_runtime.py",
)
# Long ones, which reach nothing that the others do not.
_LEFT_OUT = "not (any_heads or three_hundred or buffer_grows or more_candidates_than_the_buffer or exact_arithmetic)"
_CODE_REGION = 0
_REASON = re.compile(r"//\s*uncovered:\s*\S")


class Place(NamedTuple):
    """Where a condition stands, with lines and columns from 1 as Clang counts them."""

    line: int
    column: int
    end_line: int
    end_column: int


Counts = dict[str, dict[Place, list[int]]]
"""How often each condition was true and false, by file relative to the repository."""


def build(folder: Path) -> None:
    """Builds the native tests and the Python modules with counters, and a package that has these modules."""
    native = folder / "native"
    configure = [
        "cmake", f"-S{_ROOT}", f"-B{native}", "-GNinja", f"-DCMAKE_CXX_COMPILER=clang++-{_VERSION}",
        "-DRETINASDK_CUDA=OFF", "-DRETINASDK_CUDA_ON_CPU=ON", "-DRETINASDK_NATIVE_TESTS=ON",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        # Atomic: threads of a test that count at once would lose counts, and the others are computed from those.
        "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=", "-DRETINASDK_RUNTIME=OFF",
        "-DCMAKE_CXX_FLAGS=-O1 -fprofile-instr-generate -fprofile-update=atomic -fcoverage-mapping",
    ]  # fmt: skip
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    targets = [*_MODULES, *(program for program, *_ in _PROGRAMS)]
    subprocess.run(["cmake", "--build", str(native), "--target", *targets], check=True, stdout=subprocess.DEVNULL)
    package = folder / "python" / "retinasdk"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(_ROOT / "retinasdk", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(built_module(native, "_native"), package)


def built_module(native: Path, name: str) -> Path:
    """The one built file of a Python module."""
    (found,) = (path for path in native.rglob(f"{name}.*") if path.suffix == ".so")
    return found


def run_tests(folder: Path) -> None:
    """Runs all tests. The counts are then in the folder `counts`."""
    counts = folder / "counts"
    shutil.rmtree(counts, ignore_errors=True)
    environment = {
        **os.environ,
        "LLVM_PROFILE_FILE": f"{counts}/%2m.profraw",  # Processes add up in two files for each binary.
        "RETINASDK_EMULATED_CUDA": str(folder / "native"),
        "PYTHONPATH": str(folder / "python"),
    }
    commands = [[str(folder / "native" / "tests" / "native" / name), *arguments] for name, *arguments in _PROGRAMS]
    commands.append(
        ["pytest", "-q", "-x", "-m", "not heavy", "-k", _LEFT_OUT, "-n", "2", "--dist", "worksteal", *_TESTS]
    )
    for command in commands:
        subprocess.run(command, check=True, env=environment, cwd=_ROOT)


def counted(folder: Path) -> Counts:
    """Merges the counts of all processes, binaries and template instances."""
    profile = folder / "all.profdata"
    raw = sorted((folder / "counts").glob("*.profraw"))
    subprocess.run([f"llvm-profdata-{_VERSION}", "merge", "-sparse", *raw, "-o", profile], check=True)
    native = folder / "native"
    binaries = [native / "tests" / "native" / name for name, *_ in _PROGRAMS]
    binaries += [built_module(native, name) for name in _MODULES]
    first, *others = map(str, binaries)
    objects = [part for other in others for part in ("-object", other)]
    export = [f"llvm-cov-{_VERSION}", "export", f"-instr-profile={profile}", first, *objects]
    report = json.loads(subprocess.run(export, check=True, stdout=subprocess.PIPE).stdout)
    counts: Counts = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for function in report["data"][0]["functions"]:
        for name, place, times in branches_of(function):
            path = Path(name)
            if any(path.is_relative_to(_ROOT / folder) for folder in _FOLDERS):
                both = counts[str(path.relative_to(_ROOT))][place]
                both[0] += times[0]
                both[1] += times[1]
    return counts


def branches_of(function: dict[str, Any]) -> Iterator[tuple[str, Place, tuple[int, int]]]:
    """The conditions of one function that are not known at compile time: file, place, times true and false."""
    regions = [region for region in function["regions"] if region[7] == _CODE_REGION]
    for *place, true, false, file_id, _, _ in function["branches"]:
        if true == false == 0:
            begin, end = (place[0], place[1]), (place[2], place[3])
            around = [
                region
                for region in regions
                if region[5] == file_id and (region[0], region[1]) <= begin and end <= (region[2], region[3])
            ]
            # The innermost region begins last. Clang writes 0 for both outcomes of a constant condition.
            if around and max(around, key=lambda region: (region[0], region[1]))[4] > 0:
                continue
        yield function["filenames"][file_id], Place(*place), (true, false)


def reasons(path: Path) -> dict[int, int]:
    """Which lines have a reason: the line of the code, and the line of the comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = {}
    for number, line in enumerate(lines, 1):
        if not _REASON.search(line):
            continue
        code = number
        while code < len(lines) and lines[code - 1].lstrip().startswith("//"):
            code += 1
        found[code] = number
    return found


def missing(path: str, conditions: dict[Place, list[int]]) -> tuple[list[str], list[str]]:
    """What a file lacks, and which of its reasons hold.

    Args:
        path: The file, relative to the repository.
        conditions: How often its conditions were true and false.

    Returns:
        A line for each outcome without a test or a reason, and for each reason without such an outcome; a line for each
        outcome with a reason.
    """
    given = reasons(_ROOT / path)
    lines = (_ROOT / path).read_text(encoding="utf-8").splitlines()
    faults, excused, used = [], [], set()
    for place, (true, false) in sorted(conditions.items()):
        never = " and ".join(name for name, count in (("true", true), ("false", false)) if count == 0)
        if not never:
            continue
        line = lines[place.line - 1]
        condition = line[place.column - 1 : place.end_column - 1 if place.end_line == place.line else None]
        # Clang names a loop over a range by its colon.
        report = f"{path}:{place.line}: never {never}: {line.strip() if condition == ':' else condition}"
        if place.line in given:
            used.add(place.line)
            excused.append(report)
        else:
            faults.append(report)
    for code, number in given.items():
        if code not in used:
            faults.append(f"{path}:{number}: the reason is stale: every branch of line {code} is covered")
    return faults, excused


def main() -> None:
    """Prints coverage and uncovered branches by file; exit status 1 if one has neither a test nor a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="build folder; its counts are replaced")
    parser.add_argument("--report", action="store_true", help="print the counts of the last run, without running tests")
    arguments = parser.parse_args()
    folder: Path = arguments.build.resolve()
    if not arguments.report:
        build(folder)
        run_tests(folder)
    counts = counted(folder)
    failed = False
    total = taken = 0
    for path, conditions in sorted(counts.items()):
        faults, excused = missing(path, conditions)
        covered = sum((true > 0) + (false > 0) for true, false in conditions.values())
        total += 2 * len(conditions)
        taken += covered
        print(f"{path:40s} {covered} of {2 * len(conditions)} branches")
        for fault in faults:
            print(f"  {fault}")
        for report in excused:
            print(f"  {report} (with a reason)")
        failed |= bool(faults)
    print(f"in all: {taken} of {total} branches, {taken / max(1, total):.1%}")
    sys.exit(1 if failed or not total else 0)


if __name__ == "__main__":
    main()
