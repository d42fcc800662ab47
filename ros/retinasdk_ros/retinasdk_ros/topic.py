"""A topic of images as a source of `retinasdk.stream`."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from retinasdk.errors import RetinaSdkError
from retinasdk.live import RawFrame
from retinasdk.live.ros import picture_of

_KINDS = {"raw": Image, "compressed": CompressedImage}


class Topic:
    """The images of a topic. Only those that the detector takes are deserialized and decoded.

    `Frame.tag` is a list with the header of the image.

    Args:
        node: The node that subscribes.
        values: The values of the parameters.
        qos: The quality of service.
        on_error: Is called with the reason why an image cannot be decoded.
    """

    live = False  # It never needs to be opened again: DDS finds publishers that return. It ends by `stop`.
    on_demand = False

    def __init__(self, node: Any, values: dict[str, Any], qos: Any, on_error: Callable[[str], object]) -> None:
        self.name = values["image_topic"] + ("/compressed" if values["transport"] == "compressed" else "")
        self._kind = _KINDS[values["transport"]]
        self._on_error = on_error
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.subscription = node.create_subscription(self._kind, self.name, self._messages.put, qos, raw=True)

    def open(self) -> None:
        """Does nothing: the subscription stands as long as the node. See `Source.open`."""

    def read(self) -> RawFrame | None:
        """Waits for the next message. See `Source.read`."""
        message = self._messages.get()
        return None if message is None else self._frame(message)

    def stop(self) -> None:
        """Ends the topic. It may be called from a signal handler."""
        self._messages.put(None)

    def close(self) -> None:
        """Does nothing. See `Source.close`."""

    def _frame(self, serialized: bytes) -> RawFrame:
        headers: list[Any] = []  # Filled by `rgb`.

        def rgb() -> Any:
            message = deserialize_message(serialized, self._kind)
            headers.append(message.header)
            try:
                return picture_of(message)
            except RetinaSdkError as error:
                self._on_error(str(error))
                raise

        return RawFrame(rgb, tag=headers)
