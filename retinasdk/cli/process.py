"""The process of a command: its signals, its standard error, and its exit status."""

from __future__ import annotations

from types import TracebackType

from retinasdk.cli import interruption


def run() -> None:
    """Runs the command that the words of this process ask for, and ends the process. The entry point of `retinasdk`."""
    status = 1
    try:
        interruption.install()  # first: imports take a part of a second
        status = _main()
    except BaseException:
        # An interrupted import may raise anything.
        if interruption.received() is None:
            raise
    _end(status)


def _main() -> int:
    import logging
    import sys
    import threading

    from retinasdk.cli import foreign_output

    # What else fails while the process ends is of no interest.
    sys.excepthook = _print_bug
    sys.unraisablehook = interruption.unless_interrupted(sys.unraisablehook)
    threading.excepthook = interruption.unless_interrupted(threading.excepthook)
    if not foreign_output.is_wanted():
        foreign_output.silence()

    from retinasdk.cli.main import main
    from retinasdk.cli.output import LogHandler

    logging.getLogger("retinasdk").addHandler(LogHandler())
    return main()


def _print_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import sys
    import traceback

    from retinasdk._util.addresses import without_passwords

    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(without_passwords(text, sys.argv[1:]))


def _end(status: int) -> None:
    import contextlib
    import os
    import sys

    if interruption.received() is None:
        sys.exit(status)
    status = interruption.tell()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)  # Threads that are still in native calls would disturb an orderly exit.
