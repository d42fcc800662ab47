"""Tests NV12 and P010 frames in GPU memory: DeviceFrame, by addresses and of arrays, and frames of pynvvideocodec."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes import FakeGpu, fake_gpu
from fakes.pynvvideocodec import DecodedFrame, Pixel_Format
from pictures import blocks

from retinasdk import Detector, DeviceError, DeviceFrame, Tiles, _native
from retinasdk.cuda import decoded_frame

Array = npt.NDArray[Any]
SIZE = (96, 128)


def planes_of(rgb: Array, *, spare: int = 0, wide: bool = False) -> tuple[Array, Array]:
    """A BT.709 frame in video range with that many spare samples in each row: (H, W + spare), (H / 2, W + spare)."""
    small = rgb[::2, ::2].astype(np.float64)
    y = small @ [0.2126, 0.7152, 0.0722]
    chroma = np.stack([(small[..., 2] - y) / 1.8556, (small[..., 0] - y) / 1.5748], axis=2) * 224 / 255 + 128
    luma = np.repeat(np.repeat(y * 219 / 255 + 16, 2, axis=0), 2, axis=1)
    rows = [plane.reshape(len(plane), -1) for plane in (luma, chroma)]
    dtype, scale = (np.uint16, 256) if wide else (np.uint8, 1)
    return tuple(np.pad(np.round(row * scale), ((0, 0), (0, spare))).astype(dtype) for row in rows)  # type: ignore[return-value]


class OnGpu:
    """Planes in the memory of the stand-in, which are still being written on a stream."""

    def __init__(self, gpu: FakeGpu, planes: tuple[Array, Array], stream: int = 2) -> None:
        self._gpu = gpu
        self.blocks = [gpu.allocate("plane", plane.nbytes) for plane in planes]
        self.luma, self.chroma = (block.address for block in self.blocks)
        for block, plane in zip(self.blocks, planes, strict=True):
            self._write(stream, block, plane)

    def _write(self, stream: int, block: Any, plane: Array) -> None:
        content = plane.reshape(-1).view(np.uint8)
        self._gpu.enqueue(stream, "producer", lambda: np.copyto(block.content, content))

    def free(self) -> None:
        for block in self.blocks:
            self._gpu.free("plane", block)


class CudaPlane:
    """An array like those of CuPy and Numba."""

    def __init__(self, address: int, like: Array, *, stream: int | None = 2, shape: Any = None) -> None:
        self.__cuda_array_interface__ = {
            "version": 3, "shape": shape or like.shape, "typestr": like.dtype.str, "data": (address, False),
            "stream": stream, "strides": like.strides if shape is None else None,
        }  # fmt: skip


class DlpackPlane:
    """An array like those of PyTorch, on stream 2: it makes the consumer's stream wait."""

    def __init__(self, gpu: FakeGpu, values: Array) -> None:
        self._gpu, self.values = gpu, np.zeros_like(values)
        content = values.copy()
        gpu.enqueue(2, "producer", lambda: np.copyto(self.values, content))

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, *, stream: int) -> Any:
        self._gpu.wait_for_stream(stream, 2)
        capsule = self.values.__dlpack__()
        pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", ctypes.pythonapi)
        )(capsule, b"dltensor")
        (ctypes.c_int32 * 2).from_address(pointer + 8)[:] = (2, 0)
        return capsule


