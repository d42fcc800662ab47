"""Fixtures of the Python tests: a tiny random RetinaNet on small inputs, pictures, and a way to run programs."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Before any test imports ONNX Runtime by itself: tests look up no host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# On a busy machine every command takes longer than two seconds. The tests of progress turn it on again.
os.environ["RETINASDK_PROGRESS"] = "0"
# Which convolutions are used does not depend on what else runs. The tests of measuring turn it on again.
os.environ["RETINASDK_TUNE"] = "0"

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import settings
from onnx import numpy_helper
from pictures import LABELS, Image, blocks
from random_retinanet import random_retinanet

from retinasdk import Detector, ModelSpec, Resize


# Threads that wait by spinning take the time of the tests beside them.
class _WithoutSpinning(onnxruntime.SessionOptions):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.add_session_config_entry("session.intra_op.allow_spinning", "0")


onnxruntime.SessionOptions = _WithoutSpinning

# A busy machine is no failure.
settings.register_profile("retinasdk", deadline=None)
settings.load_profile("retinasdk")


def pytest_collection_finish() -> None:
    """Excludes modules and collected tests from later garbage collections, because they live until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image]:
    """picture(height, width, seed) makes RGB uint8 (height, width, 3)."""
    return blocks


@pytest.fixture(scope="session")
def network() -> onnx.ModelProto:
    """The tiny network itself, its deltas made small so that boxes lie near anchors; copy it before changing it."""
    model = random_retinanet(classes=len(LABELS))[0]
    last = {node.input[1] for node in model.graph.node if node.output[0].startswith("deltas_")}
    for tensor in model.graph.initializer:
        if tensor.name in last:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.05), tensor.name))
    return model


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    """The tiny network's: labels person, chair, dog; the shorter side becomes 128; scores above 0.25."""
    spec = random_retinanet(classes=len(LABELS))[1]
    return spec.replace(labels=LABELS, resize=Resize("shortest", (128, 224)), score_threshold=0.25)


@pytest.fixture(scope="session")
def model_path(network: onnx.ModelProto, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network's ONNX file with its spec beside it."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(network, str(path))
    spec.save(path.with_suffix(".json"))
    return path


@pytest.fixture(scope="session")
def detector(model_path: Path) -> Detector:
    """Shared by all tests: never close it."""
    return Detector(model_path, threads=1)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_python(arguments) runs this Python in an empty folder, warnings as errors, and gives what it said."""

    def run(arguments: Sequence[str | Path], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """SIGINT raises KeyboardInterrupt, here and in child processes; in the background of a shell it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
