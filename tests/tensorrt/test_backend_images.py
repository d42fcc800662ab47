"""Tests images in GPU memory: they are read in place, after pending writes, and released."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeGpu
from pictures import Image, blocks

from retinasdk import Detector


class CudaArray:
    """An array like those of CuPy, Numba and pycuda, whose values are still being computed on a stream."""

    def __init__(self, gpu: FakeGpu, image: Any, *, stream: int | None = 2, version: int = 3) -> None:
        self._block = gpu.allocate("image", max(image.nbytes, 1))
        self._memory = self._block.content[: image.nbytes].view(image.dtype).reshape(image.shape)
        self.shape = image.shape
        interface = {**self._memory.__array_interface__, "version": version, "strides": None}
        if version >= 3:
            interface["stream"] = stream
        self.__cuda_array_interface__ = interface
        self._gpu = gpu
        memory = self._memory
        gpu.enqueue(stream or 1, "producer", lambda: np.copyto(memory, image))

    def free(self) -> None:
        self._gpu.free("image", self._block)


class DlpackArray:
    """An array like those of PyTorch, CuPy and JAX: it makes the consumer's stream wait and returns a capsule."""

    def __init__(self, gpu: FakeGpu, image: Any, *, device: tuple[int, int] = (2, 0), stream: int = 1) -> None:
        self._gpu, self._device, self._stream = gpu, device, stream
        self.values = np.zeros_like(image)
        self.shape = image.shape
        gpu.enqueue(stream, "producer", lambda: np.copyto(self.values, image))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: int) -> Any:
        self._gpu.wait_for_stream(stream, self._stream)
        capsule = self.values.__dlpack__()
        # NumPy's, which says that the array lies on the CPU; behind the pointer to the data stands where it lies.
        (ctypes.c_int32 * 2).from_address(_capsule_pointer(capsule, b"dltensor") + 8)[:] = self._device
        return capsule


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


# -- read where they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "stream"), [(3, 1), (3, 2), (2, None)])
def test_cuda_arrays(gpu: FakeGpu, engine: Path, detector: Detector, version: int, stream: int | None) -> None:
    """The frame waits for the array's stream, or for the default one if it names none. Nothing is copied."""
    with Detector(engine, device="cuda") as on_gpu:
        for seed in range(3):
            image = CudaArray(gpu, blocks(seed=seed), version=version, stream=stream)
            assert on_gpu(image) == detector(blocks(seed=seed))
            image.free()
        assert gpu.launches["wait"] == 3
        assert gpu.launches["upload"] == 2  # thresholds of a plain and of a recorded frame


@pytest.mark.parametrize(("count", "graphs"), [(1, 1), (4, 5), (15, 16), (20, 1)])
def test_surfaces_in_turn(gpu: FakeGpu, engine: Path, detector: Detector, count: int, graphs: int) -> None:
    """A decoder's surfaces come back in turn. Each has a graph of its own, unless there are more than are kept.

    Of several, the second made a graph of what does not depend on its address.
    """
    images = [blocks(seed=seed) for seed in range(count)]
    wanted = [detector(image) for image in images]
    with Detector(engine, device="cuda") as on_gpu:
        surfaces = [CudaArray(gpu, image) for image in images]
        for _ in range(3):
            gpu.launches.clear()
            assert [on_gpu(surface) for surface in surfaces] == wanted
        assert gpu.live["graph"] == graphs
        apart = {"preprocess": count} if count > graphs else {}
        assert gpu.launches == {"wait": count, "graph": count} | apart
        for surface in surfaces:
            surface.free()