def rgb_of(planes: tuple[Array, Array], matrix: str = "bt709", full_range: bool = False) -> Array:
    height, width = SIZE
    luma, chroma = planes[0][:, :width], planes[1][:, :width].reshape(height // 2, width // 2, 2)
    return _native.yuv_to_rgb(luma, chroma, matrix=matrix, full_range=full_range)


# -- read where they are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True], ids=["NV12", "P010"])
@pytest.mark.parametrize("spare", [0, 6], ids=["tight rows", "spare samples in a row"])
@pytest.mark.parametrize(("matrix", "full_range"), [("bt709", False), ("bt601", True), ("bt2020", False)])
def test_addresses(
    gpu: FakeGpu, engine: Path, detector: Detector, wide: bool, spare: int, matrix: Any, full_range: bool
) -> None:
    """Boxes are those of the frame's RGB pixels. Nothing is copied, and the frame's stream is waited for."""
    with Detector(engine, device="cuda") as on_gpu:
        for seed in range(3):
            planes = planes_of(blocks(*SIZE, seed=seed), spare=spare, wide=wide)
            memory = OnGpu(gpu, planes)
            frame = DeviceFrame(
                luma=memory.luma,
                chroma=memory.chroma,
                height=SIZE[0],
                width=SIZE[1],
                row_bytes=planes[0].strides[0],
                format="p010" if wide else "nv12",
                matrix=matrix,
                full_range=full_range,
                stream=2,
                owner=memory,
            )
            wanted = rgb_of(planes, matrix, full_range)
            found = on_gpu(frame)
            assert found == detector(wanted)
            assert (found.image, found.image_size) == (None, SIZE)
            assert np.array_equal(frame.to_rgb(), wanted)
            assert found.draw(frame).size == SIZE[::-1]
            memory.free()
        assert gpu.launches["upload"] == 2  # thresholds of a plain and of a recorded frame


@pytest.mark.parametrize("wide", [False, True], ids=["NV12", "P010"])
@pytest.mark.parametrize("pairs", [False, True], ids=["rows", "pairs"])
def test_cuda_arrays(gpu: FakeGpu, engine: Path, detector: Detector, wide: bool, pairs: bool) -> None:
    planes = planes_of(blocks(*SIZE), spare=8, wide=wide)
    memory = OnGpu(gpu, planes)
    luma, chroma = (plane[:, : SIZE[1]] for plane in planes)
    if pairs:
        luma, chroma = luma[..., None], chroma.reshape(SIZE[0] // 2, SIZE[1] // 2, 2)
    frame = DeviceFrame.from_arrays(
        CudaPlane(memory.luma, luma), CudaPlane(memory.chroma, chroma), matrix="bt709", owner=memory
    )
    assert (frame.format, frame.row_bytes) == ("p010" if wide else "nv12", planes[0].strides[0])
    with Detector(engine, device="cuda") as on_gpu:
        assert on_gpu([frame, blocks()]) == detector([rgb_of(planes), blocks()])
    memory.free()


def test_dlpack(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    """Halves of one tensor, as decoders for PyTorch give them."""
    planes = planes_of(blocks(*SIZE))
    luma, chroma = (DlpackPlane(gpu, plane) for plane in planes)
    with Detector(engine, device="cuda") as on_gpu:
        frame = DeviceFrame.from_arrays(luma, chroma, matrix="bt709", full_range=True)
        assert on_gpu(frame) == detector(rgb_of(planes, full_range=True))


def test_predict(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    planes = planes_of(blocks(*SIZE))
    memory = OnGpu(gpu, planes)
    frame = DeviceFrame.from_arrays(
        CudaPlane(memory.luma, planes[0]), CudaPlane(memory.chroma, planes[1]), matrix="bt709"
    )
    with Detector(engine, device="cuda") as on_gpu:
        for prediction in on_gpu.predict(iter([frame] * 3)):
            assert prediction.detections == detector(rgb_of(planes))
    memory.free()


def test_the_smallest_frame(gpu: FakeGpu) -> None:
    """The stride of a single row of chroma has no meaning."""
    luma, chroma = np.full((2, 2), 235, np.uint8), np.full((1, 1, 2), 128, np.uint8)
    memory = OnGpu(gpu, (luma, chroma))
    chroma = np.lib.stride_tricks.as_strided(chroma, strides=(0, 2, 1))
    frame = DeviceFrame.from_arrays(CudaPlane(memory.luma, luma), CudaPlane(memory.chroma, chroma), matrix="bt601")
    assert np.array_equal(frame.to_rgb(), np.full((2, 2, 3), 255))
    memory.free()


# -- frames of pynvvideocodec ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True], ids=["NV12", "P016"])
def test_decoded_frames(
    gpu: FakeGpu, engine: Path, detector: Detector, wide: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """They are read in place, after the decoder's work; what their colors are taken for is said once."""
    decoded_frame._tell_assumption.cache_clear()
    planes = planes_of(blocks(*SIZE), wide=wide)
    memory = OnGpu(gpu, (np.concatenate(planes), planes[1]), stream=1)
    frame = DecodedFrame(gpu, memory.luma, SIZE, Pixel_Format.P016 if wide else Pixel_Format.NV12)
    with Detector(engine, device="cuda") as on_gpu, caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = on_gpu(frame)
            assert found == detector(rgb_of(planes, "bt601"))
            assert found.image is None
        assert [record.message for record in caplog.records] == [
            "Frames of pynvvideocodec do not tell their colors: bt601 with video range is assumed from the number of "
            "lines. To set them, pass retinasdk.DeviceFrame.from_decoded(frame, matrix=..., full_range=...)."
        ]
        told = DeviceFrame.from_decoded(frame, matrix="bt2020", full_range=True)
        assert on_gpu(told) == detector(rgb_of(planes, "bt2020", True))
        assert np.array_equal(told.to_rgb(), rgb_of(planes, "bt2020", True))
    memory.free()


def test_lines_decide_on_the_matrix_of_decoded_frames(gpu: FakeGpu) -> None:
    for lines, matrix in ((480, "bt601"), (576, "bt601"), (720, "bt709")):
        assert decoded_frame.as_device_frame(DecodedFrame(gpu, 256, (lines, 16), Pixel_Format.NV12)).matrix == matrix


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"format": Pixel_Format.YUV444}, r"in YUV444, but must be in NV12 or P016\. .*OutputColorType\.RGB"),
        ({"format": Pixel_Format.RGBP}, "in RGBP, but must be in NV12 or P016"),
        ({"device": (1, 0)}, "in host memory. Make the decoder with usedevicememory=True"),
        ({"device": (2, 1)}, r"image is on GPU 1, but must be on GPU 0\. Move it there"),
        ({"size": (95, 128)}, "must be even"),
    ],
)
def test_decoded_frames_that_are_not_supported(gpu: FakeGpu, engine: Path, frame: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"size": SIZE, "format": Pixel_Format.NV12, "device": (2, 0), **frame}
    with Detector(engine, device="cuda") as on_gpu, pytest.raises(ValueError, match=message):
        on_gpu(DecodedFrame(gpu, 256, **options))  # type: ignore[call-overload]


# -- refused -----------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"luma": 256, "chroma": 4096, "height": 4, "width": 6, "row_bytes": 12, "matrix": "bt601"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "yuyv"}, "format must be one of nv12, p010; got 'yuyv'"),
        ({"matrix": "bt470"}, "matrix must be one of bt601, bt709, bt2020; got 'bt470'"),
        ({"height": 5}, "must be even, from 2 to 65536; got 5 x 6. If the picture has an odd side, leave out"),
        ({"width": 0}, "must be even, from 2 to 65536; got 4 x 0"),
        ({"height": 65538}, "from 2 to 65536; got 65538 x 6"),
        ({"luma": 0}, "luma must be an integer above 0, got 0"),
        ({"chroma": "there"}, "chroma must be an integer above 0, got 'there'"),
        ({"row_bytes": 5}, "row_bytes must be at least 6, the bytes of 6 nv12 samples; got 5"),
        ({"row_bytes": -12}, "row_bytes must be an integer above 0, got -12"),
        ({"chroma_row_bytes": 4}, "chroma_row_bytes must be at least 6"),
        ({"format": "p010", "row_bytes": 11}, "row_bytes must be at least 12, the bytes of 6 p010 samples"),
        ({"format": "p010", "row_bytes": 13}, "row_bytes must be even for p010, whose samples have two bytes; got 13"),
        ({"format": "p010", "chroma": 4097}, "chroma must be even for p010"),
    ],
)
def test_wrong_frames(changes: dict[str, Any], message: str) -> None:
    assert DeviceFrame(**GOOD).chroma_row_bytes == 12
    with pytest.raises(ValueError, match=message):
        DeviceFrame(**{**GOOD, **changes})


