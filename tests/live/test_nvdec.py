"""Tests video that a GPU decodes, over stand-ins: frames, times, surfaces, errors, the command and the library."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from clips import COUNT, SIZE, encode
from fakes import FakeGpu, fake_gpu
from fakes.pynvvideocodec import Pixel_Format, PyNvDecoder, pynvvideocodec_module
from fakes.tensorrt import save_engine

from retinasdk import Detector, DeviceError, DeviceFrame, MissingDependencyError, ModelSpec, _native
from retinasdk.cli.main import main
from retinasdk.live import NvdecVideo, StreamError, Video, stream

av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu() as gpu:
        monkeypatch.setitem(sys.modules, "PyNvVideoCodec", pynvvideocodec_module(gpu))
        yield gpu
        gc.collect()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[DeviceFrame]:
    """The frames that were copied to the CPU."""
    frames: list[DeviceFrame] = []
    to_rgb = DeviceFrame.to_rgb

    def counted(frame: DeviceFrame) -> npt.NDArray[np.uint8]:
        frames.append(frame)
        return to_rgb(frame)

    monkeypatch.setattr(DeviceFrame, "to_rgb", counted)
    return frames


@pytest.fixture(scope="module")
def engine(model_path: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_engine(tmp_path_factory.mktemp("engine") / "tiny.engine", model_path, spec)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 with reordered frames, tagged BT.709."""
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4")


def expected(path: Path, matrix: str, full_range: bool) -> list[npt.NDArray[np.uint8]]:
    """The frames as FFmpeg decodes them, converted with the arithmetic of the kernels."""
    with av.open(str(path)) as container:
        return [_converted(frame, matrix, full_range) for frame in container.decode(video=0)]


