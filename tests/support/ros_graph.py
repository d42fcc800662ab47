"""The programs around the ROS node in its tests: a camera, a listener, and what the camera sends. Needs rclpy."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from paths import ROOT

from retinasdk.live.ros import typestore

# Generous: nothing is measured by it.
TIMEOUT_S = 60.0
_PUBLISHER = ROOT / "tests" / "ros" / "publisher.py"


class Graph:
    """The processes of a test in a namespace of its own, and a node that listens to them."""

    def __init__(self, environment: dict[str, str], folder: Path, name: str) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile
        from vision_msgs.msg import Detection2DArray

        self.environment, self.folder, self.namespace = environment, folder, f"/{name}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.node = rclpy.create_node("listener", namespace=self.namespace)
        self.detections: list[Any] = []
        self.arrived_s: list[float] = []
        self.status: list[Any] = []
        self.pictures: list[Any] = []
        self._subscription = self.node.create_subscription(
            Detection2DArray, "detections", self._detected, QoSProfile(depth=100)
        )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)

    def _detected(self, message: Any) -> None:
        self.detections.append(message)
        self.arrived_s.append(self.now_s())

    def _diagnosed(self, message: Any) -> None:
        self.status += [each for each in message.status if each.name.startswith(f"{self.namespace}/detector")]

    def now_s(self) -> float:
        return float(self.node.get_clock().now().nanoseconds / 1e9)

    def see_pictures(self) -> None:
        from sensor_msgs.msg import Image

        self.node.create_subscription(Image, "detections/image", self.pictures.append, 1)

    def detector(self, **parameters: Any) -> subprocess.Popen[bytes]:
        options = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        arguments = ["--ros-args", "-r", f"__ns:={self.namespace}", *options]
        return self._start([self.environment["DETECTOR"], *arguments], "detector.log")

    def camera(self, path: Path, rate: float, reliability: str = "reliable") -> subprocess.Popen[bytes]:
        # What the detector publishes before it knows of this listener is lost, reliable or not. When it does cannot be
        # asked from here; when the listener knows of the detector can, and the other way takes about as long.
        self.wait(self._subscription.get_publisher_count, "detector")
        self._spin(1.0)
        command = [sys.executable, _PUBLISHER, path, str(rate), reliability]
        return self._start([*command, "--ros-args", "-r", f"__ns:={self.namespace}"], "camera.log")

    def _start(self, command: list[Any], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def log(self) -> str:
        return (self.folder / "detector.log").read_text()

    def wait(self, until: Callable[[], object], what: str) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not until():
            rclpy.spin_once(self.node, timeout_sec=0.1)
            assert time.monotonic() < end, f"no {what}; the detector said:\n{self.log()}"

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.node.destroy_node()


class Images:
    """Writes a file for publisher.py, and keeps what the messages would be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, Any] = {}
        self.messages: list[Any] = []

    def add(
        self, encoding: str, rows: Any, size: tuple[int, int], *, padding: int = 0, is_bigendian: bool = False
    ) -> None:
        """`rows` is (rows, bytes per row) uint8. The padding of each row is filled with noise."""
        noise = np.random.default_rng(0).integers(0, 256, (len(rows), padding), np.uint8)
        data = np.concatenate([rows, noise], axis=1)
        number = len(self.messages)
        shape = (*size, data.shape[1], int(is_bigendian))
        self.fields |= {f"{number} encoding": encoding, f"{number} shape": shape, f"{number} data": data}
        kind = typestore().types["sensor_msgs/msg/Image"]
        header = None
        self.messages.append(
            kind(header, size[0], size[1], encoding, int(is_bigendian), data.shape[1], data.reshape(-1))
        )

    def save(self) -> Path:
        np.savez(self.path, count=len(self.messages), **self.fields)
        return self.path
