"""Keeps other libraries off the terminal: OpenCV, FFmpeg, GStreamer, ONNX Runtime and their drivers."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import warnings

VARIABLE = "RETINASDK_VERBOSE"


def is_wanted() -> bool:
    """Whether the user asked for the messages of other libraries, by `--verbose` or the environment variable."""
    return "--verbose" in sys.argv[1:] or os.environ.get(VARIABLE, "0") not in ("", "0")


def silence() -> None:
    """Discards what other libraries write to standard error, in this process.

    Native libraries write to file descriptor 2. It is redirected to the null device, and `sys.stderr` gets a descriptor
    of its own. If the process crashes in native code, Python's fault handler still reports it there. Warnings are
    discarded unless Python was told to show them, and so are log records of other packages.
    """
    own = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    sys.stderr = open(  # noqa: SIM115 (open until the process ends)
        own, "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1
    )
    faulthandler.enable(sys.stderr)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
