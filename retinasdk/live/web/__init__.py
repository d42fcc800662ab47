"""A stream in the browser: `Preview`."""

from retinasdk.live.web.preview import Preview

__all__ = ["Preview"]
