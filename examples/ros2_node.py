"""A ROS 2 node: sensor_msgs/Image in, vision_msgs/Detection2DArray out.

python3 ros2_node.py --ros-args -r image:=/camera/image_raw -p score:=0.5 -p model:=people

Run it where ROS 2 (Humble or later), its package vision_msgs and retinasdk are. It has not been run on a real ROS: the
tests give it a stand-in for rclpy, and rosbags' message classes. What it does with the messages, `picture_of` and
`detection_array`, bag_in_bag_out.py does as well.
"""

import importlib
import sys
from typing import Any

import retinasdk
from retinasdk.live.ros import detection_array, picture_of

MESSAGES = {
    "geometry_msgs": ("Point", "Pose", "PoseWithCovariance", "Quaternion"),
    "vision_msgs": (
        *("BoundingBox2D", "Detection2D", "Detection2DArray", "ObjectHypothesis", "ObjectHypothesisWithPose"),
        *("Point2D", "Pose2D"),
    ),
}


def message_types() -> dict[str, Any]:
    """ROS's own classes, by the names that `detection_array` uses."""
    return {
        f"{package}/msg/{name}": getattr(importlib.import_module(f"{package}.msg"), name)
        for package, names in MESSAGES.items()
        for name in names
    }


def main() -> None:
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("retinasdk")
    model = node.declare_parameter("model", "people").value
    score = node.declare_parameter("score", 0.5).value
    detector = retinasdk.Detector(model)
    types = message_types()
    publisher = node.create_publisher(types["vision_msgs/msg/Detection2DArray"], "detections", 10)

    def detect(message: Any) -> None:
        try:
            found = detector(picture_of(message), score_threshold=score)
        except retinasdk.RetinaSdkError as error:
            node.get_logger().warning(f"a picture was left out: {error}", throttle_duration_sec=10.0)
        else:
            publisher.publish(detection_array(found, message.header, types))

    # One picture may wait: ROS drops older ones, so that what is published stays fresh.
    newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(Image, "image", detect, newest)
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        detector.close()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit()
    try:
        main()
    except ImportError as error:
        sys.exit(f"error: {error}; source your ROS first: source /opt/ros/humble/setup.bash")
    except (retinasdk.RetinaSdkError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
