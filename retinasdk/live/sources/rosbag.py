"""ROS 2 bags, by the package rosbags: no ROS is needed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._lazy import require
from retinasdk.errors import ImageError
from retinasdk.images import as_rgb
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.sources.base import Shot

if TYPE_CHECKING:
    import numpy.typing as npt

_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
# Bytes a pixel, and which of them are red, green and blue.
_ENCODINGS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}


class RosBag:
    """The pictures of one topic (Image or CompressedImage) of a bag, which is a folder with metadata.yaml.

    topic: None where the bag has only one of such pictures.
    Encodings: rgb8, bgr8, rgba8, bgra8 (alpha is ignored) and mono8. Times are those at which the bag recorded.
    """

    live = False
    on_demand = False

    def __init__(self, path: str | os.PathLike[str], topic: str | None = None) -> None:
        self.name = os.fspath(path)
        self._topic = topic
        self._reader: Any = None
        self._messages: Iterator[Any] = iter(())
        self._highlevel = require("rosbags.highlevel", "reading ROS 2 bags")
        self._typesys = require("rosbags.typesys", "reading ROS 2 bags")

    def open(self) -> None:
        # Bags from before Iron do not hold their types' definitions; these two have not changed since.
        types = self._typesys.get_typestore(self._typesys.Stores.ROS2_HUMBLE)
        self._reader = self._highlevel.AnyReader([Path(self.name)], default_typestore=types)
        self._reader.open()
        found = {item.topic: item for item in self._reader.connections if item.msgtype in _TYPES}
        topic = self._topic
        if topic is None and len(found) == 1:
            (topic,) = found
        if topic not in found:
            raise StreamError(
                f"wanted {'one topic' if topic is None else f'the topic {topic!r}'} of pictures, "
                f"found {sorted(found) or 'none'}; choose with RosBag(path, topic=...)"
            )
        self._messages = self._reader.messages(connections=[found[topic]])

    def read(self) -> Shot | None:
        entry = next(self._messages, None)
        if entry is None:
            return None
        connection, time_ns, raw = entry
        try:
            image = _picture(self._reader.deserialize(raw, connection.msgtype))
        except Exception as error:  # the messages are foreign data: any of the parsers may stumble
            raise CorruptFrameError(f"a message cannot be read: {error}") from error
        return Shot(lambda: image, time_ns / 1e9)

    def close(self) -> None:
        self._messages = iter(())
        if self._reader is not None:
            if self._reader.isopen:
                self._reader.close()
            self._reader = None


def _picture(message: Any) -> npt.NDArray[np.uint8]:
    if hasattr(message, "format"):
        return as_rgb(require("PIL.Image", "reading compressed pictures").open(io.BytesIO(bytes(message.data))))
    if message.encoding not in _ENCODINGS:
        raise ImageError(f"wanted the encoding {', '.join(_ENCODINGS)}, got {message.encoding!r}")
    size, channels = _ENCODINGS[message.encoding]
    rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * size].reshape(message.height, message.width, size)
    return np.ascontiguousarray(pixels[..., list(channels)])
