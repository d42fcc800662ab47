"""The models and photos of the table of CPU speeds, each in a folder, so that all processes read the same files.

A folder holds model.onnx with its spec, photo.npy (what a `Detector` is called with), input.npy (what its network gets
from that photo) and case.json (names of the input and of the outputs).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retinasdk import ModelSpec, quantize_onnx
from retinasdk.images import as_rgb
from retinasdk.models import find_model
from retinasdk.onnx_graph.calibration import network_inputs
from retinasdk.onnx_graph.model_file import find_spec
from retinasdk.onnx_graph.network import Network, prepared
from retinasdk.onnx_graph.ranges import observe
from retinasdk.quantization.writing import quantized

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "examples" / "photos" / "people"
_RESNET50_PHOTO = (384, 512)  # Height and width of the photo for ResNet-50.
_PRIOR = 0.0005  # Scores around which random ones lie, so that some dozens to hundreds of boxes are found.


@dataclass(frozen=True)
class Case:
    """A model in a folder.

    Attributes:
        name: One of `CASES`.
        title: For people.
        size: Height and width of the network's input.
        folder: Where its files are.
        in_float: Whether it is in float32, and not in 8 bits.
    """

    name: str
    title: str
    size: tuple[int, int]
    folder: Path
    in_float: bool


@dataclass(frozen=True)
class _Maker:
    title: str
    size: tuple[int, int]
    photo: tuple[int, int]  # Height and width to which the photo is cropped, so that the input gets that size.
    write: Callable[[Path], object]
    in_float: bool = True


def _resnet50() -> tuple[Any, ModelSpec]:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from random_retinanet import random_retinanet

    return random_retinanet("resnet50", classes=91, prior=_PRIOR)


def _write_resnet50(path: Path) -> None:
    model, spec = _resnet50()
    path.write_bytes(model.SerializeToString())
    spec.save(path.with_suffix(".json"))


def _write_resnet50_int8(path: Path) -> None:
    # `retinasdk quantize` would try for many minutes which layers lose the least. Here all but the last are in 8 bits.
    model, spec = _resnet50()
    network = Network(prepared(model))
    observed = observe(network, network_inputs([_photo(_RESNET50_PHOTO)], spec))
    in_codes = quantized(network, network.layers.keys() - network.last, observed.ranges)
    path.write_bytes(in_codes.SerializeToString())
    spec.save(path.with_suffix(".json"))


def _write_people(path: Path) -> None:
    bundled = find_model("people")
    shutil.copy2(bundled, path)
    shutil.copy2(bundled.with_suffix(".json"), path.with_suffix(".json"))


def _write_people_int8(path: Path) -> None:
    # Two photos are enough to choose ranges for a measurement of speed, and too few to judge the accuracy.
    quantize_onnx("people", path, PHOTOS, sweep_images=1, min_agreement=0.0)


def _photo(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A part of a photo, as (height, width, 3) RGB."""
    return np.ascontiguousarray(as_rgb(PHOTOS / "grace_hopper.jpg")[: size[0], : size[1]])


_MAKERS = {
    "resnet50": _Maker("ResNet-50-FPN, random weights, 91 classes", (800, 1088), _RESNET50_PHOTO, _write_resnet50),
    "resnet50-int8": _Maker(
        "ResNet-50-FPN, 8 bits", (800, 1088), _RESNET50_PHOTO, _write_resnet50_int8, in_float=False
    ),
    "people": _Maker("`people`, float32", (512, 768), (341, 512), _write_people),
    "people-int8": _Maker("`people`, 8 bits", (512, 768), (341, 512), _write_people_int8, in_float=False),
}
CASES = tuple(_MAKERS)


def write_case(name: str, folder: Path) -> Case:
    """Writes the files of a case.

    Args:
        name: One of `CASES`.
        folder: An empty folder for all cases; the case gets a folder of its own there.
    """
    maker = _MAKERS[name]
    path = folder / name / "model.onnx"
    path.parent.mkdir()
    maker.write(path)
    spec = find_spec(path, {})
    write_inputs(path.parent, _photo(maker.photo), spec)
    found = np.load(path.parent / "input.npy").shape[2:]
    if found != maker.size:
        raise ValueError(f"{name}: the network's input is {found}; expected {maker.size}; change the size of the photo")
    return Case(name, maker.title, maker.size, path.parent, maker.in_float)


def write_inputs(folder: Path, photo: npt.NDArray[np.uint8], spec: ModelSpec) -> None:
    """Writes photo.npy, input.npy and case.json."""
    (tensor,) = network_inputs([photo], spec)
    np.save(folder / "photo.npy", photo)
    np.save(folder / "input.npy", tensor)
    outputs = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
    (folder / "case.json").write_text(json.dumps({"input": spec.input, "outputs": outputs}), encoding="utf-8")
