"""The GStreamer element `retinadetect`, which detects objects in the frames of a pipeline.

`retinasdk gstreamer install` makes it known to `gst-launch-1.0` and to every other program. A program in Python may
register it for itself:

    import gi  # type: ignore[import-not-found]  # of the distribution
    gi.require_version("Gst", "1.0")
    from gi.repository import Gst  # type: ignore[import-not-found]
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

from retinasdk.errors import MissingDependencyError


def register() -> None:
    """Makes the element `retinadetect` known to this process.

    Call it after `Gst.init`. Calling it again does nothing.

    Raises:
        MissingDependencyError: If Python's bindings of GStreamer are missing.
    """
    try:
        import gi  # type: ignore[import-not-found]  # of the distribution

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst  # type: ignore[import-not-found]
    except (ImportError, ValueError) as error:
        raise MissingDependencyError(
            f"the GStreamer element needs Python's bindings of GStreamer, which cannot be imported ({error}); install "
            "them: apt install python3-gi python3-gst-1.0, and make the environment of your program with: "
            "python3 -m venv --system-site-packages"
        ) from error
    if Gst.ElementFactory.find("retinadetect") is None:  # GStreamer's loader may know it already.
        from retinasdk.live.gstreamer import element

        Gst.Element.register(None, element.NAME, Gst.Rank.NONE, element.RetinaDetect)


__all__ = ["register"]
