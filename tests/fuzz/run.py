"""Runs the fuzz targets for a given time, and prints what each one did: `python tests/fuzz/run.py --seconds 600`.

Targets in C++ (tests/fuzz/native) are built with Clang: libFuzzer, and the sanitizers of addresses and of undefined
behavior. Targets in Python (tests/fuzz/python) run under atheris. Each one starts with what is stored for it, in
tests/fuzz/corpus and tests/fuzz/crashes. What it finds interesting goes to build/fuzz/corpus, where the next run goes
on. An input that crashes goes to tests/fuzz/crashes; the ordinary tests replay those of targets in Python. The target
`differential` is tests/fuzz/differential.py. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
ROOT = FUZZ.parents[1]
BUILD = ROOT / "build" / "fuzz"
FOUND = BUILD / "corpus"
STORED_BYTES = 8192  # Of a target, as --store leaves it. A larger input is stored if it is the only one.
MAX_LENGTH = "-max_len=1024"  # Of native targets: bytes behind these decide on little, see tests/native/random.h.
_TAIL = 40  # Lines that are shown of a failure.


@dataclass(frozen=True)
class Target:
    """A fuzz target: its name, its kind (native, python or differential), and the program that runs it."""

    name: str
    kind: str
    program: tuple[str, ...]

    @property
    def crashes(self) -> Path:
        return FUZZ / "crashes" / self.name

    def folders(self) -> list[str]:
        """The folder for what is found, then those with what is stored."""
        for folder in (FOUND / self.name, self.crashes):
            folder.mkdir(parents=True, exist_ok=True)
        stored = [self.crashes, FUZZ / "corpus" / self.name]
        return [str(folder) for folder in (FOUND / self.name, *stored) if folder.is_dir()]

    def command(self, seconds: float) -> list[str]:
        """libFuzzer runs what is stored before it makes inputs of its own."""
        if self.kind == "differential":
            return [*self.program, "--seconds", f"{seconds:.0f}"]
        limits = ["-timeout=60", "-report_slow_units=60", "-rss_limit_mb=2048"]
        if self.kind == "native":
            limits.append(MAX_LENGTH)
        options = [f"-max_total_time={max(1, round(seconds))}", "-print_final_stats=1"]
        return [*self.program, *self.folders(), *options, f"-artifact_prefix={self.crashes}/", *limits]


@dataclass(frozen=True)
class Outcome:
    """What a run of a target came to. `features` are those of its coverage, as libFuzzer counts them."""

    target: Target
    executions: int
    seconds: float
    inputs: int
    features: int
    crashes: tuple[str, ...]
    failed: bool
    log: Path

    def row(self) -> tuple[str, ...]:
        rate = self.executions / self.seconds if self.seconds else 0.0
        numbers = (self.executions, round(rate), self.inputs, self.features, len(self.crashes) or int(self.failed))
        return (self.target.name, *(f"{number:,}" for number in numbers))


def clang() -> str:
    """Returns a Clang that can be run; CXX names another one."""
    names = [os.environ.get("CXX", ""), "clang++", *(f"clang++-{version}" for version in range(22, 12, -1))]
    for name in names:
        if "clang" in name and shutil.which(name):
            return name
    raise SystemExit("fuzzing the C++ core needs Clang with libFuzzer; run: apt-get install clang-14, or set CXX")


def build(jobs: int) -> None:
    """Builds the native targets, unless they are up to date."""
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=tools)
    if cmake is None:
        raise SystemExit("building the fuzz targets needs CMake; run: pip install 'cmake>=3.24' ninja")
    off = ["-DRETINASDK_PYTHON=OFF", "-DRETINASDK_RUNTIME=OFF", "-DRETINASDK_CUDA=OFF"]
    options = [*off, "-DRETINASDK_CUDA_ON_CPU=ON", "-DRETINASDK_FUZZ=ON"]
    configure = [cmake, f"-S{ROOT}", f"-B{BUILD}", "-GNinja", f"-DCMAKE_CXX_COMPILER={clang()}", *options]
    for command in (configure, [cmake, "--build", str(BUILD), "--parallel", str(jobs)]):
        done = subprocess.run(command, env={**os.environ, "PATH": tools}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def all_targets() -> list[Target]:
    sources = sorted((FUZZ / "native").glob("*.cpp"))
    native = [Target(path.stem, "native", (str(BUILD / "tests/fuzz" / f"fuzz_{path.stem}"),)) for path in sources]
    scripts = sorted((FUZZ / "python").glob("fuzz_*.py"))
    python = [Target(path.stem.removeprefix("fuzz_"), "python", (sys.executable, str(path))) for path in scripts]
    differential = Target("differential", "differential", (sys.executable, str(FUZZ / "differential.py")))
    return [*native, *python, differential]


def chosen(names: Sequence[str]) -> list[Target]:
    """Returns the targets with these names, or all."""
    targets = all_targets()
    known = {target.name for target in targets}
    unknown = sorted(set(names) - known)
    if unknown:
        raise SystemExit(f"no such target: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [target for target in targets if not names or target.name in names]


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def fuzz(target: Target, seconds: float) -> Outcome:
    """Runs one target."""
    command, before = target.command(seconds), files_in(target.crashes)
    log = BUILD / "logs" / f"{target.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("wb") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, check=False).returncode
    text = log.read_text(errors="replace")

    def last(*patterns: str) -> int:
        found = [number for pattern in patterns for number in re.findall(pattern, text, re.MULTILINE)]
        return int(found[-1]) if found else 0

    return Outcome(
        target,
        executions=last(r"^#(\d+)\s", r"^stat::number_of_executed_units:\s*(\d+)"),
        seconds=time.monotonic() - start,
        inputs=len(files_in(FOUND / target.name) | files_in(FUZZ / "corpus" / target.name)),
        features=last(r"\bft: (\d+)"),
        crashes=tuple(sorted(files_in(target.crashes) - before)),
        failed=status != 0,
        log=log,
    )


def store(target: Target) -> None:
    """Replaces the stored corpus of a target by a few small inputs that reach the most."""
    corpus = FUZZ / "corpus" / target.name
    with tempfile.TemporaryDirectory() as name:
        merged = Path(name)
        # By edges only: with the counters, hundreds of inputs differ in how often something happens.
        limits = ["-set_cover_merge=1", "-use_counters=0", MAX_LENGTH]
        command = [*target.program, *limits, str(merged), *target.folders()]
        subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
        shutil.rmtree(corpus, ignore_errors=True)
        corpus.mkdir(parents=True)
        room = STORED_BYTES
        for path in sorted(merged.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
            room -= path.stat().st_size
            if room < 0 and any(corpus.iterdir()):
                break
            shutil.copy(path, corpus / path.name)


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def report(outcomes: Sequence[Outcome]) -> bool:
    """Prints the failures and the table. Returns whether there was no failure."""
    for outcome in outcomes:
        if not outcome.failed:
            continue
        print(f"== {outcome.target.name} failed; the whole log is {outcome.log.relative_to(ROOT)}")
        print("\n".join(outcome.log.read_text(errors="replace").splitlines()[-_TAIL:]))
        for name in outcome.crashes:
            path = (outcome.target.crashes / name).relative_to(ROOT)
            print(f"repeat it: {' '.join(outcome.target.program)} {path}")
    heads = ("target", "executions", "a second", "corpus", "features", "crashes")
    print(table([heads, *(outcome.row() for outcome in outcomes)]))
    print(f"{sum(outcome.executions for outcome in outcomes):,} executions in all")
    return not any(outcome.failed for outcome in outcomes)


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the fuzz targets, and prints what each one did.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="names of targets (default: all)")
    parser.add_argument("--seconds", type=float, default=600.0, help="in all, shared by the targets (default: 600)")
    parser.add_argument("--jobs", "-j", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="targets at a time")
    parser.add_argument("--store", action="store_true", help="afterwards, store the best inputs of native targets")
    options = parser.parse_args()
    targets = chosen(options.targets)
    kinds = {target.kind for target in targets}
    if "python" in kinds and importlib.util.find_spec("atheris") is None:
        raise SystemExit(
            'fuzzing the Python code needs atheris; run: pip install "retinasdk[fuzz]", or name native targets only'
        )
    if "native" in kinds:
        build(options.jobs)
    share = options.seconds * options.jobs / len(targets)
    print(f"{len(targets)} targets, {share:.0f} s each, {options.jobs} at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda target: fuzz(target, share), targets))
    if options.store:
        for target in targets:
            if target.kind == "native":
                store(target)
    return 0 if report(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
