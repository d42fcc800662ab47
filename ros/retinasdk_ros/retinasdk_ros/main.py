"""The node `detector`: subscribes to images, publishes vision_msgs/Detection2DArray and annotated images."""

from __future__ import annotations

import array
import logging
import signal
import sys
import threading
from types import FrameType
from typing import Any

import rclpy
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import Image
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
)

from retinasdk import Detector, RetinaSdkError, stream
from retinasdk.live import Frame, Tracker, bounded, latest
from retinasdk.live.ros import detection_array
from retinasdk_ros.diagnostics import Diagnostics
from retinasdk_ros.log import OnceLog
from retinasdk_ros.parameters import Settings, declare, subscription_qos
from retinasdk_ros.topic import Topic

_GEOMETRY = (Point, Pose, PoseWithCovariance, Quaternion)
_VISION = (
    *(BoundingBox2D, Detection2D, Detection2DArray, ObjectHypothesis, ObjectHypothesisWithPose),
    *(Point2D, Pose2D),
)
TYPES = {
    f"{package}/msg/{kind.__name__}": kind
    for package, kinds in (("geometry_msgs", _GEOMETRY), ("vision_msgs", _VISION))
    for kind in kinds
}


class Stop:
    """Ends the node on SIGINT and SIGTERM. Further signals change nothing: `ros2 launch` sends two on Ctrl-C."""

    def __init__(self) -> None:
        self.is_set = False
        self._topic: Topic | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def ends(self, topic: Topic) -> None:
        """From now on, a signal ends this topic. Before, it ends the process."""
        self._topic = topic

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            return
        self.is_set = True
        if self._topic is None:
            raise SystemExit(0)
        self._topic.stop()


class Output:
    """Publishes the detections of frames, and annotated images if someone wants them.

    Args:
        node: The node.
        values: The values of the parameters.
        diagnostics: Counts what was published.

    Raises:
        MissingDependencyError: If objects are to be tracked and the packages for it are missing.
    """

    def __init__(self, node: Any, values: dict[str, Any], diagnostics: Diagnostics) -> None:
        self._clock = node.get_clock()
        self._diagnostics = diagnostics
        self._tracker = Tracker() if values["track"] else None
        self._detections = node.create_publisher(Detection2DArray, values["detections_topic"], 10)
        self._annotated = node.create_publisher(Image, values["annotated_topic"], 1) if values["annotate"] else None

    def publish(self, frame: Frame) -> None:
        """Publishes one frame, with the header of its image."""
        (header,) = frame.tag
        detections: Any = frame.detections
        stamp = Time.from_msg(header.stamp, clock_type=self._clock.clock_type)
        if self._tracker is not None:
            time_s = stamp.nanoseconds / 1e9 if stamp.nanoseconds else None
            detections = self._tracker.update(detections, time_s, frame.image_size)
        self._detections.publish(detection_array(detections, header, TYPES))
        latency_ns = (self._clock.now() - stamp).nanoseconds if stamp.nanoseconds else None
        self._diagnostics.published(None if latency_ns is None else latency_ns / 1e9)
        if self._annotated is not None and self._annotated.get_subscription_count() > 0:
            picture = detections.draw(frame.image)
            data = array.array("B")  # rclpy checks each value of other sequences.
            data.frombytes(picture.tobytes())
            width, height = picture.size
            self._annotated.publish(
                Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=data)
            )


def run(node: Any, executor: SingleThreadedExecutor, stop: Stop) -> None:
    """Detects until the node is stopped."""
    log = OnceLog(node.get_logger())
    logging.getLogger("retinasdk").addHandler(log)
    values = declare(node)
    node.get_logger().info(f"loading {values['model']} on {values['device']}")
    with Detector(values["model"], device=values["device"]) as detector:
        settings = Settings(node, detector, values)
        facts = {"model": str(detector.model_path), "device": detector.device}
        diagnostics = Diagnostics(node, f"{detector.model_path.stem} on {detector.device}", facts)
        output = Output(node, values, diagnostics)
        topic = Topic(node, values, subscription_qos(values), diagnostics.failed)
        diagnostics.topic = topic.subscription.topic_name
        stop.ends(topic)
        policy = bounded(values["depth"]) if values["policy"] == "all" else latest()
        spinning = threading.Thread(target=executor.spin, name="executor", daemon=True)
        with stream(topic, settings, policy=policy) as frames:
            diagnostics.counters = lambda: frames.counters[topic.name]
            spinning.start()
            node.get_logger().info(f"detecting in {diagnostics.topic} on {detector.device}")
            for frame in frames:
                if stop.is_set:
                    break
                if frame.error is None:
                    output.publish(frame)
                else:
                    diagnostics.failed(f"the detector failed: {frame.error}")
        executor.shutdown()
        spinning.join()


def main() -> None:
    """Runs the node. The exit status is 0 after SIGINT or SIGTERM, and 1 after an error."""
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    stop = Stop()
    node = rclpy.create_node("detector")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    status = 0
    try:
        run(node, executor, stop)
    except (RetinaSdkError, ParameterException, OSError, ValueError) as error:
        node.get_logger().fatal(str(error))
        status = 1
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    sys.exit(status)


if __name__ == "__main__":
    main()
