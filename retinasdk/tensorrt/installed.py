"""Finds the installed TensorRTs, and chooses the one that runs on the GPU of this machine.

TensorRT and TensorRT for RTX may both be installed, and do not support the same GPUs. The choice is made without
importing them: each takes seconds to import, and some fail.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from retinasdk.cuda.device import GpuIdentity, gpu_identity, is_installed, usable_kernels, why_no_cuda
from retinasdk.errors import DeviceError, MissingDependencyError
from retinasdk.tensorrt.supported_chips import how_to_install, runs_on
from retinasdk.tensorrt.versions import product

# The names under which TensorRT can be imported. The third is what the second is made of.
_MODULES = {
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "tensorrt_rtx_bindings": "tensorrt_rtx",
}
_LIBRARIES = {"tensorrt_rtx_bindings": "tensorrt_rtx_libs"}  # must be imported first

# The packages that may bring a product. If none of them is found, its version is unknown until it is imported.
_PACKAGES = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
    "tensorrt_rtx": (
        "tensorrt-rtx",
        "tensorrt-rtx-cu13",
        "tensorrt-rtx-cu12",
        "tensorrt-rtx-cu13-bindings",
        "tensorrt-rtx-cu12-bindings",
    ),
}

PRODUCT_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}


@dataclass(frozen=True)
class InstalledTensorRt:
    """Names a TensorRT that is installed, though perhaps broken.

    Attributes:
        module: The name to import.
        product: "tensorrt", or "tensorrt_rtx" for TensorRT for RTX.
        version: Its version, for example "10.3.0". None: unknown until it is imported.
    """

    module: str
    product: str
    version: str | None

    def __str__(self) -> str:
        """Returns the name for messages, such as "TensorRT for RTX 1.7.1"."""
        return f"{PRODUCT_NAMES[self.product]} {self.version or ''}".rstrip()

    def runs_on(self, gpu: GpuIdentity) -> bool | None:
        """Returns whether it runs on a GPU. None: unknown."""
        return runs_on(self.product, self.version, gpu.compute_capability)


@dataclass(frozen=True)
class Choice:
    """Holds which TensorRT the GPU of this machine is used with, and why.

    Attributes:
        tensorrt: The one to use. None: the GPU cannot be used.
        why: The reason in words, for logs and reports.
        refused: Those that are installed but do not run on the GPU.
    """

    tensorrt: InstalledTensorRt | None
    why: str
    refused: tuple[InstalledTensorRt, ...] = ()


def installed_tensorrts() -> list[InstalledTensorRt]:
    """Returns the installed TensorRTs in the order in which they are preferred. Imports none of them."""
    return [_describe(module) for module in _MODULES if is_installed(module)]


def _describe(module: str) -> InstalledTensorRt:
    loaded = sys.modules.get(module)
    if loaded is not None and isinstance(getattr(loaded, "__version__", None), str):
        return _described(loaded, module)
    return InstalledTensorRt(module, _MODULES[module], _package_version(_PACKAGES[_MODULES[module]]))


def _described(trt: Any, module: str) -> InstalledTensorRt:
    return InstalledTensorRt(module, product(trt), trt.__version__)


def _package_version(packages: Sequence[str]) -> str | None:
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def choose_for_gpu() -> Choice:
    """Chooses the TensorRT for the GPU of this machine, without importing any.

    The first one that is known to run on the GPU is chosen, else the first of which that is unknown.
    """
    missing = why_no_cuda()
    if missing is not None:
        return Choice(None, missing)
    try:
        gpu = gpu_identity(usable_kernels())
    except DeviceError as error:
        return Choice(None, f"no usable GPU ({error})")
    found = installed_tensorrts()
    if not found:
        return Choice(None, "TensorRT is not installed")
    usable, refused = _sorted_for(gpu, found)
    if not usable:
        return Choice(None, f"{_refusal(gpu, refused)}. To use it, {_cure(gpu)}", tuple(refused))
    chosen = usable[0]
    why = f"{gpu.name} with {chosen}"
    if chosen.runs_on(gpu) is None:
        why += f", of which it is unknown whether it supports {_capability(gpu)}"
    return Choice(chosen, f"{why}; {_refusal(gpu, refused)}" if refused else why, tuple(refused))


def why_no_gpu() -> str | None:
    """Returns in a few words what is missing to run on the GPU, or None if nothing is.

    Looks for everything that can be found without loading TensorRT.
    """
    choice = choose_for_gpu()
    return choice.why if choice.tensorrt is None else None


def gpu_here() -> GpuIdentity | None:
    """Returns the GPU of this machine, or None if there is no usable one."""
    try:
        return gpu_identity(usable_kernels())
    except DeviceError:
        return None


def import_tensorrt(
    purpose: str,
    *,
    gpu: GpuIdentity | None = None,
    only: str | None = None,
    otherwise: str = "use device='cpu'",
) -> Any:
    """Imports TensorRT or TensorRT for RTX, whichever is installed and runs on the GPU.

    Args:
        purpose: What it is needed for, as the beginning of the error message.
        gpu: The GPU that it must run on. None: any.
        only: The only product that will do: "tensorrt" or "tensorrt_rtx". None: either.
        otherwise: What to do without a TensorRT that runs on the GPU, for the error message.

    Returns:
        The module.

    Raises:
        MissingDependencyError: If none can be imported. The message says how to install it.
        DeviceError: If those that are installed do not run on the GPU. The message says which one does.
    """
    found = [item for item in installed_tensorrts() if only in (None, item.product)]
    usable, refused = _sorted_for(gpu, found)
    failures: list[ImportError] = []
    for item in usable:
        try:
            if item.module in _LIBRARIES:
                importlib.import_module(_LIBRARIES[item.module])
            trt = importlib.import_module(item.module)
        except ImportError as error:
            failures.append(error)
            continue
        imported = replace(item, product=product(trt), version=trt.__version__)
        if gpu is None or imported.runs_on(gpu) is not False:  # Before, the version may have been unknown.
            return trt
        refused.append(imported)
    if gpu is not None and refused and not failures:
        raise DeviceError(f"{purpose}: {_refusal(gpu, refused)}. {_sentence(_cure(gpu))}, or {otherwise}.")
    # The error of a package that is installed but broken says more than "no such module".
    failures.append(ModuleNotFoundError(f"No module named {only or 'tensorrt'!r}", name=only or "tensorrt"))
    cause = next((error for error in failures if not isinstance(error, ModuleNotFoundError)), failures[0])
    others = f"; {_refusal(gpu, refused)}" if gpu is not None and refused else ""
    raise MissingDependencyError(
        f"{purpose} needs TensorRT, which cannot be imported ({cause}{others}). On a Jetson, TensorRT is part of "
        "JetPack: install it with: sudo apt install python3-libnvinfer, and create the virtual environment with "
        "--system-site-packages. On a desktop, install it with: pip install 'retinasdk[gpu]'. To run without "
        "TensorRT, use device='cpu'."
    ) from cause


def _sorted_for(
    gpu: GpuIdentity | None, found: Sequence[InstalledTensorRt]
) -> tuple[list[InstalledTensorRt], list[InstalledTensorRt]]:
    """Those that may run on the GPU, the known ones first, and those that do not."""
    if gpu is None:
        return list(found), []
    answers = [(item, item.runs_on(gpu)) for item in found]
    usable = [item for wanted in (True, None) for item, answer in answers if answer is wanted]
    return usable, [item for item, answer in answers if answer is False]


def _refusal(gpu: GpuIdentity, refused: Sequence[InstalledTensorRt]) -> str:
    """Such as "TensorRT for RTX 1.7.1 does not support compute capability 9.0 (NVIDIA H200)"."""
    names = list(dict.fromkeys(map(str, refused)))
    verb = "does" if len(names) == 1 else "do"
    return f"{' and '.join(names)} {verb} not support {_capability(gpu)} ({gpu.name})"


def _capability(gpu: GpuIdentity) -> str:
    return f"compute capability {gpu.compute_capability[0]}.{gpu.compute_capability[1]}"


def _cure(gpu: GpuIdentity) -> str:
    return how_to_install(gpu.compute_capability, gpu.cuda)


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]
