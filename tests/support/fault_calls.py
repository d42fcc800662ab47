"""What fault loops run besides the command: the same commands over stand-ins for a GPU, and functions of the package."""

from __future__ import annotations

from pathlib import Path

from fakes import fake_gpu
from pictures import blocks

from retinasdk import Detector, ModelSpec
from retinasdk.cli.main import main


def over_stand_ins(words: list[str]) -> int:
    """Runs the command with a GPU. What a failed run keeps in a traceback is not looked at here."""
    with fake_gpu():
        return main(words)


def detect_with_cached_engine(model: str) -> None:
    """Opens a detector on the GPU, which builds the engine into the cache, and runs it."""
    with fake_gpu(), Detector(model, device="cuda", precision="fp32") as detector:
        assert len(detector(blocks())) > 0


def save_detections(model: str, picture: str) -> None:
    """Saves the drawn picture."""
    with Detector(model, device="cpu", threads=1) as detector:
        detector(blocks()).save(picture)


def save_spec(model: str, spec: str) -> None:
    """Saves a spec."""
    ModelSpec.load(Path(model).with_suffix(".json")).save(spec)
