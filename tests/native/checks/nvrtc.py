"""Proves that the kernels are clean CUDA 11 device code: NVRTC 11.8 compiles them for sm_72 (Xavier) and sm_87 (Orin).

nvcc 13 knows no sm_72, and JetPack 5's nvcc 11.4 comes with a Jetson only. Downloads two wheels of NVIDIA's to CACHE:

    python tests/native/checks/nvrtc.py CACHE
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import zipfile
from pathlib import Path

_WHEELS = ("nvidia-cuda-nvrtc-cu11==11.8.89", "nvidia-cuda-runtime-cu11==11.8.89")
_ARCHITECTURES = ("sm_72", "sm_87")
_SOURCES = Path(__file__).parents[3] / "csrc"
# NVRTC has no C++ library; what the headers in math/ take from it, NVRTC declares by itself.
_VIRTUAL_HEADERS = {
    "cuda_runtime.h": "",
    "cmath": "",
    "cstring": "",
    "cstdint": "typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef int int32_t;"
    " typedef unsigned uint32_t; typedef long long int64_t; typedef unsigned long long uint64_t;"
    " typedef unsigned long long uintptr_t;",
}


def unpacked(cache: Path) -> Path:
    """The folder `nvidia` of the wheels, downloaded once."""
    if not (cache / "nvidia").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, "--dest", str(cache), *_WHEELS], check=True)
        for wheel in cache.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(cache)
    return cache / "nvidia"


class Nvrtc:
    """The calls of libnvrtc that compiling needs."""

    def __init__(self, nvidia: Path) -> None:
        (library,) = (nvidia / "cuda_nvrtc" / "lib").glob("libnvrtc.so.*")
        self._library = ctypes.CDLL(str(library))
        self._include = nvidia / "cuda_runtime" / "include"

    def compile(self, source: Path, architecture: str) -> tuple[int, str]:
        """(size of the machine code, or 0 where it does not compile; what the compiler said)."""
        library, program = self._library, ctypes.c_void_p()
        names = [name.encode() for name in _VIRTUAL_HEADERS]
        contents = [text.encode() for text in _VIRTUAL_HEADERS.values()]
        strings = ctypes.c_char_p * len(names)
        self._check(
            library.nvrtcCreateProgram(
                ctypes.byref(program), source.read_bytes(), source.name.encode(), len(names), strings(*contents),
                strings(*names),
            )
        )  # fmt: skip
        options = [
            f"--gpu-architecture={architecture}", "--std=c++17", "--fmad=false", "-default-device",
            f"-I{_SOURCES}", f"-I{_SOURCES}/include", f"-I{self._include}",
        ]  # fmt: skip
        encoded = [option.encode() for option in options]
        for instance in _INSTANCES[source.name]:
            self._check(library.nvrtcAddNameExpression(program, instance.encode()))
        failed = library.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        size = ctypes.c_size_t()
        self._check(library.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        self._check(library.nvrtcGetProgramLog(program, log))
        code = ctypes.c_size_t(0)
        if not failed:
            self._check(library.nvrtcGetCUBINSize(program, ctypes.byref(code)))
        library.nvrtcDestroyProgram(ctypes.byref(program))
        return code.value, log.value.decode().strip()

    @staticmethod
    def _check(status: int) -> None:
        if status != 0:
            raise RuntimeError(f"an NVRTC call failed with status {status}")


# Templates are compiled only where something asks for them.
_KERNELS = "retinasdk::cuda::"
_NMS_KERNELS = ("order_best", "mark_overlaps", "keep_best", "drop_suppressed", "keep_rest")
_INSTANCES = {
    "decode_cuda.cu": [
        f"{_KERNELS}{kernel}<{scalar}>"
        for kernel in ("best_of_anchors", "filter_values", "shortlist")
        for scalar in ("float", "__half")
    ]
    + [
        f"{_KERNELS}select_best<{scalar}, {_KERNELS}{boxes}>"
        for boxes in ("UprightBoxes", "RotatedBoxes")
        for scalar in ("float", "__half")
    ],
    "nms_cuda.cu": [f"{_KERNELS}{kernel}<{_KERNELS}UprightRule>" for kernel in _NMS_KERNELS],
    "rotated_nms_cuda.cu": [f"{_KERNELS}{kernel}<{_KERNELS}RotatedRule>" for kernel in _NMS_KERNELS],
    "soft_nms_cuda.cu": [f"{_KERNELS}soft_nms_kernel"],
    "fusion_cuda.cu": [f"{_KERNELS}fusion_kernel"],
    "preprocess_cuda.cu": [f"{_KERNELS}fill_taps", f"{_KERNELS}fill_whole_taps"]
    + [
        f"{_KERNELS}{kernel}<{_KERNELS}{source}, {scalar}>"
        for kernel in ("resize", "resize_eight_bit")
        for source in ("Interleaved", "Nv12", "P010")
        for scalar in ("float", "__half")
    ],
}


def main() -> None:
    """Compiles everything; exit status 1 where something fails or warns."""
    nvrtc, failed = Nvrtc(unpacked(Path(sys.argv[1]))), False
    for name in _INSTANCES:
        for architecture in _ARCHITECTURES:
            size, log = nvrtc.compile(_SOURCES / "cuda" / name, architecture)
            failed = failed or size == 0 or "warning" in log
            print(f"NVRTC 11.8 {architecture} {name}: {f'{size} bytes' if size else 'FAILED'}{log and chr(10) + log}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
