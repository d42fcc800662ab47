"""`PatientCapture`: OpenCV's reader, whose calls may never return, with a limit on how long it is waited for."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from retinasdk.live.errors import StreamError

_Calls = queue.SimpleQueue["tuple[str, Future[Any]] | None"]


class PatientCapture:
    """A `cv2.VideoCapture` in a thread of its own, which is given up if it does not return in time.

    A call that hangs cannot be interrupted. Its thread is left behind, and does not keep the program from ending. If
    the call ever returns, the capture is released.

    Args:
        make: Makes the capture. It is called in the thread.
        timeout_s: How long each call may take, in seconds.

    Raises:
        StreamError: From each method, if the call did not return in time.
    """

    def __init__(self, make: Callable[[], Any], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ended = False
        self._calls: _Calls = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(make, self._calls), name="retinasdk OpenCV", daemon=True).start()

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Returns whether the capture could be opened."""
        return bool(self._wait(self._submit("isOpened"), "opened the source"))

    def read(self) -> Any:
        """Returns whether there is a next frame, and the frame."""
        return self._wait(self._submit("read"), "delivered a frame")

    def release(self) -> None:
        """Releases the capture and ends the thread. It may be called twice, and after a call that hung."""
        if not self._ended:
            self._wait(self._end(), "released the source")

    def _submit(self, method: str) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((method, future))
        return future

    def _end(self) -> Future[Any]:
        self._ended = True
        released = self._submit("release")
        self._calls.put(None)
        return released

    def _wait(self, future: Future[Any], done: str) -> Any:
        try:
            return future.result(self._timeout_s)
        except concurrent.futures.TimeoutError:
            if not self._ended:
                self._end()
            raise StreamError(
                f"OpenCV has not {done} within {self._timeout_s:g} s and is given up; "
                "if the source needs longer, raise timeout_s"
            ) from None


def _serve(make: Callable[[], Any], calls: _Calls) -> None:
    capture: Any = None
    while (call := calls.get()) is not None:
        method, future = call
        try:
            if capture is None and method != "release":  # What could not be made needs no release.
                capture = make()
            future.set_result(None if capture is None else getattr(capture, method)())
        except Exception as error:
            future.set_exception(error)