def test_what_lies_at_an_address_may_change_its_layout(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    image = blocks()
    with Detector(engine, device="cuda") as on_gpu:
        whole = DlpackArray(gpu, image)
        gpu.synchronize(1)
        for part in (whole.values, whole.values[:, :100], whole.values[::2]) * 3:
            whole.values, whole.shape = part, part.shape
            assert on_gpu(whole) == detector(part)


def test_two_lanes_wait_for_one_producer(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    """The work of a decoder's stream is waited for by each lane, also while the other lane waits for it."""
    images = [blocks(seed=seed) for seed in range(6)]
    wanted = [detector(image) for image in images]
    with Detector(engine, device="cuda") as on_gpu, ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            surfaces = [CudaArray(gpu, image, stream=1) for image in images]
            assert list(pool.map(on_gpu, surfaces)) == wanted
            for surface in surfaces:
                surface.free()


def test_the_stand_in_waits_for_work_that_another_thread_runs(gpu: FakeGpu) -> None:
    producer, consumers = 1, [gpu.new_stream() for _ in range(2)]
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def produce() -> None:
        begun.set()
        assert go_on.wait(30)
        seen.append("produced")

    gpu.enqueue(producer, "producer", produce)
    for consumer in consumers:
        gpu.wait_for_stream(consumer, producer)
        gpu.enqueue(consumer, "consumer", lambda: seen.append("consumed"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(gpu.synchronize, consumers[0])
        assert begun.wait(30)
        second = pool.submit(gpu.synchronize, consumers[1])
        assert wait([second], timeout=0.2).not_done  # It cannot go on yet.
        go_on.set()
        first.result(30)
        second.result(30)
    assert seen == ["produced", "consumed", "consumed"]
    for consumer in consumers:
        gpu.destroy_stream(consumer)


def test_a_cuda_array_that_is_ready(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        image = CudaArray(gpu, blocks(), stream=None)
        gpu.synchronize(1)
        assert on_gpu(image) == detector(blocks())
        assert gpu.launches["wait"] == 0
        image.free()


@pytest.mark.parametrize("kind", [2, 13], ids=["device", "managed"])
def test_dlpack(gpu: FakeGpu, engine: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    """The image is held until the frame is done, and released then."""
    with Detector(engine, device="cuda") as on_gpu:
        image = DlpackArray(gpu, blocks(), device=(kind, 0))
        before, synchronize, meanwhile = sys.getrefcount(image.values), gpu.synchronize, []

        def watch(handle: int) -> None:
            meanwhile.append(sys.getrefcount(image.values))
            synchronize(handle)

        monkeypatch.setattr(gpu, "synchronize", watch)
        assert on_gpu(image) == detector(blocks())
        afterwards = sys.getrefcount(image.values)  # apart: inside an assert pytest holds the array too
        assert meanwhile[0] > before == afterwards
        assert gpu.launches["upload"] == 1


def test_dlpack_goes_before_the_older_protocol(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    """PyTorch's tensors have both protocols, but only DLPack takes their stream into account."""
    with Detector(engine, device="cuda") as on_gpu:
        image = DlpackArray(gpu, blocks())
        image.__cuda_array_interface__ = None  # type: ignore[attr-defined]
        assert on_gpu(image) == detector(blocks())


@pytest.mark.parametrize("make", [CudaArray, DlpackArray])
@pytest.mark.parametrize(
    "cut",
    [
        lambda image: image[7:80, 20:100],
        lambda image: image[::-1],
        lambda image: image[::3],
        lambda image: image[5:6],
        lambda image: image[:, 5:6],
        lambda image: image[:1, :1],
    ],
    ids=["crop", "flipped", "every third row", "one row", "one column", "one pixel"],
)
def test_rows_may_lie_anywhere(
    gpu: FakeGpu, engine: Path, detector: Detector, make: Any, cut: Callable[[Image], Image]
) -> None:
    image = blocks()
    with Detector(engine, device="cuda") as on_gpu:
        whole = make(gpu, image)
        if make is CudaArray:
            part = cut(whole._memory)
            whole.__cuda_array_interface__ |= {
                "data": (part.ctypes.data, False),
                "shape": part.shape,
                "strides": part.strides,
            }
            whole.shape = part.shape
        else:
            gpu.synchronize(1)
            whole.values = cut(whole.values)
            whole.shape = whole.values.shape
        assert on_gpu(whole) == detector(cut(image))
        if make is CudaArray:
            whole.free()


def test_lists_of_both(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    images = [blocks(seed=seed) for seed in range(4)]
    with Detector(engine, device="cuda") as on_gpu:
        on_device = CudaArray(gpu, images[1])
        assert on_gpu([images[0], on_device, DlpackArray(gpu, images[2]), images[3]]) == detector(images)
        assert on_gpu([on_device, on_device]) == detector([images[1]] * 2)
        on_device.free()


def test_arrays_on_the_host_that_speak_dlpack(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    """An array on the CPU with DLPack, like a PyTorch tensor there, is not taken for one on the GPU."""

    class OnHost:
        def __dlpack__(self, **options: Any) -> Any:
            raise AssertionError("not to be asked")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

        def __array__(self, *arguments: Any, **options: Any) -> Image:
            return blocks()

    with Detector(engine, device="cuda") as on_gpu:
        assert on_gpu(OnHost()) == detector(blocks())  # type: ignore[call-overload]


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [CudaArray, DlpackArray])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"with channels last, but its shape is \(3, 20, 30\)"),
        (np.zeros((20, 30, 4), np.uint8), r"its shape is \(20, 30, 4\)"),
        (np.zeros((20, 30), np.uint8), r"its shape is \(20, 30\)"),
        (np.zeros((0, 30, 3), np.uint8), r"its shape is \(0, 30, 3\)"),
        (np.zeros((20, 30, 3), np.float32), "Convert it to uint8"),
        (np.zeros((20, 30, 3), np.int8), "Convert it to uint8"),
    ],
)
def test_wrong_arrays(gpu: FakeGpu, engine: Path, detector: Detector, make: Any, image: Any, message: str) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        given = make(gpu, image)
        gpu.synchronize(2)
        gpu.synchronize(1)
        with pytest.raises(ValueError, match=rf"image on the GPU must be a \(height, width, 3\) uint8 .*{message}"):
            on_gpu(given)
        assert on_gpu(blocks()) == detector(blocks())
        if make is CudaArray:
            given.free()


def test_strides_that_no_kernel_reads(gpu: FakeGpu, engine: Path) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        image = DlpackArray(gpu, blocks())
        gpu.synchronize(1)
        image.values = image.values[:, ::-1]
        with pytest.raises(ValueError, match=r"channels last, but its strides are .*\. Make it contiguous"):
            on_gpu(image)


def test_another_gpu(gpu: FakeGpu, engine: Path) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        image = DlpackArray(gpu, blocks(), device=(2, 1))
        gpu.synchronize(1)
        with pytest.raises(ValueError, match=r"image is on GPU 1, but must be on GPU 0\. Move it there"):
            on_gpu(image)
