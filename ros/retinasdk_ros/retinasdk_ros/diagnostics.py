"""The node's status on /diagnostics, once a second: rate, latency, counters and the last error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from retinasdk.live import Counters, Histogram

PERIOD_S = 1.0


class Diagnostics:
    """Collects what happened in each period, and publishes it.

    Args:
        node: The node.
        hardware_id: What the status is about: the model and the device.
        facts: Values that do not change.

    Attributes:
        counters: Returns the counters of the stream.
        topic: The topic of the images.
    """

    def __init__(self, node: Any, hardware_id: str, facts: dict[str, str]) -> None:
        self.counters: Callable[[], Counters] = Counters
        self.topic = ""
        self._node, self._hardware_id, self._facts = node, hardware_id, facts
        self._lock = threading.Lock()
        self._latency = Histogram()
        self._published = self._published_before = self._received_before = 0
        self._error = ""
        self._is_failing = False
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._since = node.get_clock().now()
        node.create_timer(PERIOD_S, self._publish)

    def published(self, latency_s: float | None) -> None:
        """Counts a published message.

        Args:
            latency_s: Seconds from the stamp of the image to the publication. None if the image has no stamp.
        """
        with self._lock:
            self._published += 1
            if latency_s is not None:
                self._latency.add(latency_s)

    def failed(self, text: str) -> None:
        """Reports an error, which makes the next status a warning. The text stays as the last error."""
        with self._lock:
            self._error, self._is_failing = text, True

    def _publish(self) -> None:
        now = self._node.get_clock().now()
        with self._lock:
            latency, self._latency = self._latency, Histogram()
            seconds, self._since = (now - self._since).nanoseconds / 1e9, now
            rate = (self._published - self._published_before) / seconds if seconds > 0 else 0.0
            published, self._published_before = self._published, self._published
            error = self._error
            is_failing, self._is_failing = self._is_failing, False
        counters = self.counters()
        level, text = DiagnosticStatus.OK, f"{rate:.1f} images/s"
        if is_failing:
            level, text = DiagnosticStatus.WARN, error
        elif counters.captured == self._received_before:
            level, text = DiagnosticStatus.WARN, f"no image arrived on {self.topic} in the last second"
        self._received_before = counters.captured
        values = {
            "rate (1/s)": f"{rate:.2f}",
            **{
                f"latency {name} (ms)": f"{1000 * value:.1f}" if latency.count else ""
                for name, value in (("median", latency.quantile(0.5)), ("max", latency.max_s))
            },
            "received": str(counters.captured),
            "published": str(published),
            "dropped": str(counters.dropped),
            "failed": str(counters.failed),
            "last error": error,
            **self._facts,
        }
        status = DiagnosticStatus(
            level=level,
            name=f"{self._node.get_fully_qualified_name()}: detection",
            message=text,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = now.to_msg()
        self._publisher.publish(message)
