"""Detection in live and recorded video with bounded latency.

The entry point is `stream`, which is also `retinasdk.stream`:

    for frame in retinasdk.live.stream("rtsp://camera/live", detector):
        print(frame.index, len(frame.detections))
"""

from retinasdk.live.clock import Clock
from retinasdk.live.errors import CorruptFrameError, StreamError
from retinasdk.live.frame import Counters, Frame
from retinasdk.live.load import Bottleneck, Load
from retinasdk.live.metrics import Histogram, Metrics
from retinasdk.live.policies import Policy, bounded, every, latest
from retinasdk.live.reconnect import Reconnect, StateChange
from retinasdk.live.sources import (
    Animation,
    Arrays,
    Camera,
    Folder,
    NvdecVideo,
    Pipeline,
    RawFrame,
    RosBag,
    Source,
    Video,
)
from retinasdk.live.streaming import Stream, stream
from retinasdk.live.tracking import ByteTrack, Tracker

__all__ = [
    "Animation",
    "Arrays",
    "Bottleneck",
    "ByteTrack",
    "Camera",
    "Clock",
    "CorruptFrameError",
    "Counters",
    "Folder",
    "Frame",
    "Histogram",
    "Load",
    "Metrics",
    "NvdecVideo",
    "Pipeline",
    "Policy",
    "RawFrame",
    "Reconnect",
    "RosBag",
    "Source",
    "StateChange",
    "Stream",
    "StreamError",
    "Tracker",
    "Video",
    "bounded",
    "every",
    "latest",
    "stream",
]
