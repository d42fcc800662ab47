"""Errors that are not about an argument's type or value (those are `TypeError` and `ValueError`)."""


class RetinaSdkError(Exception):
    """Base of every error that only this package raises."""


class MissingDependencyError(RetinaSdkError, ImportError):
    """An optional package is needed for what was asked; the message names the command that installs it."""


class ModelError(RetinaSdkError):
    """A model file or its spec cannot be read, is no RetinaNet of a known kind, or the two do not fit together."""


class ImageError(RetinaSdkError):
    """An image file cannot be read, or is of a kind that is not supported."""


class DeviceError(RetinaSdkError):
    """The device that was asked for is not there, or failed."""
