"""The device under test: a GPU, or stand-ins for one (support/fakes); and memory, arrays and engines on it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from cuda_ops import POISON
from fakes import FakeGpu
from fakes.tensorrt import save_engine

import retinasdk
from retinasdk import ModelSpec
from retinasdk.cuda.device import CudaDevice, CudaStream
from retinasdk.pipeline.preprocess import Transform
from retinasdk.tensorrt.float16 import to_float16
from retinasdk.tensorrt.int8 import quantize

# For compute-sanitizer's initcheck, which sees no reading of memory that nobody wrote if a pattern is written first.
_RAW_SCRATCH = os.environ.get("RETINASDK_RAW_SCRATCH") == "1"

Array = npt.NDArray[Any]
Sizes = Sequence[tuple[int, int]]

# (height, width) of images whose network inputs by the tiny model's spec lie close together.
IMAGE_SIZES = ((90, 120), (120, 90), (61, 47), (90, 160), (100, 100))


class Gpu:
    """An opened `CudaDevice`, whose context is current in the thread of the test.

    fake: what stands in for the chip; None: nothing does.
    """

    def __init__(self, device: CudaDevice, fake: FakeGpu | None) -> None:
        self.device = device
        self.native: Any = device.native
        self.driver: Any = device.driver
        self.fake = fake

    @property
    def is_real(self) -> bool:
        return self.fake is None

    def memory_in_use(self) -> int:
        """Bytes of device memory that are taken, by whomever."""
        if self.fake is not None:
            return sum(block.size for block in self.fake._blocks.values())
        free, total = self.driver.mem_get_info()
        return int(total - free)

    def host_memory_in_use(self) -> int:
        """Resident bytes of this process, but for what the stand-in keeps to see who writes to it; 0: not known."""
        statm = Path("/proc/self/statm")
        if not statm.exists():
            return 0
        kept = 0 if self.fake is None else sum(block.whole.size for block in self.fake._freed)
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") - kept

    def build_engine(
        self,
        path: Path,
        engine: Path,
        *,
        batch: tuple[int, int, int],
        sizes: Sizes,
        precision: str = "fp32",
        images: Sequence[Array] | None = None,
    ) -> Path:
        """The engine of an ONNX file with its spec beside it, for images of these (height, width).

        The stand-in's runs the graph in ONNX Runtime, converted to the precision as `retinasdk.build_engine` converts.
        """
        if self.fake is None:
            scales = images if precision == "int8" else None
            retinasdk.build_engine(path, engine, precision=precision, batch=batch, sizes=list(sizes), images=scales)
            return engine
        spec = ModelSpec.load(path.with_suffix(".json"))
        inputs = [Transform.plan(size, spec).padded for size in sizes]
        heights, widths = zip(*inputs, strict=True)
        converted = engine.with_suffix(".onnx")
        converted.write_bytes(converted_graph(path, spec, precision, images).SerializeToString())
        return save_engine(
            engine,
            converted,
            spec,
            smallest=(batch[0], 3, min(heights), min(widths)),
            largest=(batch[2], 3, max(heights), max(widths)),
            dtypes={} if precision == "fp32" else {"heads": "float16"},
        )


def converted_graph(path: Path, spec: ModelSpec, precision: str, images: Sequence[Array] | None) -> Any:
    """The ONNX model with the rounding of that precision in it, for ONNX Runtime.

    "int8" is not float16 besides, as it is on the GPU: that changes its error by a tenth of it at the most. Only its
    heads become float16, in the stand-in's engine.
    """
    model = onnx.load(path)
    if precision == "fp16":
        return to_float16(model)
    if precision == "int8":
        assert images is not None
        return quantize(model, spec, images, half_scales=False)
    return model


class OnStream:
    """`_native_cuda` with what goes to the default stream put on a stream of one's own, as in the product."""

    def __init__(self, native: Any, stream: CudaStream) -> None:
        self._native, self._stream = native, stream

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._native, name)
        if name not in ("preprocess", "decode", "nms", "soft_nms", "fuse"):
            return function

        def launch(**arguments: Any) -> None:
            function(**{**arguments, "stream": self._stream.handle})

        return launch


class DeviceMemory:
    """Device memory for the length of one call: `Memory` of cuda_ops.py, by pycuda.

    skew: arrays begin so many elements behind an aligned address.
    """

    def __init__(self, gpu: Gpu, stream: CudaStream, *, skew: int = 0) -> None:
        self._gpu, self._stream, self._skew = gpu, stream, skew
        self._allocations: list[Any] = []  # freed with this object
        self._uploads: list[Array] = []  # read by copies that may still be under way
        self._results: dict[int, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def put(self, array: Array) -> int:
        array = np.ascontiguousarray(array)
        address = self._allocate(array.nbytes, self._skew * array.itemsize)
        if array.nbytes:
            self._gpu.driver.memcpy_htod_async(address, array, self._stream.driver_stream)
            self._uploads.append(array)
        return address

    def room(self, shape: Sequence[int], dtype: Any) -> int:
        if _RAW_SCRATCH and np.dtype(dtype) == np.uint8:
            return self._allocate(math.prod(shape), 0)
        poisoned = np.empty(shape, dtype)
        poisoned.reshape(-1).view(np.uint8)[:] = POISON
        skew, self._skew = self._skew, 0  # scratch must be aligned
        address = self.put(poisoned)
        self._skew = skew
        self._results[address] = (tuple(shape), np.dtype(dtype))
        return address

    def take(self, address: int) -> Array:
        result = np.empty(*self._results[address])
        if result.nbytes:
            self._gpu.driver.memcpy_dtoh_async(result, address, self._stream.driver_stream)
        self._stream.wait()
        return result

    def _allocate(self, size_bytes: int, skew_bytes: int) -> int:
        allocation = self._gpu.driver.mem_alloc(max(1, size_bytes + skew_bytes))
        self._allocations.append(allocation)
        return int(allocation) + skew_bytes


class DeviceArray:
    """An array in the GPU's memory as CuPy, Numba or pycuda hand it over: version 3 of their protocol.

    stream: on which it is written, and which the protocol names; None: it is there already.
    """

    def __init__(self, gpu: Gpu, array: Array, stream: CudaStream | None = None) -> None:
        self.shape = array.shape
        self._gpu, self._stream = gpu, stream
        self._pinned = gpu.driver.pagelocked_empty(array.nbytes, np.uint8)  # else a copy does not run on its own
        self._allocation = gpu.driver.mem_alloc(array.nbytes)
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (int(self._allocation), False),
            "strides": None,
            "version": 3,
            "stream": None if stream is None else stream.handle,
        }
        self.write(array)

    def write(self, array: Array) -> None:
        """Launches the copy of other values, once the last one is done."""
        self._pinned[:] = array.reshape(-1).view(np.uint8)
        stream = self._stream or CudaStream(self._gpu.device)
        self._gpu.driver.memcpy_htod_async(int(self._allocation), self._pinned, stream.driver_stream)
        if self._stream is None:
            stream.wait()
            stream.close()


@contextmanager
def counted(target: Any, name: str) -> Iterator[list[tuple[Any, ...]]]:
    """Within it, the positional arguments of each call of `target.name` go to the list."""
    calls: list[tuple[Any, ...]] = []
    original: Callable[..., Any] = getattr(target, name)

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **options)

    setattr(target, name, call)
    try:
        yield calls
    finally:
        setattr(target, name, original)
