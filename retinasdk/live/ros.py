"""ROS 2 messages: pictures out of them, detections into them. The classes may be rclpy's or those of rosbags."""

from __future__ import annotations

import io
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
# Bytes a pixel, and which of them are red, green and blue.
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
# The fields of vision_msgs 4 (ROS 2 Humble and later), which rosbags does not bring.
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
    """The message types of rosbags, with vision_msgs: for bags that do not hold the definitions themselves."""
    typesys = require("rosbags.typesys", "reading ROS 2 bags")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for name, fields in _FIELDS.items():
        store.register(typesys.get_types_from_msg(fields, f"vision_msgs/msg/{name}"))
    return store


def picture_of(message: Any) -> npt.NDArray[np.uint8]:
    """RGB (H, W, 3) of an Image or CompressedImage.

    Encodings: rgb8, bgr8, rgba8, bgra8 (alpha is ignored) and mono8. Raises `ImageError` for others, and for a message
    whose data is not what the rest of it says.
    """
    compressed = hasattr(message, "format")
    if not compressed and message.encoding not in _ENCODINGS:
        raise ImageError(f"wanted the encoding {', '.join(_ENCODINGS)}, got {message.encoding!r}")
    pillow = require("PIL.Image", "reading compressed pictures") if compressed else None
    try:
        return as_rgb(pillow.open(io.BytesIO(bytes(message.data)))) if pillow is not None else _uncompressed(message)
    except ImageError:
        raise
    except Exception as error:  # it is foreign data: Pillow and NumPy raise one thing and another
        raise ImageError(f"a picture cannot be read: {error}; is the message complete?") from error


def _uncompressed(message: Any) -> npt.NDArray[np.uint8]:
    size, channels = _ENCODINGS[message.encoding]
    rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * size].reshape(message.height, message.width, size)
    return np.ascontiguousarray(pixels[..., list(channels)])


def detection_array(detections: Detections, header: Any, types: Mapping[str, Any]) -> Any:
    """A vision_msgs/Detection2DArray of what was found in the picture with that header.

    types: {"vision_msgs/msg/Detection2D": class, ...} of all messages involved: `typestore().types`, or rclpy's.

    Each detection has one hypothesis: the label as its class_id, and the score. Boxes are in pixels of the picture.
    """

    def make(name: str, **fields: Any) -> Any:
        return types[name](**fields)

    def one(item: Any) -> Any:
        x1, y1, x2, y2 = item.xyxy
        centre = make("vision_msgs/msg/Point2D", x=(x1 + x2) / 2, y=(y1 + y2) / 2)
        pose = make("vision_msgs/msg/Pose2D", position=centre, theta=0.0)
        hypothesis = make("vision_msgs/msg/ObjectHypothesis", class_id=item.label, score=item.score)
        nowhere = make(
            "geometry_msgs/msg/Pose",
            position=make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
            orientation=make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        )
        unsaid = make("geometry_msgs/msg/PoseWithCovariance", pose=nowhere, covariance=np.zeros(36))
        result = make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=unsaid)
        box = make("vision_msgs/msg/BoundingBox2D", center=pose, size_x=x2 - x1, size_y=y2 - y1)
        return make("vision_msgs/msg/Detection2D", header=header, results=[result], bbox=box, id="")

    return make(ARRAY_TYPE, header=header, detections=[one(item) for item in detections])
