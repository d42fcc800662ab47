"""Ctrl-C and SIGTERM: a command ends within two seconds, whatever it is doing, and says so in one line.

Note: How a command ends

    The first signal raises KeyboardInterrupt in the main thread. The command then ends in order: `with` statements
    close its files, temporary files are removed, and a summary may be printed.

    Python raises the exception only between two steps of its own. A call of a native library may take longer: the
    inference of a large network, the build of an engine, a connection to a silent camera. So a thread waits for the
    same signal, which the system's handler writes into a socket at once. If the process is still there after
    `_GRACE_S`, or if a second signal comes, the thread removes the temporary folders and ends the process with
    `os._exit`. What is then on the disk is what SIGKILL would leave, and every writer of this package is made for that:
    files are replaced in one step, lines are written whole, and video is written in fragments.

    A library that holds Python's global lock for seconds keeps the thread waiting as well. ONNX Runtime, TensorRT,
    FFmpeg and OpenCV release it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_GRACE_S = 1.5
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class _State:
    """What has happened in this process.

    Attributes:
        received: The number of the first signal, or None.
        is_told: Whether the user was told.
    """

    received: int | None = None
    is_told = False


def install() -> None:
    """Handles SIGINT and SIGTERM in this process. Called once, in the main thread, before anything else is imported.

    A signal that the parent process has set to be ignored, as `nohup` and shell scripts do, stays ignored.
    """
    for number in _NAMES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    _start_watchdog()


def received() -> int | None:
    """Returns the number of the signal that ends this process, or None."""
    return _State.received


def tell() -> int:
    """Prints the line that the user sees, once.

    Returns:
        The exit status that a shell reports for a program that was ended by the signal: 130 or 143.
    """
    number = _State.received or signal.SIGINT
    line = f"retinasdk: stopped by {_NAMES[signal.Signals(number)]}\n"
    if _State.received is None:  # Ctrl-C in a process that is not the command's own.
        sys.stderr.write(line)
    elif not _State.is_told:
        _State.is_told = True
        with contextlib.suppress(OSError, ValueError):
            # Not `print`: another thread may hold the lock of the stream for ever.
            os.write(sys.stderr.fileno(), line.encode())
    return 128 + number


def unless_interrupted(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a hook for exceptions that is silent once a signal has come: what then fails in passing is no news."""

    def quiet(arguments: Any) -> None:
        if _State.received is None:
            hook(arguments)

    return quiet


def _handle(number: int, _: object) -> None:
    if _State.received is None:
        _State.received = number
        raise KeyboardInterrupt


def _start_watchdog() -> None:
    import socket
    import threading

    # The watchdog itself must not import: the main thread may hang while it holds the lock of an import.
    from retinasdk._util.temporary import remove_folders

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(ours, remove_folders), name="retinasdk signals", daemon=True).start()


def _watch(connection: Any, remove_folders: Callable[[], None]) -> None:
    number = _next_signal(connection)
    connection.settimeout(_GRACE_S)
    with contextlib.suppress(TimeoutError):
        _next_signal(connection)
    _end_now(number, remove_folders)


def _next_signal(connection: Any) -> int:
    number = 0
    while number not in _NAMES:
        number = connection.recv(1)[0]
    return number


def _end_now(number: int, remove_folders: Callable[[], None]) -> None:
    _State.received = _State.received or number
    status = tell()
    remove_folders()
    os._exit(status)
