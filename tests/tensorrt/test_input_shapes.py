"""Inputs at the limits of an engine's profile, and beyond them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine

from retinasdk import Detector, ModelSpec


def test_fewer_images_than_the_engine_accepts(model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """The batch is filled with copies, whose heads are dropped."""
    tensor = np.random.default_rng(3).normal(size=(3, 3, 64, 96)).astype(np.float32)
    small = save_engine(tmp_path / "small.engine", model_path, spec)
    large = save_engine(tmp_path / "large.engine", model_path, spec, smallest=(4, 3, 1, 1))
    with fake_gpu(), Detector(small, device="cuda") as one, Detector(large, device="cuda") as filled:
        for count in (1, 2, 3):
            wanted, found = one._backend.infer(tensor[:count]), filled._backend.infer(tensor[:count])
            for mine, theirs in zip([*found.logits, *found.deltas], [*wanted.logits, *wanted.deltas], strict=True):
                assert mine.shape[0] == count
                np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


def test_more_images_than_the_engine_accepts(model_path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec, largest=(2, 3, 128, 128))
    message = r"tiny\.engine accepts inputs from \(1, 3, 1, 1\) to \(2, 3, 128, 128\).*but got \(3, 3, 64, 96\)"
    with (
        fake_gpu(),
        Detector(engine, device="cuda") as detector,
        pytest.raises(ValueError, match=message),
    ):
        detector._backend.infer(np.zeros((3, 3, 64, 96), np.float32))
