"""Conversion of ROS 2 messages: images to arrays, detections to vision_msgs. ROS itself is not needed.

The message classes may come from rclpy or from the package rosbags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.live.ros_images import picture_of

if TYPE_CHECKING:
    from retinasdk.detections import Detections

__all__ = ["ARRAY_TYPE", "PICTURE_TYPES", "detection_array", "picture_of", "typestore"]

PICTURE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ARRAY_TYPE = "vision_msgs/msg/Detection2DArray"
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


def detection_array(detections: Detections, header: Any, types: Mapping[str, Any]) -> Any:
    """Returns detections as a `vision_msgs/msg/Detection2DArray` (vision_msgs 4, ROS 2 Humble and later).

    Each detection has one hypothesis, with the class label as `class_id` and the score. Boxes are in pixels of the
    image, as center and size; `theta` is the angle of rotated boxes, else 0. The pose of the hypothesis is not
    estimated: position and covariance are zero. `id` is the number of a tracked object, else empty.

    Args:
        detections: The detections in an image.
        header: The `std_msgs/msg/Header` of the image message.
        types: The message classes by name, {"vision_msgs/msg/Detection2D": class, ...}: `typestore().types`, or the
            classes of ROS, as in `ros/retinasdk_ros/retinasdk_ros/main.py`.
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
