"""What fault loops run besides the command: the command over stand-ins for a GPU, and functions of the package."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes import fake_gpu
from pictures import blocks

from retinasdk import Detector, ModelSpec, RetinaSdkError
from retinasdk.cli.main import main


def _as_command(function: Callable[..., None]) -> Callable[..., int]:
    """Turns the errors that are documented into the exit status 2."""

    @functools.wraps(function)
    def call(*arguments: Any) -> int:
        try:
            function(*arguments)
        except (RetinaSdkError, OSError, MemoryError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        return 0

    return call


def over_stand_ins(words: list[str]) -> int:
    """Runs the command with a GPU. What a failed run keeps in a traceback is not looked at here."""
    with fake_gpu():
        return main(words)


@_as_command
def detect_with_cached_engine(model: str) -> None:
    """Opens a detector on the GPU, which builds the engine into the cache, and runs it."""
    with fake_gpu(), Detector(model, device="cuda", precision="fp32") as detector:
        assert len(detector(blocks())) > 0


@_as_command
def save_detections(model: str, picture: str) -> None:
    """Saves the drawn picture."""
    with Detector(model, device="cpu", threads=1) as detector:
        detector(blocks()).save(picture)


@_as_command
def save_spec(model: str, spec: str) -> None:
    """Saves a spec."""
    ModelSpec.load(Path(model).with_suffix(".json")).save(spec)
