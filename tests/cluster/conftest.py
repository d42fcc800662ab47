"""A Ray cluster of two cores on this machine, shared by the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from paths import ROOT, SUPPORT


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """The module ray, connected."""
    ray = pytest.importorskip("ray")
    before = dict(os.environ)
    # Workers import the package and tests/support, as the driver does.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(SUPPORT)])
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
