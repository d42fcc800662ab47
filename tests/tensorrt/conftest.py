"""Fixtures of the tests that run over stand-ins for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeGpu, fake_gpu
from fakes.tensorrt import save_engine

from retinasdk import ModelSpec


@pytest.fixture(scope="module")
def engine(model_path: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the tiny network for inputs of any size."""
    return save_engine(tmp_path_factory.mktemp("engine") / "tiny.engine", model_path, spec)


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    """A GPU with pycuda and TensorRT 10, which must be clean at the end of the test."""
    with fake_gpu() as gpu:
        yield gpu
