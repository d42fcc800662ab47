"""After the first calls, a detector takes no more memory from the system: buffers are used again."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

import retinasdk

resource = pytest.importorskip("resource", reason="counts page faults, which needs Linux or macOS")
_WARM, _CALLS = 6, 21


def faults() -> int:
    """How many pages this process has been given so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_most_calls_get_no_new_page() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    counts = []
    with retinasdk.Detector("people", device="cpu", threads=1) as detector:
        for _ in range(_WARM + _CALLS):
            before = faults()
            detector(photo)
            counts.append(faults() - before)
    # Its input alone has 1,400 pages. Now and then Python or the allocator asks for some.
    assert statistics.median(counts[_WARM:]) == 0, counts
