"""Proves that every kernel compiles without a warning, spill or local memory for all architectures.

Prints what each takes, as the page docs/how/kernel-resources.md: registers of a thread, static shared memory of a
block, and the share of the warps of a multiprocessor that fit.

    python tests/native/checks/kernel_resources.py [--check | --write]        needs nvcc 13

--check: fails if the page is out of date. Nothing is compiled if it is from these sources and this release of nvcc.
--write: writes the page.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Multiprocessor:
    """What fits on a multiprocessor at the same time. All have 65,536 registers."""

    warps: int
    blocks: int
    shared_kib: int
    reserved_bytes: int = 1024  # of shared memory, for each block


# max_threads_per_multiprocessor / 32, max_blocks_per_multiprocessor, max_shared_memory_per_multiprocessor and
# reserved_shared_memory_per_block in <cuda/devices> of CCCL 3.3, which comes with CUDA 13.
_ARCHITECTURES = {
    "75": Multiprocessor(32, 16, 64, reserved_bytes=0),
    "80": Multiprocessor(64, 32, 164),
    "86": Multiprocessor(48, 16, 100),
    "87": Multiprocessor(48, 16, 164),
    "89": Multiprocessor(48, 24, 100),
    "90": Multiprocessor(64, 32, 228),
    "100": Multiprocessor(64, 32, 228),
    "110": Multiprocessor(48, 24, 228),
    "120": Multiprocessor(48, 24, 100),
}
_EXAMPLES = {
    "75": "T4", "80": "A100", "86": "A10", "87": "Orin", "89": "L4", "90": "H100", "100": "B200", "110": "Thor",
    "120": "RTX 5090",
}  # fmt: skip
_PAGE = Path(__file__).parents[3] / "docs" / "how" / "kernel-resources.md"
_SOURCES = (
    "decode_cuda.cu", "nms_cuda.cu", "rotated_nms_cuda.cu", "soft_nms_cuda.cu", "fusion_cuda.cu",
    "preprocess_cuda.cu", "device_cuda.cu",
)  # fmt: skip
_CSRC = Path(__file__).parents[3] / "csrc"
_FLAGS = (
    "-std=c++17", "-fmad=false", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror",
    "-Xptxas", "-v,-Werror,-warn-spills,-warn-lmem-usage", "-cubin",
)  # fmt: skip
# Threads of a block, as the sources have it.
_THREADS = {
    "best_of_anchors": 256, "filter_values": 256, "shortlist": 512, "select_best": 512, "order_best": 1024,
    "mark_overlaps": 128, "keep_best": 1024, "drop_suppressed": 128, "keep_rest": 512, "soft_nms_kernel": 512,
    "fusion_kernel": 256, "fill_taps": 128, "fill_whole_taps": 128, "resize": 256,
    "resize_eight_bit": 256,
}  # fmt: skip


def occupancy(registers: int, shared_bytes: int, threads: int, limits: Multiprocessor) -> float:
    """Share of the warps of a multiprocessor that fit.

    Registers are given to a warp in units of 256, shared memory to a block in units of 128 bytes (cuda_occupancy.h).
    """
    warps = threads // 32
    registers_of_warp = -(-registers * 32 // 256) * 256
    shared_of_block = -(-shared_bytes // 128) * 128 + limits.reserved_bytes
    by_registers = 65536 // registers_of_warp // warps
    by_shared = limits.shared_kib * 1024 // shared_of_block if shared_of_block else limits.blocks
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared) * warps / limits.warps


def resources(source: str, architecture: str) -> dict[str, tuple[int, int]]:
    """(registers, bytes of shared memory) of each kernel in the file. Raises where the compiler complains."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "nvcc",
            *_FLAGS,
            f"-arch=sm_{architecture}",
            str(_CSRC / "cuda" / source),
            f"-I{_CSRC}",
            f"-I{_CSRC}/include",
            "-o",
            f"{folder}/kernel.cubin",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{source} does not compile for sm_{architecture}:\n{done.stdout}{done.stderr}")
    found = {}
    pattern = r"Compiling entry function '(\S+)'[\s\S]*?Used (\d+) registers(?:.*?, (\d+) bytes smem)?"
    for name, registers, shared in re.findall(pattern, done.stderr):
        demangled = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout
        short = re.sub(r"retinasdk::cuda::|\(anonymous namespace\)::|^void ", "", demangled.strip())
        found[re.sub(r"\(.*", "", short)] = (int(registers), int(shared or 0))
    return found


def origin(release: str) -> str:
    """What the numbers depend on, as a line of the page: the release of nvcc, and a digest of all that it compiles."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    folders = (_CSRC / name for name in ("cuda", "include", "math"))
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(_CSRC).as_posix()}\n".encode() + path.read_bytes())
    return f"From nvcc {release} and sources with the SHA-256 `{digest.hexdigest()}`."


def page(table: dict[str, dict[str, tuple[int, int]]], release: str) -> str:
    """The Markdown page."""
    chips = ", ".join(f"sm_{architecture} {chip}" for architecture, chip in _EXAMPLES.items())
    lines = [
        "# Kernel resources",
        "",
        "Registers of a thread and, behind the slash, the share of the warps of a multiprocessor that fit, for each",
        "architecture. Shared memory is in bytes of a block. No kernel spills registers or uses local memory: the",
        f"compiler would have failed. Examples of chips: {chips}.",
        "",
        f"{origin(release)}",
        "`python tests/native/checks/kernel_resources.py --write` writes this page.",
        "",
        "| kernel | threads | shared | " + " | ".join(f"sm_{architecture}" for architecture in _ARCHITECTURES) + " |",
        "|---|---|---|" + "---|" * len(_ARCHITECTURES),
    ]
    for kernel, row in table.items():
        threads = _THREADS[kernel.partition("<")[0]]
        shared_bytes = max(shared for _, shared in row.values())
        shares = (
            f"{registers} / {occupancy(registers, shared, threads, _ARCHITECTURES[architecture]):.0%}"
            for architecture, (registers, shared) in row.items()
        )
        lines.append(f"| `{kernel}` | {threads} | {shared_bytes} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compiles everything, and prints, checks or writes the page."""
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    (release,) = re.findall(r"release (\S+),", said)
    written = _PAGE.read_text()
    if sys.argv[1:] == ["--check"] and origin(release) in written:
        print(f"{_PAGE.name} is from these sources", file=sys.stderr)
        return
    table: dict[str, dict[str, tuple[int, int]]] = {}
    for source in _SOURCES:
        for architecture in _ARCHITECTURES:
            for kernel, taken in resources(source, architecture).items():
                table.setdefault(kernel, {})[architecture] = taken
    text = page(table, release)
    if sys.argv[1:] == ["--write"]:
        _PAGE.write_text(text)
    elif sys.argv[1:] == ["--check"]:
        if f"nvcc {release} " in written:
            sys.exit(f"{_PAGE.name} is out of date. Run: python {Path(__file__).name} --write")
    else:
        print(text)
    print("no warnings, no spills, no local memory", file=sys.stderr)


if __name__ == "__main__":
    main()
