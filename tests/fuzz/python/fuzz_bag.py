"""Fuzzes the folders of ROS 2 bags: metadata.yaml, and the bytes of the SQLite file.

The input is metadata.yaml up to a zero byte. Behind it, each three bytes change one byte of a small bag's SQLite file.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import harness
import numpy as np

with harness.instrumented(__name__ == "__main__", "rosbags"):
    import rosbags.highlevel
    import rosbags.rosbag2  # noqa: F401  # Here, so that both are instrumented.

    from retinasdk import stream
    from retinasdk.live.errors import StreamError
    from retinasdk.live.ros import PICTURE_TYPES, typestore
    from retinasdk.live.sources.rosbag import RosBag


@functools.cache
def small_bag() -> tuple[bytes, bytes]:
    """Returns metadata.yaml and the SQLite file of a bag with two images of 4 x 5 pixels."""
    from rosbags.rosbag2 import Writer

    store = typestore()
    header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](0, 0), "camera")
    image = store.types[PICTURE_TYPES[0]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        with Writer(path, version=9) as writer:
            topic = writer.add_connection("/camera", PICTURE_TYPES[0], typestore=store)
            for number in range(2):
                message = image(header, 4, 5, "rgb8", 0, 15, np.full(60, number, np.uint8))
                writer.write(topic, 10**9 + number, store.serialize_cdr(message, PICTURE_TYPES[0]))
        return (path / "metadata.yaml").read_bytes(), next(path.glob("*.db3")).read_bytes()


def one_input(data: bytes) -> None:
    metadata, _, changes = data.partition(b"\0")
    content = bytearray(small_bag()[1])
    for at in range(0, len(changes) - 2, 3):
        content[int.from_bytes(changes[at : at + 2], "big") % len(content)] = changes[at + 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with harness.folder_with(metadata_yaml=metadata or small_bag()[0], bag_db3=bytes(content)) as folder:
            _read(folder)


def _read(folder: Path) -> None:
    with harness.documented(StreamError), stream(RosBag(folder), _find_nothing, policy="all") as frames:
        for _ in frames:
            pass


def _find_nothing(image: Any) -> Any:
    return []


if __name__ == "__main__":
    harness.fuzz(one_input)