def _converted(frame: Any, matrix: str, full_range: bool) -> npt.NDArray[np.uint8]:
    is_wide = frame.format.name == "yuv420p10le"
    frame = frame.reformat(format="p010le" if is_wide else "nv12")
    dtype = np.uint16 if is_wide else np.uint8
    rows = [
        np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize) for plane in frame.planes
    ]
    luma = rows[0][: frame.height, : frame.width]
    pairs = rows[1][: frame.height // 2, : frame.width].reshape(frame.height // 2, frame.width // 2, 2)
    return _native.yuv_to_rgb(luma, pairs, matrix=matrix, full_range=full_range)


def read_all(source: Any) -> list[Any]:
    source.open()
    try:
        return list(iter(source.read, None))
    finally:
        source.close()


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format", "colors", "matrix", "full_range", "format"),
    [
        ("libx264", "mp4", "yuv420p", (1, 1), "bt709", False, "nv12"),
        ("libx264", "mkv", "yuv420p", (6, 1), "bt601", False, "nv12"),
        ("libx264", "ts", "yuv420p", (5, 2), "bt601", True, "nv12"),
        ("libx264", "mp4", "yuv420p", (2, 0), "bt601", False, "nv12"),
        ("libx265", "mp4", "yuv420p10le", (9, 1), "bt2020", False, "p010"),
        ("libvpx-vp9", "webm", "yuv420p", (1, 1), "bt709", False, "nv12"),
    ],
)
def test_frames(
    gpu: FakeGpu,
    tmp_path: Path,
    codec: str,
    suffix: str,
    pixel_format: str,
    colors: tuple[int, int],
    matrix: str,
    full_range: bool,
    format: str,
) -> None:
    """All frames, in order, with the colors that the video tells and the times of the default decoder."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = encode(tmp_path / f"clip.{suffix}", codec=codec, pixel_format=pixel_format, colors=colors)
    frames = read_all(NvdecVideo(path))
    wanted = expected(path, matrix, full_range)
    assert len(frames) == len(wanted) == COUNT
    for raw, image in zip(frames, wanted, strict=True):
        frame = raw.rgb()
        assert isinstance(frame, DeviceFrame)
        assert (frame.format, frame.matrix, frame.full_range, frame.shape) == (format, matrix, full_range, (*SIZE, 3))
        assert np.array_equal(frame.to_rgb(), image)
    on_cpu = read_all(Video(path))
    assert [raw.time_s for raw in frames] == pytest.approx([raw.time_s for raw in on_cpu])
    assert [raw.progress for raw in frames] == pytest.approx([raw.progress for raw in on_cpu], abs=0.05)


def test_colors_are_those_of_the_default_decoder(gpu: FakeGpu, clip: Path) -> None:
    """Chroma is not interpolated, so pixels beside edges differ. Inside the blocks they agree."""
    for ours, theirs in zip(read_all(NvdecVideo(clip)), read_all(Video(clip)), strict=True):
        difference = np.abs(ours.rgb().to_rgb().astype(int) - theirs.rgb())
        assert np.median(difference) <= 2


def test_detections(gpu: FakeGpu, engine: Path, clip: Path, detector: Detector, copied: list[DeviceFrame]) -> None:
    """Frames are detected where they are, with the boxes of their RGB pixels. Pixels are copied when they are read."""
    wanted = expected(clip, "bt709", False)
    with (
        Detector(engine, device="cuda") as on_gpu,
        stream(clip, on_gpu, decoder="nvdec", policy="all") as frames,
    ):
        count = 0
        for frame, image in zip(frames, wanted, strict=True):
            assert frame.detections == detector(image)
            assert frame.image_size == SIZE == (frame.to_dict()["height"], frame.to_dict()["width"])
            assert frame.detections is not None
            assert frame.detections.image is None
            count += 1
        assert count == COUNT
        assert copied == []
        assert np.array_equal(frame.image, image)
        assert frame.image is frame.image
        assert len(copied) == 1
        del frame
        copied.clear()


def test_surfaces_are_not_overwritten_and_are_given_back(gpu: FakeGpu, clip: Path) -> None:
    """The decoder has as many surfaces as frames are in use, and frames survive their source."""
    source = NvdecVideo(clip)
    wanted = expected(clip, "bt709", False)
    source.open()
    kept = [source.read() for _ in range(3)]
    for number, raw in enumerate(iter(source.read, None), 3):
        assert np.array_equal(raw.rgb().to_rgb(), wanted[number])
        del raw
    assert gpu.live["surface"] <= 3 + 4  # Those that are kept, and what one packet gives.
    source.close()
    for raw, image in zip(kept, wanted, strict=False):
        assert raw is not None
        assert np.array_equal(raw.rgb().to_rgb(), image)
    del kept, raw
    gc.collect()
    assert gpu.live["surface"] == 0


def test_a_source_may_be_opened_again(gpu: FakeGpu, clip: Path) -> None:
    source = NvdecVideo(clip)
    first = [raw.time_s for raw in read_all(source)]
    assert [raw.time_s for raw in read_all(source)] == first
    assert len(first) == COUNT


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command(
    gpu: FakeGpu,
    engine: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    detector: Detector,
    copied: list[DeviceFrame],
) -> None:
    """Without an output that shows them, no pixels are copied to the CPU."""
    lines = tmp_path / "found.jsonl"
    arguments = ["live", str(clip), "--decoder", "nvdec", "--model", str(engine), "--jsonl", str(lines)]
    assert main(arguments) == 0, capsys.readouterr().err
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    wanted = expected(clip, "bt709", False)
    assert [entry["detections"] for entry in entries] == [detector(image).to_dicts() for image in wanted]
    assert copied == []
    assert f"{COUNT} frames captured, {COUNT} processed" in capsys.readouterr().out


def test_the_command_writes_video(
    gpu: FakeGpu, engine: Path, clip: Path, tmp_path: Path, copied: list[DeviceFrame]
) -> None:
    marked = tmp_path / "marked.mp4"
    assert main(["live", str(clip), "--decoder", "nvdec", "--model", str(engine), "--save", str(marked)]) == 0
    assert len(copied) == COUNT
    copied.clear()
    with av.open(str(marked)) as container:
        assert sum(1 for _ in container.decode(video=0)) == COUNT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "--decoder nvdec decodes into GPU memory, which --device cpu cannot read"),
        ([], "--decoder nvdec needs an NVIDIA GPU, but there is .*; use --decoder ffmpeg to decode on the CPU"),
    ],
)
def test_the_command_without_a_gpu(
    clip: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with fake_gpu(devices=0, reason="cudaErrorNoDevice"):
        assert main(["live", str(clip), "--decoder", "nvdec", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_the_command_without_the_package(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gpu():
        monkeypatch.setitem(sys.modules, "PyNvVideoCodec", None)
        assert main(["live", str(clip), "--decoder", "nvdec"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--decoder nvdec needs the package PyNvVideoCodec" in line
    assert line.endswith("install it with: pip install 'pynvvideocodec'")


# -- refused -----------------------------------------------------------------------------------------------------------


def set_rotation(path: Path) -> None:
    """Turns the video by 90 degrees, in the matrix of the track header (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # after version, times, ids, layer and volume
    for offset, value in ((0, 0), (4, 1), (12, -1), (16, 0)):
        data[start + offset : start + offset + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"codec": "mpeg4"},
            "the video mpeg4 is not supported by decoder='nvdec'; use decoder='ffmpeg' to",
        ),
        ({"pixel_format": "yuv444p"}, "the pixel format yuv444p is not supported"),
        ({"colors": (4, 1)}, r"the color space 4 \(FFmpeg's number\) is not supported"),
    ],
)
def test_video_that_is_not_supported(gpu: FakeGpu, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = NvdecVideo(encode(tmp_path / "clip.mp4", **options))
    with pytest.raises(StreamError, match=message):
        read_all(source)


def test_rotated_video(gpu: FakeGpu, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4")
    set_rotation(path)
    with pytest.raises(StreamError, match=r"the rotation (90|270) degrees is not supported by decoder='nvdec'"):
        read_all(NvdecVideo(path))


def test_a_file_without_frames(gpu: FakeGpu, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.ts")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StreamError, match=r"no frame that can be decoded|cannot be opened as video"):
        read_all(NvdecVideo(path))


def test_frames_with_an_odd_height(gpu: FakeGpu, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PyNvDecoder, "GetHeight", lambda decoder: SIZE[0] - 1)
    monkeypatch.setattr(PyNvDecoder, "GetFrameSize", lambda decoder: SIZE[1] * (SIZE[0] - 1 + SIZE[0] // 2))
    with pytest.raises(StreamError, match=r"must be even, from 2 to 65536; got 95 x 128.*use decoder='ffmpeg'"):
        read_all(NvdecVideo(clip))


def test_frames_of_an_unknown_layout(gpu: FakeGpu, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames with gaps between rows would be read wrongly."""
    monkeypatch.setattr(PyNvDecoder, "GetFrameSize", lambda decoder: 256 * 144)
    with pytest.raises(StreamError, match="frames of 128 x 96 in NV12 have 36864 bytes, which is not the layout"):
        read_all(NvdecVideo(clip))


def test_frames_in_another_format(gpu: FakeGpu, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PyNvDecoder, "GetPixelFormat", lambda decoder: Pixel_Format.YUV444)
    with pytest.raises(StreamError, match="frames of 128 x 96 in YUV444 have 18432 bytes, which is not the layout"):
        read_all(NvdecVideo(clip))


@pytest.mark.parametrize("where", ["CreateDecoder", "GetNumDecodedFrame"])
def test_a_decoder_that_fails(gpu: FakeGpu, clip: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(
            "HandleVideoSequence : \nError code : 801\nError Type : Codec not supported\n\nat f.cpp:12\n"
        )

    if where == "CreateDecoder":
        monkeypatch.setattr(sys.modules["PyNvVideoCodec"], where, fail)
    else:
        monkeypatch.setattr(PyNvDecoder, where, fail)
    with pytest.raises(StreamError, match=r"the GPU (cannot decode h264|failed to decode): Codec not supported"):
        read_all(NvdecVideo(clip))


def test_a_package_that_does_not_work(
    gpu: FakeGpu, clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the driver's libraries for video, importing the package raises RuntimeError."""
    (tmp_path / "PyNvVideoCodec.py").write_text(
        'raise RuntimeError("Failed to load NVENC library\\n\\n=== HELP ===")\n'
    )
    monkeypatch.delitem(sys.modules, "PyNvVideoCodec")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match="does not work here: Failed to load NVENC library; use decoder='ffmpeg'"):
        NvdecVideo(clip)


def test_the_library_without_the_package(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu():
        monkeypatch.setitem(sys.modules, "PyNvVideoCodec", None)
        with pytest.raises(MissingDependencyError, match="pip install 'pynvvideocodec'"):
            stream(clip, lambda image: None, decoder="nvdec")


def test_a_detector_on_the_cpu(gpu: FakeGpu, clip: Path, detector: Detector) -> None:
    with pytest.raises(ValueError, match=r"but the detector runs on the CPU; use Detector\(device='cuda'\)"):
        stream(clip, detector, decoder="nvdec")


@pytest.mark.parametrize("source", [0, "0", "videotestsrc ! appsink", iter([])])
def test_other_sources(gpu: FakeGpu, source: Any, detector: Detector) -> None:
    with pytest.raises((ValueError, MissingDependencyError), match=r"decoder must be left out|needs|OpenCV"):
        stream(source, lambda image: None, decoder="nvdec")


def test_unknown_decoders(clip: Path) -> None:
    with pytest.raises(ValueError, match="decoder must be one of ffmpeg, nvdec; got 'cuvid'"):
        stream(clip, lambda image: None, decoder="cuvid")
