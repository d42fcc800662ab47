"""The examples of video and ROS 2, on video and bags whose content is known, and on the shared clips where they are."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from paths import EXAMPLES, SHARED_DATA
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Detections, Detector, ImageError, list_models

CLIPS = SHARED_DATA / "video"

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """load(name) imports an example without running it."""

    def call(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return call


# -- count_in_video.py -------------------------------------------------------------------------------------------------


def squares(path: Path, numbers: list[int], fps: int = 10) -> None:
    """A video: each frame shows so many white squares on black."""
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with av.open(str(path), "w") as container:
        output = container.add_stream("libx264", rate=fps)
        output.width, output.height, output.pix_fmt = 160, 48, "yuv420p"
        for number in numbers:
            picture = np.zeros((48, 160, 3), np.uint8)
            for place in range(number):
                picture[16:32, 16 + 32 * place : 32 + 32 * place] = 255
            container.mux(output.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(output.encode(None))


def find_squares(image: npt.NDArray[np.uint8], *, classes: list[str], score_threshold: float) -> Detections:
    lit = image[24, 24::32, 0] > 128
    boxes = np.array([[16 + 32 * place, 16, 32 + 32 * place, 32] for place in np.flatnonzero(lit)], np.float32)
    return Detections(boxes.reshape(-1, 4), np.ones(lit.sum()), np.zeros(lit.sum()), ("square",))


def test_counts_are_those_of_the_video(load: Load, tmp_path: Path) -> None:
    """0 to 3 squares; now and then one is missed for a frame or two, which the median does not show."""
    example = load("count_in_video")
    truth = [3] * 20 + [2] * 15 + [0] * 10 + [1] * 25
    shown = list(truth)
    for place, number in ((5, 2), (12, 3), (13, 1), (27, 1), (54, 0), (61, 2), (62, 2)):
        shown[place] = number
    squares(tmp_path / "squares.mp4", shown)
    counts = example.count(tmp_path / "squares.mp4", find_squares, ["square"], 0.5, 1)
    assert counts[:, 1].tolist() == shown
    np.testing.assert_allclose(counts[:, 0], np.arange(70) / 10)
    assert example.smoothed(counts).tolist() == truth
    assert example.changes(counts) == [(0.0, 3), (2.0, 2), (3.5, 0), (4.5, 1)]
    every_third = example.count(tmp_path / "squares.mp4", find_squares, ["square"], 0.5, 3)
    assert every_third[:, 1].tolist() == shown[2::3]
    np.testing.assert_allclose(every_third[:, 0], np.arange(2, 70, 3) / 10)


def test_count_in_video(run_python: Any, model_path: Path, detector: Detector, tmp_path: Path) -> None:
    squares(tmp_path / "squares.mp4", [1, 3, 0, 2, 2])
    options = ["--classes", "dog", "chair", "--score", "0.3", "--plot", "counts.png", "--model", model_path]
    result = run_python([EXAMPLES / "count_in_video.py", "squares.mp4", "counts.csv", *options])
    assert (result.returncode, result.stderr) == (0, "")
    with open(tmp_path / "counts.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    av = pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    with av.open(str(tmp_path / "squares.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = [len(detector(picture, classes=["dog", "chair"], score_threshold=0.3)) for picture in pictures]
    assert [int(row["count"]) for row in rows] == wanted
    assert [row["time_s"] for row in rows] == ["0.000", "0.100", "0.200", "0.300", "0.400"]
    assert result.stdout.startswith("from 0.0 s: dog, chair ")
    with PillowImage.open(tmp_path / "counts.png") as plot:
        assert plot.size == (990, 308)


def test_a_plot_without_matplotlib_is_refused_before_the_video_is_read(run_python: Any) -> None:
    program = f"""
