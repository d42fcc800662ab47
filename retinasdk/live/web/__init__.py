"""`Preview`, which shows a stream in web browsers."""

from retinasdk.live.web.preview import Preview

__all__ = ["Preview"]
