"""The cache of measured times."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from retinasdk.backends.tuning import Times, TuningKey, keep_times, kept_times

KEY = TuningKey("abc", "Some CPU", "avx2 fma", "avx2", 2, "1.32.0", "0.1.0", 640, 768)
OURS, THEIRS = Times(100.0, 60.0, 640, 768), Times(100.0, 98.0, 640, 768)


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("convolution-*.json")
    return path


def test_times_are_kept(cache: Path) -> None:
    assert kept_times(KEY) is None
    assert keep_times(KEY, OURS) == OURS
    assert kept_times(KEY) == OURS
    assert [path.name for path in cache.iterdir()] == [the_file(cache).name]  # no lock, no temporary file


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TuningKey)])
def test_every_part_of_the_key_counts(cache: Path, field: str) -> None:
    keep_times(KEY, OURS)
    value = getattr(KEY, field)
    other = dataclasses.replace(KEY, **{field: value + 1 if isinstance(value, int) else f"{value} other"})
    assert kept_times(other) is None
    keep_times(other, THEIRS)
    assert (kept_times(KEY), kept_times(other)) == (OURS, THEIRS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"format": 1, "key": {}, "times": {"direct": 1, "blocked": 1, "height": 1, "width": 1}}',
    ],
)
def test_broken_files_are_replaced(cache: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retinasdk")
    keep_times(KEY, OURS)
    the_file(cache).write_bytes(content)
    assert kept_times(KEY) is None
    assert caplog.messages == [f"{the_file(cache)} is damaged, so convolutions are measured again"]
    assert keep_times(KEY, THEIRS) == THEIRS
    assert kept_times(KEY) == THEIRS


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "0", '"1"', "null", "true", "[1]"])
@pytest.mark.parametrize("name", ["direct", "blocked", "height"])
def test_broken_times_are_replaced(cache: Path, name: str, value: str) -> None:
    keep_times(KEY, OURS)
    content = json.loads(the_file(cache).read_text())
    content["times"][name] = "HERE"
    the_file(cache).write_text(json.dumps(content).replace('"HERE"', value))
    assert kept_times(KEY) is None


def test_file_of_another_format_or_key(cache: Path) -> None:
    keep_times(KEY, OURS)
    text = the_file(cache).read_text()
    the_file(cache).write_text(text.replace('"format": 1', '"format": 2'))
    assert kept_times(KEY) is None
    the_file(cache).write_text(text.replace("Some CPU", "Other CPU"))
    assert kept_times(KEY) is None
    the_file(cache).write_text(text)
    assert kept_times(KEY) == OURS


def test_what_cannot_be_written(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_times(KEY, OURS)
    path = the_file(cache)
    path.unlink()
    path.mkdir()
    assert kept_times(KEY) is None
    assert keep_times(KEY, THEIRS) == THEIRS
    (message,) = caplog.messages
    assert message.startswith("Measured times of convolutions cannot be kept (")
    assert "so the next process measures again. Set RETINASDK_CACHE to a private folder" in message


def test_times_of_another_process_count(cache: Path) -> None:
    """A process that has measured takes the times that another one has written meanwhile."""
    assert keep_times(KEY, OURS) == OURS
    assert keep_times(KEY, THEIRS) == OURS
    assert kept_times(KEY) == OURS


def test_many_processes_at_once(cache: Path) -> None:
    program = (
        "import sys; from retinasdk.backends.tuning import *; from retinasdk.backends.tuning import _path\n"
        f"key, number = {KEY!r}, float(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    keep_times(key, Times(number, number, 640, 768))\n"
        "    times = kept_times(key)\n"
        "    assert times is None or times.direct == times.blocked\n"
        "    _path(key).unlink(missing_ok=True)\n"  # They write only if no other one has.
        "keep_times(key, Times(number, number, 640, 768))\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(1, 4)]
    assert [process.wait() for process in started] == [0, 0, 0]
    times = kept_times(KEY)
    assert times is not None
    assert times.direct == times.blocked
    assert times.direct in (1, 2, 3)
    assert [path.name for path in cache.iterdir()] == [the_file(cache).name]
