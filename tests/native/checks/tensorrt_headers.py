"""Compiles the C++ TensorRT backend against TensorRT's headers, without TensorRT's libraries and without a GPU.

For each folder it checks that csrc/runtime/tensorrt compiles without a warning, and that the objects need no symbol of
TensorRT: libnvinfer is loaded at run time.

    python tests/native/checks/tensorrt_headers.py /usr/include/aarch64-linux-gnu
    python tests/native/checks/tensorrt_headers.py --from-github 8.5.3 v8.6.1 v10.3.0 v10.13.3 v11.1

The second form fetches the headers of the given tags of github.com/NVIDIA/TensorRT into a temporary folder. They belong
to NVIDIA, under the license that they name, and are not a part of this package.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "csrc" / "runtime" / "tensorrt").glob("*.cpp"))
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
REPOSITORY = "https://github.com/NVIDIA/TensorRT.git"


def compile_against(headers: Path, cuda: Path, others: list[str], folder: Path) -> str | None:
    """Returns what is wrong, or None."""
    for source in SOURCES:
        target = folder / (source.stem + ".o")
        command = ["g++", "-std=c++17", "-O0", "-fPIC", *WARNINGS, f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
        system = [word for path in (headers, cuda) for word in ("-isystem", str(path))]
        done = subprocess.run(
            [*command, *system, *others, "-c", str(source), "-o", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            return done.stderr
        symbols = subprocess.run(["nm", "--undefined-only", str(target)], capture_output=True, text=True, check=True)
        theirs = [line for line in symbols.stdout.split() if re.search(r"nvinfer1|_INTERNAL|getInferLib", line)]
        # Our own functions have TensorRT's types among their arguments.
        linked = [symbol for symbol in theirs if "retinasdk" not in symbol]
        if linked:
            return f"{source.name} must be linked to TensorRT for {', '.join(linked)}"
    return None


def version_of(headers: Path) -> str:
    """Returns the version that the headers state, such as "10.3.0"."""
    text = (headers / "NvInferVersion.h").read_text(encoding="utf-8")
    numbers = []
    for name in ("MAJOR", "MINOR", "PATCH"):
        found = re.search(rf"define (?:NV_TENSORRT_{name}|TRT_{name}_ENTERPRISE) (\d+)", text)
        assert found is not None, f"{headers}/NvInferVersion.h states no {name}"
        numbers.append(found[1])
    return ".".join(numbers)


def fetch(tag: str, folder: Path) -> Path:
    """Fetches the headers of a tag, and nothing else."""
    place = folder / tag
    clone = ["git", "clone", "--quiet", "--depth=1", "--filter=blob:none", "--sparse", "--branch", tag]
    subprocess.run([*clone, REPOSITORY, str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "sparse-checkout", "set", "include"], check=True)
    return place / "include"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("headers", nargs="+", help="folders that contain NvInferRuntime.h, or tags")
    parser.add_argument("--from-github", action="store_true", help="take the arguments as tags of NVIDIA's repository")
    parser.add_argument("--cuda", type=Path, default=Path("/usr/local/cuda/include"), help="folder of cuda_runtime.h")
    parser.add_argument("--option", action="append", default=[], help="further option of the compiler (repeatable)")
    given = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for item in given.headers:
            headers = fetch(item, folder) if given.from_github else Path(item)
            wrong = compile_against(headers, given.cuda, given.option, folder)
            print(f"TensorRT {version_of(headers)}: {'compiles' if wrong is None else wrong}", flush=True)
            failed |= wrong is not None
    sys.exit(failed)


if __name__ == "__main__":
    main()
