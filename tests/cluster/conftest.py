"""A Ray cluster of two cores on this machine, shared by the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import SUPPORT

import retinasdk


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """The module ray, connected."""
    ray = pytest.importorskip("ray")
    before = dict(os.environ)
    # Workers import the package that is tested, installed or not, and tests/support.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(retinasdk.__file__).parents[1]), str(SUPPORT)])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=2**27,
    )
    yield ray
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)
