"""Proves that every kernel compiles without a warning, spill or local memory for all architectures.

Prints what each takes: registers of a thread, static shared memory of a block, and the share of the warps of an sm_87
(Orin) multiprocessor that fit.

    python tests/native/checks/kernel_resources.py [SM ...]        needs nvcc 13
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ARCHITECTURES = ("75", "80", "86", "87", "89", "90", "110", "120")
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
    "best_of_anchors": 256, "filter_logits": 256, "select_best": 512, "make_boxes": 256, "order_best": 1024,
    "mark_overlaps": 128, "keep_best": 1024, "drop_suppressed": 128, "keep_rest": 512, "soft_nms_kernel": 512,
    "fusion_kernel": 256, "fill_taps": 128, "fill_whole_taps": 128, "resize": 256,
    "resize_eight_bit": 256,
}  # fmt: skip
# Compute capability 8.7 in the CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
# Registers are given to a warp in units of 256, shared memory to a block in units of 128 bytes and 1 KiB on top.
_SM_REGISTERS, _SM_WARPS, _SM_BLOCKS, _SM_SHARED_BYTES = 65536, 48, 16, 164 * 1024


def occupancy(registers: int, shared_bytes: int, threads: int) -> float:
    """Share of the warps of an sm_87 multiprocessor that fit."""
    warps = threads // 32
    registers_of_warp = -(-registers * 32 // 256) * 256
    shared_of_block = -(-shared_bytes // 128) * 128 + 1024
    by_registers = _SM_REGISTERS // registers_of_warp // warps
    blocks = min(_SM_BLOCKS, _SM_WARPS // warps, by_registers, _SM_SHARED_BYTES // shared_of_block)
    return blocks * warps / _SM_WARPS


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


def main() -> None:
    """Prints a row for each kernel: registers by architecture."""
    architectures = sys.argv[1:] or _ARCHITECTURES
    table: dict[str, dict[str, tuple[int, int]]] = {}
    for source in _SOURCES:
        for architecture in architectures:
            for kernel, taken in resources(source, architecture).items():
                table.setdefault(kernel, {})[architecture] = taken
    print(f"{'registers':32s}" + "".join(f"{'sm_' + a:>8s}" for a in architectures) + "   shared  occupancy on sm_87")
    for kernel, row in table.items():
        registers, shared_bytes = row.get("87", next(iter(row.values())))
        share = occupancy(registers, shared_bytes, _THREADS[kernel.partition("<")[0]])
        numbers = "".join(f"{row[a][0]:8d}" for a in architectures)
        print(f"{kernel:32s}{numbers} {shared_bytes:8d}  {share:.0%}")
    print("no warnings, no spills, no local memory")


if __name__ == "__main__":
    main()
