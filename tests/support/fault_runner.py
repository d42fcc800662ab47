"""Runs calls in forked copies of itself, in which chosen calls of the system fail (faults.c), and says how each ended.

It is started by `FaultRunner` (fault_loop.py) and reads one request a line. A fork takes milliseconds, because
everything is imported already: after the first run of each call, its imports are repeated here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

_FAULTS = ctypes.CDLL(None)  # The library is preloaded.
_FAULTS.faults_failed.restype = ctypes.c_char_p
for _name in ("faults_calls", "faults_allocations"):
    getattr(_FAULTS, _name).restype = ctypes.c_long
_MODES = ("count", "no space", "broken", "kill")
_TIMEOUT_S = 600.0  # of a process that hangs; on a busy machine a command takes minutes


def main() -> None:
    """Answers requests until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = _answer(request)
        print(json.dumps(answer), flush=True)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    _FAULTS.faults_reset()
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(request)
    status, is_late = _wait(child, begin, request.get("kill_after_s"))
    answer = {
        "status": os.waitstatus_to_exitcode(status),
        "hung": is_late,
        "seconds": time.monotonic() - begin,
        "calls": _FAULTS.faults_calls(),
        "allocations": _FAULTS.faults_allocations(),
        "failed": _FAULTS.faults_failed().decode(),
    }
    if request.get("warm"):
        with open(request["modules"]) as file:
            for name in file.read().split():
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
    return answer


def _wait(child: int, begin: float, kill_after_s: float | None) -> tuple[int, bool]:
    is_late = False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status, is_late
        seconds = time.monotonic() - begin
        is_late = seconds > _TIMEOUT_S
        if is_late or (kill_after_s is not None and seconds >= kill_after_s):
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], is_late
        time.sleep(0.001)


def _run(request: dict[str, Any]) -> None:
    """Runs the call and ends this process, which is a fork."""
    status = 99
    try:
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, descriptor)
        module, function = request["call"].split(":")
        call = getattr(importlib.import_module(module), function)
        if "files" in request:
            mode, first, last = request["files"]
            _FAULTS.faults_in_files(
                request["below"].encode(), _MODES.index(mode), ctypes.c_long(first), ctypes.c_long(last)
            )
        if "memory" in request:
            size, first, last = request["memory"]
            _FAULTS.faults_in_memory(ctypes.c_size_t(size), ctypes.c_long(first), ctypes.c_long(last))
        result = call(*request["arguments"])
        _FAULTS.faults_in_memory(ctypes.c_size_t(0), ctypes.c_long(0), ctypes.c_long(0))
        status = result if isinstance(result, int) else 0
        sys.stdout.flush()
        if request.get("warm"):
            with open(request["modules"], "w") as file:
                file.write("\n".join(sys.modules))
    except BaseException:
        _FAULTS.faults_in_memory(ctypes.c_size_t(0), ctypes.c_long(0), ctypes.c_long(0))
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
