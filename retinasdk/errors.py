"""Exceptions of this package. Wrong arguments raise `TypeError` and `ValueError` instead."""


class RetinaSdkError(Exception):
    """Is the base class of all exceptions that this package defines."""


class MissingDependencyError(RetinaSdkError, ImportError):
    """Says that an optional package is missing. The message gives the command that installs it."""


class ModelError(RetinaSdkError):
    """Says that a model file or its spec cannot be read, is not supported, or that the two do not match."""


class ImageError(RetinaSdkError):
    """Says that an image cannot be read, or that its format is not supported."""


class DeviceError(RetinaSdkError):
    """Says that the requested device is not available or failed."""


class ClosedError(DeviceError):
    """Says that a `Detector` cannot be used any more: it was closed, or made before its process was forked."""
