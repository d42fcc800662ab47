"""`DeviceFrame`: a frame of a camera or video decoder in GPU memory, as NV12 or P010."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from retinasdk.cuda.arrays import LEGACY_STREAM, GpuArray, is_dlpack, is_gpu_array, read_array
from retinasdk.cuda.download import download

if TYPE_CHECKING:
    import numpy.typing as npt

PixelFormat: TypeAlias = Literal["rgb", "nv12", "p010"]
PlaneFormat: TypeAlias = Literal["nv12", "p010"]
ColorMatrix: TypeAlias = Literal["bt601", "bt709", "bt2020"]

_SAMPLE_TYPES = {"nv12": np.uint8, "p010": np.uint16}
_FORMATS = {"uint8": "nv12", "uint16": "p010"}
_MAX_SIDE = 1 << 16


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceFrame:
    """A frame of a camera or video decoder in GPU memory: a plane of luma and one of chroma pairs.

    Pass it to a `Detector` on the GPU like any other image. It is not copied and not converted: the preprocessing
    kernel reads both planes. The memory must stay valid and unchanged until the call returns.

    The chroma plane has (height / 2, width / 2) pairs of samples, Cb before Cr. Each pair applies to 2 x 2 pixels;
    colors between them are not interpolated.

    Example:
        ```python
        luma, chroma = surface[:1080], surface[1080:]  # a CuPy array or PyTorch tensor (1620, 1920), uint8
        frame = retinasdk.DeviceFrame.from_arrays(luma, chroma, matrix="bt709")
        found = detector(frame)
        ```

        The same by addresses, for rows that are 2048 bytes apart:

        ```python
        frame = retinasdk.DeviceFrame(
            luma=address, chroma=address + 2048 * 1080, height=1080, width=1920, row_bytes=2048, matrix="bt709"
        )
        ```

    Attributes:
        luma: Address of the luma plane in GPU memory.
        chroma: Address of the chroma plane in GPU memory.
        height: Height in pixels, even, 2 to 65536.
        width: Width in pixels, even, 2 to 65536.
        row_bytes: Distance between the starts of two rows of luma, in bytes.
        chroma_row_bytes: Distance between the starts of two rows of chroma, in bytes. 0, the default, means that it is
            `row_bytes`.
        format: "nv12" (default): samples of 8 bits. "p010": samples of 16 bits with 10 bits in the upper ones; the
            lower 6 are ignored. Addresses and distances of "p010" are even.
        matrix: How colors are coded: "bt601" (ITU-R BT.601: standard definition, most USB cameras), "bt709" (BT.709:
            high definition) or "bt2020" (BT.2020 with non-constant luminance). There is no default: a wrong matrix
            changes the colors.
        full_range: Whether samples use all values, as JPEG does. False, the default: video range, in which black is 16
            and white is 235 of 8 bits.
        stream: Handle of the CUDA stream on which the pixels are written. Detection waits for what is on it. 1 is the
            default stream. None, the default: the pixels are complete.
        owner: An object that keeps the memory alive. It is kept as long as the frame.

    Raises:
        ValueError: If a size, distance, address or name is not one of these.
    """

    luma: int
    chroma: int
    height: int
    width: int
    row_bytes: int
    matrix: ColorMatrix
    chroma_row_bytes: int = 0
    format: PlaneFormat = "nv12"
    full_range: bool = False
    stream: int | None = None
    owner: Any = None

    def __post_init__(self) -> None:
        if self.format not in _SAMPLE_TYPES:
            raise ValueError(f"format must be one of {', '.join(_SAMPLE_TYPES)}; got {self.format!r}")
        if self.matrix not in get_args(ColorMatrix):
            raise ValueError(f"matrix must be one of {', '.join(get_args(ColorMatrix))}; got {self.matrix!r}")
        if not all(2 <= side <= _MAX_SIDE and side % 2 == 0 for side in (self.height, self.width)):
            raise ValueError(
                f"height and width of a DeviceFrame must be even, from 2 to {_MAX_SIDE}; got {self.height} x "
                f"{self.width}. If the picture has an odd side, leave out its last row or column."
            )
        object.__setattr__(self, "chroma_row_bytes", self.chroma_row_bytes or self.row_bytes)
        places = {name: getattr(self, name) for name in ("luma", "chroma", "row_bytes", "chroma_row_bytes")}
        for name, value in places.items():
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f"{name} must be an integer above 0, got {value!r}")
            if name.endswith("row_bytes") and value < self._row_size:
                raise ValueError(
                    f"{name} must be at least {self._row_size}, the bytes of {self.width} {self.format} samples; "
                    f"got {value}"
                )
            if self.format == "p010" and value % 2 != 0:
                raise ValueError(f"{name} must be even for p010, whose samples have two bytes; got {value}")

    @classmethod
    def from_arrays(
        cls, luma: Any, chroma: Any, *, matrix: ColorMatrix, full_range: bool = False, owner: Any = None
    ) -> DeviceFrame:
        """Returns the frame of two arrays in GPU memory, such as CuPy arrays or PyTorch tensors. Nothing is copied.

        The arrays' pending work, on the stream that they name, is waited for.

        Args:
            luma: (H, W) or (H, W, 1), uint8 for NV12 or uint16 for P010, with DLPack or `__cuda_array_interface__`.
                Rows may be any distance apart.
            chroma: (H / 2, W / 2, 2) or (H / 2, W), of the same type.
            matrix: "bt601", "bt709" or "bt2020". See the class.
            full_range: Whether samples use all values. Default: video range.
            owner: A further object to keep as long as the frame.

        Raises:
            TypeError: If one of them is not an array in GPU memory.
            ValueError: If shapes or types do not fit, or rows have gaps inside.
        """
        planes = [_plane(name, array) for name, array in (("luma", luma), ("chroma", chroma))]
        heights, widths = zip(*(_size(plane) for plane in planes), strict=True)
        types = [plane.dtype for plane in planes]
        if types[0] not in _FORMATS or types[0] != types[1]:
            raise ValueError(
                f"luma and chroma must both be uint8 (NV12) or both uint16 (P010); got {' and '.join(types)}"
            )
        for name, plane in zip(("luma", "chroma"), planes, strict=True):
            _check_rows(name, plane)
        if heights[1] * 2 != heights[0] or widths[1] != widths[0]:
            raise ValueError(
                "luma must be (H, W) and chroma (H / 2, W / 2, 2) or (H / 2, W), with even H and W; got "
                f"{planes[0].shape} and {planes[1].shape}"
            )
        streams = {plane.stream for plane in planes} - {None}
        if len(streams) > 1:
            raise ValueError(
                f"luma and chroma are written on different CUDA streams, {sorted(map(str, streams))}; write both on one"
            )
        return cls(
            luma=planes[0].address,
            chroma=planes[1].address,
            height=heights[0],
            width=widths[0],
            row_bytes=_row_bytes(planes[0]),
            chroma_row_bytes=_row_bytes(planes[1]),
            format=_FORMATS[types[0]],  # type: ignore[arg-type]
            matrix=matrix,
            full_range=full_range,
            stream=next(iter(streams), None),
            owner=(*(plane.owner for plane in planes), owner),
        )

    @classmethod
    def from_decoded(cls, frame: Any, *, matrix: ColorMatrix, full_range: bool = False) -> DeviceFrame:
        """Returns a frame of NVIDIA's decoder package pynvvideocodec. Nothing is copied.

        A detector takes such frames directly, too. It then assumes video range and, by the number of lines, BT.601 (up
        to 576) or BT.709.

        Args:
            frame: A `DecodedFrame` in NV12 or P016, of a decoder that was made with `usedevicememory=True`. Its memory
                belongs to the decoder, which may overwrite it in its next call.
            matrix: "bt601", "bt709" or "bt2020". See the class.
            full_range: Whether samples use all values. Default: video range.

        Raises:
            ValueError: If the frame has another format, an odd side, or is not in memory of the GPU that is used.
        """
        from retinasdk.cuda.decoded_frame import from_decoded

        return from_decoded(frame, matrix=matrix, full_range=full_range)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3), as that of an RGB array."""
        return self.height, self.width, 3

    def to_rgb(self) -> npt.NDArray[np.uint8]:
        """Copies the frame to the CPU and converts it there, for drawing or saving.

        Returns:
            (H, W, 3) uint8, RGB: exactly the pixels that a detector on the GPU sees.

        Raises:
            DeviceError: If there is no usable GPU, or the copy fails.
        """
        from retinasdk import _native  # Here, so that streams can be imported without it.

        sample = np.dtype(_SAMPLE_TYPES[self.format])
        half = self.height // 2
        places = ((self.luma, self.row_bytes, self.height), (self.chroma, self.chroma_row_bytes, half))
        planes = download([(address, row * (rows - 1) + self._row_size) for address, row, rows in places], self)
        # The last row ends with its last sample.
        luma, chroma = (
            np.lib.stride_tricks.as_strided(plane.view(sample), (rows, self.width), (row, sample.itemsize))
            for plane, (_, row, rows) in zip(planes, places, strict=True)
        )
        pairs = chroma.reshape(half, self.width // 2, 2)
        return _native.yuv_to_rgb(luma, pairs, matrix=self.matrix, full_range=self.full_range)

    def _order_before(self, stream: int, native: Any) -> None:
        """Makes a stream wait until the pixels are complete. For the lanes of this package.

        Args:
            stream: Handle of the stream that will read the pixels.
            native: The module `_native_cuda`.
        """
        if self.stream is not None:
            native.wait_for_stream(stream, self.stream)

    @property
    def _row_size(self) -> int:
        return self.width * np.dtype(_SAMPLE_TYPES[self.format]).itemsize


def _plane(name: str, array: Any) -> GpuArray:
    if not is_gpu_array(array):
        raise TypeError(
            f"{name} must be an array in GPU memory with DLPack or __cuda_array_interface__, such as a CuPy array or a "
            f"PyTorch tensor on the GPU; got {type(array).__name__}"
        )
    plane = read_array(array, LEGACY_STREAM)
    # With DLPack, the default stream waits for the array, so the frame's reader has to wait for the default stream.
    return replace(plane, stream=LEGACY_STREAM) if is_dlpack(array) else plane


def _check_rows(name: str, plane: GpuArray) -> None:
    inner = [(side, step) for side, step in zip(plane.shape[1:], plane.strides[1:], strict=True) if side > 1]
    packed = np.dtype(plane.dtype).itemsize
    for side, step in reversed(inner):
        if step != packed:
            raise ValueError(f"the rows of {name} must have no gaps inside, but its strides are {plane.strides} bytes")
        packed *= side


def _row_bytes(plane: GpuArray) -> int:
    """The distance between two rows. The stride of a single row has no meaning."""
    if plane.shape[0] > 1:
        return plane.strides[0]
    return _size(plane)[1] * np.dtype(plane.dtype).itemsize


def _size(plane: GpuArray) -> tuple[int, int]:
    """(rows, samples of a row)."""
    rows, *others = plane.shape
    return rows, int(np.prod(others)) if others else 0
