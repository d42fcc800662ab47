"""The GStreamer element `retinadetect`, which detects objects in the frames of a pipeline.

`retinasdk gstreamer install` makes it known to `gst-launch-1.0` and to every other program. A program in Python may
register it for itself:

    import gi
    gi.require_version("Gst", "1.0")
    from gi.repository import Gst
    from retinasdk.live import gstreamer

    Gst.init(None)
    gstreamer.register()
    pipeline = Gst.parse_launch("videotestsrc ! videoconvert ! retinadetect model=people ! fakesink")

The guide lists properties, metadata and messages. The modules of this package:

- `element.py`: the element. GStreamer's loader runs it by its path, so it imports nothing of retinasdk until it starts.
- `frames.py`: reads pixels from mapped memory.
- `results.py`: writes detections into metadata and messages.
- `install.py`: writes the file that GStreamer's loader looks for.
"""

from __future__ import annotations

from retinasdk._util.lazy import require

_PURPOSE = "the GStreamer element"
_PACKAGES = (
    "Python's bindings of GStreamer, which come with the distribution: apt install python3-gi python3-gst-1.0, and an "
    "environment made with: python3 -m venv --system-site-packages"
)


def register() -> None:
    """Makes the element `retinadetect` known to this process.

    Call it after `Gst.init`. Calling it again does nothing.

    Raises:
        MissingDependencyError: If Python's bindings of GStreamer are missing.
    """
    require("gi", _PURPOSE, package=_PACKAGES)
    from retinasdk.live.gstreamer import element

    element.register()


__all__ = ["register"]