import runpy, sys
sys.modules["matplotlib"] = None
sys.argv = ["count_in_video.py", "none.mp4", "counts.csv", "--plot", "counts.png"]
runpy.run_path({str(EXAMPLES / "count_in_video.py")!r}, run_name="__main__")
"""
    result = run_python(["-c", program])
    assert result.returncode == 1
    assert "matplotlib" in result.stderr
    assert "none.mp4" not in result.stderr
    assert "Traceback" not in result.stderr


# Seconds between which so many objects are in the picture, read off the frames by eye; in between somebody enters or
# leaves, or a bottle is half in the picture.
PEOPLE = [(0.0, 6.0, 0), (7.0, 19.0, 1), (20.2, 22.6, 0), (23.4, 44.0, 1), (45.4, 50.0, 0), (51.0, 69.0, 1)]
PEOPLE += [(70.2, 74.4, 0), (75.4, 86.0, 1), (87.6, 92.0, 0), (93.0, 119.0, 1), (120.8, 123.4, 0), (124.4, 135.4, 1)]
PEOPLE += [(136.8, 139.4, 0)]
BOTTLES = [(0.0, 6.5, 3), (7.4, 11.2, 2), (12.0, 17.3, 3), (18.3, 21.8, 1), (22.9, 27.2, 2), (28.3, 31.4, 3)]
BOTTLES += [(32.4, 34.7, 2), (36.0, 39.9, 3)]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("clip", "label", "score", "truth"),
    [("one-by-one-person-detection.mp4", "person", 0.5, PEOPLE), ("bottle-detection.mp4", "bottle", 0.4, BOTTLES)],
)
def test_the_clips_are_counted_right(load: Load, clip: str, label: str, score: float, truth: Any) -> None:
    pytest.importorskip("av", reason="needs PyAV (retinasdk[video])")
    if not (CLIPS / clip).exists():
        pytest.skip(f"needs {CLIPS / clip}; RETINASDK_DATA tells where the data is")
    model = "people" if label == "person" else str(EXAMPLES / "bottles" / "bottles.onnx")
    if model == "people" and model not in [item.name for item in list_models()]:
        pytest.skip("needs the bundled model `people`")
    example = load("count_in_video")
    with Detector(model) as detector:
        counts = example.count(CLIPS / clip, detector, [label], score, 5)
    smooth = example.smoothed(counts)
    for start, end, number in truth:
        inside = (counts[:, 0] >= start) & (counts[:, 0] <= end)
        assert inside.sum() >= 3
        assert set(smooth[inside].tolist()) == {number}, (start, end)
    assert [number for _, number in example.changes(counts)] == [number for _, _, number in truth]


# -- ROS 2 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> Any:
    pytest.importorskip("rosbags.rosbag2", reason="needs rosbags (retinasdk[rosbag])")
    from retinasdk.live.ros import typestore

    return typestore()


def header_of(store: Any, number: int) -> Any:
    time = store.types["builtin_interfaces/msg/Time"](sec=100 + number, nanosec=987654321)
    return store.types["std_msgs/msg/Header"](stamp=time, frame_id=f"camera {number}")


def image_of(store: Any, picture: npt.NDArray[np.uint8], number: int) -> Any:
    height, width = picture.shape[:2]
    return store.types["sensor_msgs/msg/Image"](
        header=header_of(store, number),
        height=height,
        width=width,
        encoding="bgr8",
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(picture[..., ::-1]).reshape(-1),
    )


def jpeg_of(store: Any, picture: npt.NDArray[np.uint8], number: int) -> Any:
    file = io.BytesIO()
    PillowImage.fromarray(picture).save(file, "JPEG", quality=95)
    data = np.frombuffer(file.getvalue(), np.uint8)
    return store.types["sensor_msgs/msg/CompressedImage"](header=header_of(store, number), format="jpeg", data=data)


def check_array(message: Any, wanted: Detections, number: int) -> None:
    """Against literals of the definition: centre and size of each box, label and score of its one hypothesis."""
    for header in (message.header, *(item.header for item in message.detections)):
        assert (header.stamp.sec, header.stamp.nanosec) == (100 + number, 987654321)
        assert header.frame_id == f"camera {number}"
    assert len(message.detections) == len(wanted)
    for item, box, score, name in zip(message.detections, wanted.xyxy, wanted.scores, wanted.names, strict=True):
        centre = item.bbox.center.position
        corners = [centre.x - item.bbox.size_x / 2, centre.y - item.bbox.size_y / 2]
        corners += [centre.x + item.bbox.size_x / 2, centre.y + item.bbox.size_y / 2]
        np.testing.assert_allclose(corners, box, atol=1e-9)
        (result,) = item.results
        assert (result.hypothesis.class_id, result.hypothesis.score) == (name, pytest.approx(float(score), abs=0))
        assert (item.bbox.center.theta, result.pose.pose.orientation.w, item.id) == (0.0, 1.0, "")
        assert result.pose.covariance.tolist() == [0.0] * 36


@pytest.fixture
def bag(store: Any, tmp_path: Path) -> Path:
    """/raw: four pictures, the third damaged. /jpeg: two. /other: something else."""
    from rosbags.rosbag2 import Writer

    image, compressed, text = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
    with Writer(tmp_path / "bag", version=9) as writer:
        raw = writer.add_connection("/raw", image, typestore=store)
        jpeg = writer.add_connection("/jpeg", compressed, typestore=store)
        other = writer.add_connection("/other", text, typestore=store)
        for number in range(4):
            message = image_of(store, blocks(90, 120, seed=number), number)
            if number == 2:
                message.height += 1
            writer.write(raw, 10**9 * number + 7, store.serialize_cdr(message, image))
        for number in range(2):
            message = jpeg_of(store, blocks(60, 160, seed=number), number)
            writer.write(jpeg, 10**9 * number + 5, store.serialize_cdr(message, compressed))
        writer.write(other, 3, store.serialize_cdr(store.types[text](data="hello"), text))
    return tmp_path / "bag"


def read_bag(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """{topic: [(time, message)]}, by the definitions that the bag itself holds."""
    from rosbags.highlevel import AnyReader

    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path]) as reader:
        for connection, time_ns, raw in reader.messages():
            found.setdefault(connection.topic, []).append((time_ns, reader.deserialize(raw, connection.msgtype)))
    return found


def test_bag_in_bag_out(run_python: Any, bag: Path, model_path: Path, detector: Detector, tmp_path: Path) -> None:
    options = ["--score", "0.3", "--model", model_path]
    result = run_python([EXAMPLES / "bag_in_bag_out.py", bag, "found", *options])
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["/jpeg/detections: 2 messages", "/raw/detections: 3 messages"]
    assert result.stderr.startswith("/raw at 2000000007: the image message cannot be decoded: ")
    assert result.stderr.count("\n") == 1
    found = read_bag(tmp_path / "found")
    assert {topic: [time for time, _ in entries] for topic, entries in found.items()} == {
        "/raw/detections": [7, 10**9 + 7, 3 * 10**9 + 7],
        "/jpeg/detections": [5, 10**9 + 5],
    }
    total = 0
    for number, (_, message) in zip((0, 1, 3), found["/raw/detections"], strict=True):
        wanted = detector(blocks(90, 120, seed=number), score_threshold=0.3)
        check_array(message, wanted, number)
        total += len(wanted)
    assert total > 0
    for number, (_, message) in enumerate(found["/jpeg/detections"]):
        file = io.BytesIO()
        PillowImage.fromarray(blocks(60, 160, seed=number)).save(file, "JPEG", quality=95)
        check_array(message, detector(PillowImage.open(file), score_threshold=0.3), number)
    only = run_python([EXAMPLES / "bag_in_bag_out.py", bag, "found2", "--topics", "/jpeg", *options])
    assert only.stdout.splitlines() == ["/jpeg/detections: 2 messages"]


@pytest.mark.parametrize("damage", ["encoding", "height", "data", "jpeg"])
def test_damaged_messages_are_image_errors(store: Any, damage: str) -> None:
    from retinasdk.live.ros import picture_of

    message = image_of(store, blocks(20, 30), 0)
    if damage == "encoding":
        message.encoding = "32FC1"
    elif damage == "height":
        message.height = 2**31
    elif damage == "data":
        message.data = message.data[:-1]
    else:
        message = jpeg_of(store, blocks(20, 30), 0)
        message.data = message.data[: len(message.data) // 2]
    with pytest.raises(ImageError):
        picture_of(message)