def test_a_frame_needs_its_matrix() -> None:
    without = {name: value for name, value in GOOD.items() if name != "matrix"}
    with pytest.raises(TypeError, match="matrix"):
        DeviceFrame(**without)
    with pytest.raises(dataclasses.FrozenInstanceError):
        DeviceFrame(**GOOD).luma = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("luma", "chroma", "message"),
    [
        (np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.uint16), r"both be uint8 .* got uint8 and uint16"),
        (np.zeros((4, 6), np.float32), np.zeros((2, 6), np.float32), "both be uint8"),
        (
            np.zeros((4, 6), np.uint8),
            np.zeros((2, 4), np.uint8),
            r"chroma \(H / 2, W / 2, 2\).* got \(4, 6\) and \(2, 4\)",
        ),
        (np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8), r"with even H and W; got \(4, 6\) and \(4, 6\)"),
        (np.zeros(4, np.uint8), np.zeros((2, 6), np.uint8), r"luma must be \(H, W\)"),
        (np.zeros((4, 12), np.uint8)[:, ::2], np.zeros((2, 6), np.uint8), "rows of luma must have no gaps inside"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 3, 4), np.uint8)[:, :, :2], "rows of chroma must have no gaps"),
        (np.zeros((6, 6), np.uint8)[::-1], np.zeros((3, 6), np.uint8), "row_bytes must be an integer above 0"),
    ],
)
def test_arrays_that_are_no_frame(luma: Array, chroma: Array, message: str) -> None:
    planes = (CudaPlane(plane.ctypes.data, plane) for plane in (luma, chroma))
    with pytest.raises(ValueError, match=message):
        DeviceFrame.from_arrays(*planes, matrix="bt709")


