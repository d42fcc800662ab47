"""Photos and models for the benchmarks, made on the spot where none is given."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

import retinasdk
from retinasdk.images import as_rgb


def size(text: str) -> tuple[int, int]:
    """(height, width) of "480x640"; for argparse."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def photo(height: int, width: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A synthetic photo, RGB uint8 (height, width, 3): soft colours, hard-edged rectangles and sensor noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / (37 + 11 * c) + c) + np.cos(y / (53 - 9 * c)) for c in range(3)]
    image = 110 + 40 * np.stack(waves, axis=-1)
    for _ in range(30):
        top, left = random.integers(0, height), random.integers(0, width)
        bottom, right = top + random.integers(1, height // 2 + 2), left + random.integers(1, width // 3 + 2)
        image[top:bottom, left:right] += random.uniform(-50, 50, 3)
    image += random.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def read_or_make(path: Path | None, made: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The image file at `path`, decoded, or a synthetic photo of size `made`."""
    return photo(*made) if path is None else as_rgb(path)


@contextmanager
def random_model(backbone: str, *, classes: int, prior: float) -> Iterator[Path]:
    """A heads-only RetinaNet with random weights, made by tests/support/random_retinanet.py; gone after the block."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
    maker = importlib.import_module("random_retinanet")
    with TemporaryDirectory() as folder:
        model, spec = maker.random_retinanet(backbone, classes=classes, prior=prior)
        path = Path(folder) / f"{backbone}.onnx"
        path.write_bytes(model.SerializeToString())
        spec.save(path.with_suffix(".json"))
        yield path


def has_bundled_model() -> bool:
    return bool(retinasdk.list_models())
