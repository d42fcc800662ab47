"""ROS 2 bags, read by the package rosbags. ROS itself is not needed."""

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
    """The images of one topic of a ROS 2 bag. It needs the extra `rosbag`.

    Messages are of type `sensor_msgs/msg/Image`, in the encodings of `retinasdk.live.ros.picture_of`, or
    `sensor_msgs/msg/CompressedImage`. `Frame.time_s` is the time at which the bag recorded the message, in seconds
    since 1970, and `Frame.tag` its header. A message that cannot be decoded is counted as a failed frame.

    Args:
        path: The folder of the bag, which contains metadata.yaml.
        topic: The topic. May be omitted if the bag has only one topic with images.

    Raises:
        MissingDependencyError: If rosbags is not installed.
    """

    live = False
    on_demand = False

    def __init__(self, path: str | os.PathLike[str], topic: str | None = None) -> None:
        self.name = os.fspath(path)
        self._topic = topic
        self._reader: Any = None
        self._messages: Iterator[Any] = iter(())
        self._count = self._read = 0
        self._highlevel = require("rosbags.highlevel", "reading ROS 2 bags")

    def open(self) -> None:
        """Opens the bag and finds the topic. See `Source.open`."""
        self._check_files()
        # Bags recorded before ROS 2 Iron do not contain message definitions. Those of images have not changed since.
        reader = self._highlevel.AnyReader([Path(self.name)], default_typestore=typestore())
        reader.open()
        self._reader = reader  # Only now: a reader whose `open` failed has closed itself, and must not be closed again.
        found = {item.topic: item for item in self._reader.connections if item.msgtype in PICTURE_TYPES}
        topic = self._topic
        if topic is None and len(found) == 1:
            (topic,) = found
        if topic not in found:
            problem = "the topic of the images is not clear" if topic is None else f"there is no image topic {topic!r}"
            raise StreamError(
                f"{problem}; the bag has {sorted(found) or 'no image topics'}; choose with RosBag(path, topic=...)"
            )
        self._count, self._read = found[topic].msgcount, 0
        self._messages = self._reader.messages(connections=[found[topic]])

    def _check_files(self) -> None:
        """Raises `StreamError` if the bag names a file outside its folder. rosbags would read what is there."""
        yaml = require("ruamel.yaml", "reading ROS 2 bags", package="retinasdk[rosbag]")
        try:
            about = yaml.YAML(typ="safe").load(Path(self.name, "metadata.yaml").read_text(encoding="utf-8"))
            names = [str(name) for name in about["rosbag2_bagfile_information"]["relative_file_paths"]]
        except Exception as error:  # The parser may raise anything for malformed data.
            reason = " ".join(str(error).split())[:200]
            raise StreamError(
                f"metadata.yaml cannot be read ({reason}); restore it with: ros2 bag reindex {self.name}"
            ) from error
        for name in names:
            # Bags of ROS 2 Dashing and Eloquent put the name of their own folder before.
            parts = name.replace("\\", "/").split("/")
            if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
                raise StreamError(
                    f"metadata.yaml names the file {name!r}, which is not in the folder of the bag; put the file into "
                    "the folder, and its plain name into metadata.yaml"
                )

    def read(self) -> RawFrame | None:
        """Reads the next message. See `Source.read`."""
        entry = next(self._messages, None)
        if entry is None:
            return None
        self._read += 1
        connection, time_ns, raw = entry
        try:
            message = self._reader.deserialize(raw, connection.msgtype)
            image = picture_of(message)
        except Exception as error:  # The parser may raise anything for malformed data.
            raise CorruptFrameError(f"a message cannot be read: {error}") from error
        progress = min(self._read / self._count, 1.0) if self._count else None
        return RawFrame(lambda: image, time_ns / 1e9, progress, message.header)

    def close(self) -> None:
        """Closes the bag. See `Source.close`."""
        self._messages = iter(())
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()
