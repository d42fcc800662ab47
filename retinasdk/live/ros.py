"""Conversion of ROS 2 messages: images to arrays, detections to vision_msgs. ROS itself is not needed.

The message classes may come from rclpy or from the package rosbags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.errors import ImageError
from retinasdk.images import as_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

    from retinasdk.detections import Detections

PICTURE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ARRAY_TYPE = "vision_msgs/msg/Detection2DArray"
# Bytes per pixel, and the positions of red, green and blue in them.
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
# The fields of vision_msgs 4 (ROS 2 Humble and later), which rosbags does not include.
_FIELDS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
}


def typestore() -> Any:
    """Returns the rosbags type store of ROS 2 Humble, extended by vision_msgs.

    Use it to read bags that do not contain their message definitions, and to write `Detection2DArray` messages.

    Returns:
        A `rosbags.typesys.store.Typestore`.

    Raises:
        MissingDependencyError: If rosbags is not installed (`pip install 'retinasdk[rosbag]'`).
    """
    typesys = require("rosbags.typesys", "reading ROS 2 bags")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for name, fields in _FIELDS.items():
        store.register(typesys.get_types_from_msg(fields, f"vision_msgs/msg/{name}"))
    return store


def picture_of(message: Any) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an image message.

    Args:
        message: A `sensor_msgs/msg/Image` with the encoding rgb8, bgr8, rgba8, bgra8 (alpha is ignored) or mono8; or a
            `sensor_msgs/msg/CompressedImage`, which Pillow decodes.

    Returns:
        (H, W, 3) uint8, RGB, a copy.

    Raises:
        ImageError: If the encoding is not supported, or the data does not match the size in the message.
    """
    compressed = hasattr(message, "format")
    if not compressed and message.encoding not in _ENCODINGS:
        raise ImageError(
            f"image encoding {message.encoding!r} is not supported; publish one of {', '.join(_ENCODINGS)}"
        )
    try:
        return as_rgb(bytes(message.data)) if compressed else _uncompressed(message)
    except ImageError:
        raise
    except Exception as error:  # Pillow and NumPy raise many kinds of errors for malformed data.
        raise ImageError(f"the image message cannot be decoded: {error}; check that its data is complete") from error


def _uncompressed(message: Any) -> npt.NDArray[np.uint8]:
    size, channels = _ENCODINGS[message.encoding]
    rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * size].reshape(message.height, message.width, size)
    return as_rgb(np.ascontiguousarray(pixels[..., list(channels)]))  # Refuses images without pixels.


def detection_array(detections: Detections, header: Any, types: Mapping[str, Any]) -> Any:
    """Returns detections as a `vision_msgs/msg/Detection2DArray` (vision_msgs 4, ROS 2 Humble and later).

    Each detection has one hypothesis, with the class label as `class_id` and the score. Boxes are in pixels of the
    image, as center and size; `theta` is the angle of rotated boxes, else 0. The pose of the hypothesis is not
    estimated: position and covariance are zero. `id` is the number of a tracked object, else empty.

    Args:
        detections: The detections in an image.
        header: The `std_msgs/msg/Header` of the image message.
        types: The message classes by name, {"vision_msgs/msg/Detection2D": class, ...}: `typestore().types`, or the
            classes of rclpy, as in `examples/ros2_node.py`.
    """

    def make(name: str, **fields: Any) -> Any:
        return types[name](**fields)

    def one(item: Any) -> Any:
        x1, y1, x2, y2 = item.xyxy
        upright = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.0)
        x, y, width, height, theta = upright if item.xywhr is None else item.xywhr
        center = make("vision_msgs/msg/Point2D", x=x, y=y)
        pose = make("vision_msgs/msg/Pose2D", position=center, theta=theta)
        hypothesis = make("vision_msgs/msg/ObjectHypothesis", class_id=item.label, score=item.score)
        zero_pose = make(
            "geometry_msgs/msg/Pose",
            position=make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
            orientation=make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        )
        pose_estimate = make("geometry_msgs/msg/PoseWithCovariance", pose=zero_pose, covariance=np.zeros(36))
        result = make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=pose_estimate)
        box = make("vision_msgs/msg/BoundingBox2D", center=pose, size_x=width, size_y=height)
        track = "" if item.track is None else str(item.track)
        return make("vision_msgs/msg/Detection2D", header=header, results=[result], bbox=box, id=track)

    return make(ARRAY_TYPE, header=header, detections=[one(item) for item in detections])
