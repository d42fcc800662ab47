"""A camera: python publisher.py FILE.npz RATE RELIABILITY publishes the images of a file in turn, RATE a second.

The file holds, for each image by number, "encoding", "shape" (height, width, step, is_bigendian) and "data". Message
NUMBER has the frame "NUMBER". It says "ready" once somebody subscribes, and runs until it is killed.

With a bag for the file, it plays the messages as they were recorded, at this rate, and goes on from the beginning.
"""

from __future__ import annotations

import array
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image


def messages_of(path: Path) -> list[Any]:
    made = []
    with np.load(path) as file:
        for number in range(int(file["count"])):
            encoding = str(file[f"{number} encoding"])
            data = array.array("B", file[f"{number} data"].tobytes())
            if encoding in ("jpeg", "png"):
                message = CompressedImage(format=encoding, data=data)
            else:
                height, width, step, is_bigendian = map(int, file[f"{number} shape"])
                message = Image(encoding=encoding, height=height, width=width, step=step, data=data)
                message.is_bigendian = is_bigendian
            made.append(message)
    return made


def messages_of_bag(path: Path) -> list[bytes]:
    from rosbags.highlevel import AnyReader

    with AnyReader([path]) as reader:
        return [serialized for _, _, serialized in reader.messages()]


def main() -> None:
    path, rate, reliability = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    rclpy.init(args=sys.argv)
    node = rclpy.create_node("camera")
    messages: list[Any] = messages_of_bag(path) if path.is_dir() else messages_of(path)
    is_compressed = isinstance(messages[0], bytes | CompressedImage)
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
    kind, topic = (CompressedImage, "image/compressed") if is_compressed else (Image, "image")
    publisher = node.create_publisher(kind, topic, qos)
    while not publisher.get_subscription_count():
        time.sleep(0.02)
    print("ready", flush=True)
    for number in itertools.count():
        message = messages[number % len(messages)]
        if not isinstance(message, bytes):
            message.header.frame_id = str(number)
            message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        time.sleep(1.0 / rate)


if __name__ == "__main__":
    main()
