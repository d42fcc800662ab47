"""Proves that the parity tests run at least 95 % of the lines of the CUDA sources, on the emulated device.

python tests/native/checks/kernel_coverage.py BUILD        in an environment with retinasdk[test]
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pybind11

_ROOT = Path(__file__).parents[3]
_LEAST = 0.95


def build(folder: Path) -> None:
    """The emulated module with counters in it."""
    configure = [
        "cmake", f"-S{_ROOT}", f"-B{folder}", "-GNinja", "-DRETINASDK_CUDA=OFF", "-DRETINASDK_CUDA_ON_CPU=ON",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=--coverage -O1",
    ]  # fmt: skip
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder), "--target", "_native_cuda"], check=True, stdout=subprocess.DEVNULL)


def run_tests(folder: Path) -> None:
    """Leaves the counts in the build folder."""
    for old in folder.rglob("*.gcda"):
        old.unlink()
    cuda, pipeline = _ROOT / "tests" / "cuda", _ROOT / "tests" / "pipeline"
    files = (
        cuda / "test_kernels_on_cpu.py",
        cuda / "test_device.py",
        pipeline / "test_soft_nms.py",
        pipeline / "test_fusion.py",
        pipeline / "test_rotated.py",
    )
    tests = ["pytest", "-q", "-x", *map(str, files)]
    subprocess.run(tests, check=True, env={**os.environ, "RETINASDK_EMULATED_CUDA": str(folder)})


def counted_lines(folder: Path) -> dict[str, dict[int, int]]:
    """How often each line ran, by file: a line of a template counts once, whichever instance ran it."""
    counts: dict[str, dict[int, int]] = {}
    for data in folder.rglob("*_cuda.cu.gcda"):
        command = ["gcov", "--json-format", "--stdout", str(data)]
        output = subprocess.run(command, check=True, capture_output=True, cwd=data.parent).stdout
        text = gzip.decompress(output) if output[:2] == b"\x1f\x8b" else output
        for line in text.decode().splitlines():
            for file in json.loads(line)["files"]:
                path = Path(file["file"])
                if "csrc" not in path.parts or path.suffix not in (".cu", ".cuh"):
                    continue
                lines = counts.setdefault(path.name, {})
                for entry in file["lines"]:
                    number = entry["line_number"]
                    lines[number] = lines.get(number, 0) + entry["count"]
    return counts


def main() -> None:
    """Prints coverage and uncovered lines by file; exit status 1 below 95 %."""
    folder = Path(sys.argv[1]).resolve()
    build(folder)
    run_tests(folder)
    counts = counted_lines(folder)
    total = sum(len(lines) for lines in counts.values())
    ran = sum(count > 0 for lines in counts.values() for count in lines.values())
    for name, lines in sorted(counts.items()):
        missed = [number for number, count in sorted(lines.items()) if count == 0]
        print(f"{name:20s} {len(lines) - len(missed)} of {len(lines)} lines" + (f"; not: {missed}" if missed else ""))
    print(f"all of it            {ran} of {total} lines: {ran / max(1, total):.1%}")
    sys.exit(0 if total and ran >= _LEAST * total else 1)


if __name__ == "__main__":
    main()
