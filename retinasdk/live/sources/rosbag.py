"""ROS 2 bags, by the package rosbags: no ROS is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.ros import PICTURE_TYPES, picture_of, typestore
from retinasdk.live.sources.base import RawFrame


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

    def open(self) -> None:
        # Bags from before Iron do not hold their types' definitions; those of pictures have not changed since.
        self._reader = self._highlevel.AnyReader([Path(self.name)], default_typestore=typestore())
        self._reader.open()
        found = {item.topic: item for item in self._reader.connections if item.msgtype in PICTURE_TYPES}
        topic = self._topic
        if topic is None and len(found) == 1:
            (topic,) = found
        if topic not in found:
            raise StreamError(
                f"wanted {'one topic' if topic is None else f'the topic {topic!r}'} of pictures, "
                f"found {sorted(found) or 'none'}; choose with RosBag(path, topic=...)"
            )
        self._messages = self._reader.messages(connections=[found[topic]])

    def read(self) -> RawFrame | None:
        entry = next(self._messages, None)
        if entry is None:
            return None
        connection, time_ns, raw = entry
        try:
            image = picture_of(self._reader.deserialize(raw, connection.msgtype))
        except Exception as error:  # the parser of foreign data may stumble over anything
            raise CorruptFrameError(f"a message cannot be read: {error}") from error
        return RawFrame(lambda: image, time_ns / 1e9)

    def close(self) -> None:
        self._messages = iter(())
        if self._reader is not None:
            if self._reader.isopen:
                self._reader.close()
            self._reader = None
