"""A signal ends the process although the main thread is in a native call, or swallows the exception."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

# A native call of minutes that releases Python's lock, as inference does.
NATIVE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
SWALLOWS = "time.sleep(60)"
# The exception may come before the call: then the call is made nevertheless.
PROGRAM = """
import hashlib, os, sys, time
from retinasdk.cli import interruption
interruption._GRACE_S = {grace_s}
interruption.install()
from retinasdk._util.temporary import temporary_folder
with temporary_folder() as folder:
    open(os.path.join(folder, "large"), "wb").close()
    said = "ready"
    while True:
        try:
            print(said, flush=True)
            {work}
        except KeyboardInterrupt:
            said = "swallowed"
"""


def start(work: str, grace_s: float, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(grace_s=grace_s, work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(list(folder.iterdir())) == 1
    return process


@pytest.mark.parametrize("work", [NATIVE, SWALLOWS])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_does_not_end_is_ended(tmp_path: Path, work: str, number: signal.Signals, status: int) -> None:
    with start(work, 0.2, tmp_path) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert (process.returncode, err) == (status, f"retinasdk: stopped by {name}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    with start(SWALLOWS, 3600, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "swallowed\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "retinasdk: stopped by Ctrl-C\n")
    assert list(tmp_path.iterdir()) == []


def test_what_the_shell_ignores_stays_ignored() -> None:
    program = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from retinasdk.cli import interruption
interruption.install()
signal.raise_signal(signal.SIGINT)
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, interruption.received())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("True None\n", "")