def test_planes_on_two_streams() -> None:
    luma, chroma = np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.uint8)
    with pytest.raises(ValueError, match=r"different CUDA streams, \['2', '7'\]; write both on one"):
        DeviceFrame.from_arrays(CudaPlane(256, luma), CudaPlane(4096, chroma, stream=7), matrix="bt709")


def test_arrays_on_the_host() -> None:
    with pytest.raises(TypeError, match=r"luma must be an array in GPU memory .*; got ndarray"):
        DeviceFrame.from_arrays(np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.uint8), matrix="bt709")


def test_the_cpu_refuses_frames(gpu: FakeGpu, detector: Detector) -> None:
    for frame in (DeviceFrame(**GOOD), DecodedFrame(gpu, 256, SIZE, Pixel_Format.NV12)):
        with pytest.raises(TypeError, match=r"in GPU memory, but .* use Detector\(device='cuda'\), or copy"):
            detector(frame)  # type: ignore[call-overload]


def test_a_whole_surface_is_not_an_image(gpu: FakeGpu, engine: Path) -> None:
    with Detector(engine, device="cuda") as on_gpu:
        surface = CudaPlane(256, np.zeros((144, 128), np.uint8))
        surface.shape = (144, 128)  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"an NV12 or P010 frame, pass its planes: retinasdk\.DeviceFrame"):
            on_gpu(surface)  # type: ignore[call-overload]


def test_tiles(gpu: FakeGpu, engine: Path, detector: Detector) -> None:
    """A frame that needs no tiles is detected; one that does is refused."""
    planes = planes_of(blocks(*SIZE))
    memory = OnGpu(gpu, planes)
    frame = DeviceFrame.from_arrays(
        CudaPlane(memory.luma, planes[0]), CudaPlane(memory.chroma, planes[1]), matrix="bt709"
    )
    with Detector(engine, device="cuda") as on_gpu:
        assert on_gpu(frame, tiles="auto") == detector(rgb_of(planes))
        with pytest.raises(ValueError, match=r"cannot be cut into tiles on the GPU; leave tiles out, or copy"):
            on_gpu(frame, tiles=Tiles(64))
    memory.free()


def test_copying_without_a_gpu() -> None:
    with fake_gpu(devices=0, reason="cudaErrorNoDevice"), pytest.raises(DeviceError, match="needs a GPU"):
        DeviceFrame(**GOOD).to_rgb()
