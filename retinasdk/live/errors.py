"""Errors of live streams."""

from retinasdk.errors import RetinaSdkError


class StreamError(RetinaSdkError):
    """A source cannot be opened, is lost for good, or the detector failed on too many frames in a row."""


class CorruptFrameError(RetinaSdkError):
    """One frame of a source cannot be decoded, but the source itself continues.

    A `Source` raises it from `read`. The stream counts the frame as failed and reads the next one.
    """
