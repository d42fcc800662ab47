"""One lane of a detector taken apart: the time of each stage of a frame, and of each kernel, on the GPU's own clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retinasdk.cuda.device import CudaDevice
from retinasdk.cuda.device_image import DeviceImage
from retinasdk.cuda.memory import DeviceBuffer
from retinasdk.pipeline.preprocess import Transform
from retinasdk.tensorrt.lane import Lane
from retinasdk.tensorrt.lane_images import PreparedImages
from retinasdk.tensorrt.loaded_engine import Engine

STAGES = ("upload", "preprocess", "network", "decode", "nms", "download")
LAUNCHES = 10  # of a kernel in the graph that is timed

Image = npt.NDArray[np.uint8]


class _Marking:
    """`_native_cuda` that calls `mark` with the name of each kernel before it is launched."""

    def __init__(self, native: Any, mark: Callable[[str], None]) -> None:
        self._native, self._mark = native, mark

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._native, name)

        def launch(**arguments: Any) -> None:
            self._mark(name)
            function(**arguments)

        return launch if name in STAGES else function


def stage_times(lane: Lane, image: Image, transform: Transform, threshold: float, rounds: int) -> dict[str, float]:
    """Medians in ms of each stage of frames launched plainly."""
    native, driver, stream = lane._native, lane._device.driver, lane._stream
    marks: list[tuple[str, Any]] = []

    def mark(name: str) -> None:
        marks.append((name, driver.Event().record(stream.driver_stream)))

    found: dict[str, list[float]] = {name: [] for name in STAGES}
    lane._native = lane._images._native = _Marking(native, mark)
    try:
        for _ in range(rounds):
            marks.clear()
            lane._set_parameters([transform], threshold, ())
            mark("upload")
            prepared = prepare(lane, image, transform)
            lane._images.launch(prepared)
            mark("upload")  # of thresholds and sizes
            lane._parameters.upload(0, lane._plan.parameter_bytes, stream)
            mark("network")
            lane._launch_network()
            lane._native.decode(**lane._decode_arguments, stream=stream.handle)
            lane._suppress(**lane._suppress_arguments, stream=stream.handle)
            mark("download")
            lane._results.download(0, lane._plan.result_bytes, stream)
            mark("")
            stream.wait()
            del prepared
            sums = dict.fromkeys(STAGES, 0.0)
            for (name, begin), (_, end) in pairwise(marks):
                sums[name] += end.time_since(begin)
            for name, milliseconds in sums.items():
                found[name].append(milliseconds)
    finally:
        lane._native = lane._images._native = native
    return {name: float(np.median(values)) for name, values in found.items()}


def prepare(lane: Lane, image: Image | DeviceImage, transform: Transform) -> PreparedImages:
    """An image, ready to be preprocessed into the lane's network input."""
    target = lane._plan.input
    return lane._images.prepare([image], [transform], target, lane._address(target))


def graph_time(lane: Lane, launch: Callable[[], object], rounds: int) -> float:
    """Median in ms of one of the launches, `LAUNCHES` of which are recorded: without gaps that the host makes."""
    native, driver, stream = lane._native, lane._device.driver, lane._stream
    launch()
    native.begin_capture(stream.handle)
    for _ in range(LAUNCHES):
        launch()
    graph = native.end_capture(stream.handle)
    times = []
    for _ in range(rounds):
        begin = driver.Event().record(stream.driver_stream)
        native.launch_graph(graph, stream.handle)
        end = driver.Event().record(stream.driver_stream)
        stream.wait()
        times.append(end.time_since(begin) / LAUNCHES)
    native.destroy_graph(graph)
    return float(np.median(times))


class DeviceArray:
    """An image in the GPU's memory, as other libraries hand it over. The device's context must be current."""

    def __init__(self, device: CudaDevice, image: Image) -> None:
        self.shape: tuple[int, int, int] = (image.shape[0], image.shape[1], 3)
        self.buffer = DeviceBuffer(device, "an image")
        self.buffer.reserve(image.nbytes)
        device.driver.memcpy_htod(self.buffer.address, image)
        self.__cuda_array_interface__ = {
            "shape": image.shape,
            "typestr": "|u1",
            "data": (self.buffer.address, False),
            "strides": None,
            "version": 3,
            "stream": None,
        }


def kernel_times(lane: Lane, image: DeviceArray, transform: Transform, rounds: int) -> dict[str, float]:
    """Medians in ms by `graph_time`, on what the last frame left in the lane's memory."""
    native, stream = lane._native, lane._stream.handle
    prepared = prepare(lane, DeviceImage(image, image.shape), transform)

    def decode() -> None:
        native.decode(**lane._decode_arguments, stream=stream)

    def nms() -> None:
        lane._suppress(**lane._suppress_arguments, stream=stream)

    def decode_and_nms() -> None:
        decode()
        nms()

    return {
        "preprocess": graph_time(lane, lambda: lane._images.launch(prepared), rounds),
        "decode": graph_time(lane, decode, rounds),
        "nms": graph_time(lane, nms, rounds),
        "decode + nms": graph_time(lane, decode_and_nms, rounds),
    }


def copy_bandwidth(lane: Lane, size_bytes: int, rounds: int) -> float:
    """GB/s of a copy inside the GPU's memory, read and written bytes together."""
    buffers = [DeviceBuffer(lane._device, "copying") for _ in range(2)]
    try:
        for buffer in buffers:
            buffer.reserve(size_bytes)
        source, target = (buffer.address for buffer in buffers)
        copy, stream = lane._device.driver.memcpy_dtod_async, lane._stream.driver_stream
        milliseconds = graph_time(lane, lambda: copy(target, source, size_bytes, stream), rounds)
    finally:
        for buffer in buffers:
            buffer.free()
    return 2 * size_bytes / milliseconds / 1e6


@contextmanager
def opened_lane(device: CudaDevice, engine: Path) -> Iterator[Lane]:
    """A lane of the engine, with the device's context current."""
    with device.current(), ExitStack() as opened:
        loaded = Engine(device, engine, None)
        opened.callback(loaded.close)
        lane = Lane(loaded, set())
        opened.callback(lane.close)
        yield lane
