"""Errors of live imagery."""

from retinasdk.errors import RetinaSdkError


class StreamError(RetinaSdkError):
    """A source of frames cannot be opened, is lost for good, or the detector fails on frame after frame."""


class CorruptFrameError(RetinaSdkError):
    """One frame of a source cannot be decoded; the source itself goes on. Sources raise it, streams count it."""
