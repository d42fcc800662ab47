"""Detects in the pictures of a ROS 2 bag and writes what it found into another bag; no ROS is needed.

python bag_in_bag_out.py BAG FOUND_BAG [--topics /camera/image] [--score 0.5] [--model NAME_OR_ONNX]

For every topic of Image or CompressedImage, or those named, the new bag has TOPIC/detections of the type
vision_msgs/Detection2DArray, with the times and headers of the pictures. A picture that cannot be read is told on
stderr and has no message. Needs `pip install 'retinasdk[rosbag]'`.
"""

import argparse
import sys
from pathlib import Path

import retinasdk
from retinasdk.live.ros import ARRAY_TYPE, PICTURE_TYPES, detection_array, picture_of, typestore


def detect_in_bag(
    bag: Path, target: Path, detector: retinasdk.Detector, topics: list[str] | None, score: float
) -> dict[str, int]:
    """Returns {topic: messages written}."""
    from rosbags.highlevel import AnyReader
    from rosbags.rosbag2 import Writer

    store = typestore()
    written: dict[str, int] = {}
    with AnyReader([bag], default_typestore=store) as reader, Writer(target, version=9) as writer:
        pictures = [c for c in reader.connections if c.msgtype in PICTURE_TYPES and (not topics or c.topic in topics)]
        outputs = {}
        for topic in sorted({connection.topic for connection in pictures}):
            outputs[topic] = writer.add_connection(f"{topic}/detections", ARRAY_TYPE, typestore=store)
            written[topic] = 0
        for connection, time_ns, raw in reader.messages(pictures) if pictures else ():
            message = reader.deserialize(raw, connection.msgtype)
            try:
                image = picture_of(message)
            except retinasdk.ImageError as error:
                print(f"{connection.topic} at {time_ns}: {error}", file=sys.stderr)
                continue
            # The header is of the reader's types; the writer needs its own.
            stamp = store.types["builtin_interfaces/msg/Time"](message.header.stamp.sec, message.header.stamp.nanosec)
            header = store.types["std_msgs/msg/Header"](stamp, message.header.frame_id)
            found = detection_array(detector(image, score_threshold=score), header, store.types)
            writer.write(outputs[connection.topic], time_ns, store.serialize_cdr(found, ARRAY_TYPE))
            written[connection.topic] += 1
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect in a ROS 2 bag, write a bag of detections.")
    parser.add_argument("bag", type=Path, help="the folder with metadata.yaml")
    parser.add_argument("target", type=Path, help="the folder to write; must not be there")
    parser.add_argument("--topics", nargs="+", metavar="TOPIC")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    arguments = parser.parse_args()

    detector = retinasdk.Detector(arguments.model)
    written = detect_in_bag(arguments.bag, arguments.target, detector, arguments.topics, arguments.score)
    for topic, count in written.items():
        print(f"{topic}/detections: {count} messages")


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
