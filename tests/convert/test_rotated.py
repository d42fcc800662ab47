"""Models for rotated boxes: their presets and specs, what the import takes for one, and both devices end to end."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from foreign.other_frameworks import raw_heads
from pictures import blocks
from random_retinanet import random_retinanet
from recorded_case import FOLDER, RecordedCase

import retinasdk
from retinasdk import BoxCoder, Detector, ModelError, ModelSpec, Suppression, import_onnx
from retinasdk.convert.flavours import flavour_spec, load_preset

ROTATED = ("mmrotate-le135", "mmrotate-le90", "mmrotate-oc", "odtk-rotated")
RECORDED = (("odtk-rotated", "default"), ("mmrotate", "le90"), ("mmrotate", "le135"), ("mmrotate", "oc"))


def imported(framework: str, case: str, folder: Path) -> tuple[Path, RecordedCase]:
    recording = RecordedCase.read(FOLDER / framework / f"{case}.json")
    import_onnx(FOLDER / framework / f"{case}.onnx", folder / "model.onnx", **recording.options)
    return folder / "model.onnx", recording


# -- presets and specs -------------------------------------------------------------------------------------------------


def test_anchors_of_odtk() -> None:
    """From its `generate_anchors_rotated`: 8 x 8, 6 x 12 and 11 x 6, times 4 * 2 ** (k / 3), for each angle."""
    (first, *_, last) = flavour_spec("odtk-rotated").levels
    assert len(first.base_anchors) == 27
    expected = [(8 * 4, 8 * 4), (6 * 4, 12 * 4), (11 * 4, 6 * 4)]
    for number, (width, height) in enumerate(expected):
        for turn, angle in enumerate((-math.pi / 6, 0, math.pi / 6)):
            assert first.base_anchors[9 * turn + number] == pytest.approx((4, 4, width, height, angle))
    assert last.base_anchors[1] == pytest.approx((64, 64, 91 * 4, 182 * 4, -math.pi / 6))


def test_anchors_of_odtk_at_another_stride() -> None:
    """At a fixed size that the strides do not divide, ODTK computes the anchors from the stride that results."""
    rule = load_preset("odtk-rotated").anchors
    scaled = dataclasses.replace(rule, sizes=tuple(size * 7 / 8 for size in rule.sizes))
    first = scaled.rotated(scaled.base_anchors(0, 7.0))
    for box, sides in zip(first, ((28, 28), (20, 40), (40, 20)), strict=False):
        assert box == pytest.approx((3.5, 3.5, *sides, -math.pi / 6))


def test_anchors_of_mmrotate() -> None:
    spec = flavour_spec("mmrotate-le90")
    assert spec.levels[0].base_anchors[0] == pytest.approx((0, 0, 32, 32, 0))
    assert spec.levels[0].base_anchors[3] == pytest.approx((0, 0, 32 * math.sqrt(2), 32 / math.sqrt(2), 0))
    assert spec.levels[1].stride == (16, 16)


@pytest.mark.parametrize("flavour", ROTATED)
def test_a_spec_survives_its_json(flavour: str) -> None:
    spec = flavour_spec(flavour)
    assert spec.is_rotated
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert spec.box_coder.deltas == (6 if flavour == "odtk-rotated" else 5)


def test_specs_of_upright_boxes_do_not_mention_rotation() -> None:
    content = json.loads(flavour_spec("torchvision").to_json())
    assert "nms_angle" not in content
    assert set(content["box_coder"]) == {"weights", "clamp_max", "clamp_min", "means", "kind"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": "original"}, "clip must not be 'original' for rotated boxes"),
        ({"drop_empty": "after_nms"}, "drop_empty must not be 'after_nms'"),
        ({"inclusive_pixels": True}, "inclusive_pixels must be false for the kind 'center_angle'"),
        ({"box_coder": BoxCoder()}, "base anchors must have 4 numbers for boxes of the kind 'center', got {5}"),
        ({"nms_angle": "both"}, "nms_angle must be one of"),
    ],
)
def test_contradictions(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        flavour_spec("mmrotate-le90").replace(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"angle_version": "le45"}, "angle_version must be one of"),
        ({"norm_factor": 0.0}, "norm_factor must be a number above 0 or null"),
        ({"weights": (1.0,) * 6}, "weights must be four or five numbers above 0"),
        ({"edge_swap": 1}, "edge_swap must be true or false"),
    ],
)
def test_values_of_the_coder(values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        BoxCoder(kind="center_angle", **values)  # type: ignore[arg-type]


# -- import ------------------------------------------------------------------------------------------------------------


def test_upright_heads_are_not_taken_for_rotated_ones(tmp_path: Path) -> None:
    """36 channels may be 9 anchors of 4 deltas, or 6 of 6: without a name of a framework, the former."""
    path = tmp_path / "theirs.onnx"
    path.write_bytes(raw_heads()[0].SerializeToString())
    with pytest.raises(ModelError) as error:
        import_onnx(path, tmp_path / "model.onnx")
    assert "the box head has 4 channels for each of 9 anchors" in str(error.value)
    assert not any(name in str(error.value) for name in ("mmrotate", "odtk-rotated"))
    report = import_onnx(path, tmp_path / "model.onnx", flavour="mmdet")
    assert not report.spec.is_rotated
    for flavour in ROTATED:
        with pytest.raises(ModelError):
            import_onnx(path, tmp_path / "other.onnx", flavour=flavour)


@pytest.mark.parametrize(("framework", "case"), RECORDED)
def test_rotated_heads_are_not_taken_for_upright_ones(framework: str, case: str, tmp_path: Path) -> None:
    path = FOLDER / framework / f"{case}.onnx"
    """The class head of the models of mmrotate has 36 channels, so they alone would allow 9 anchors of 4 deltas."""
    with pytest.raises(ModelError, match=r"the box head has 5 channels|It follows the rules of odtk-rotated"):
        import_onnx(path, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"says the reverse|no number of anchors A fits these"):
        import_onnx(path, tmp_path / "model.onnx", flavour="mmdet")


def test_the_deltas_alone_tell_odtk(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="It follows the rules of odtk-rotated") as error:
        import_onnx(FOLDER / "odtk-rotated" / "default.onnx", tmp_path / "model.onnx")
    assert "--flavour odtk-rotated" in str(error.value)


def test_mmrotate_asks_for_the_angle_version(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        import_onnx(FOLDER / "mmrotate" / "le90.onnx", tmp_path / "model.onnx")
    assert all(name in str(error.value) for name in ROTATED[:3])


def test_own_anchors_need_five_numbers(tmp_path: Path) -> None:
    boxes = [[[-4.0, -4.0, 4.0, 4.0]] * 9] * 5
    with pytest.raises(ModelError, match=r"needs \(5, 9, 5\): levels, anchors per cell, x y width height angle"):
        import_onnx(FOLDER / "mmrotate" / "le90.onnx", tmp_path / "m.onnx", flavour="mmrotate-le90", base_anchors=boxes)


# -- detectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "case"),
    [pytest.param(*pair, marks=[] if pair[0] == "odtk-rotated" else [pytest.mark.heavy]) for pair in RECORDED],
)
def test_cpu_and_cuda_alike(framework: str, case: str, tmp_path: Path) -> None:
    """The CPU and the emulated CUDA kernels give the same bits, for single images and a batch."""
    path, recording = imported(framework, case, tmp_path)
    images = [item.pixels() for item in recording.pictures]
    region = [(0.0, 0.0, 60.0, 60.0)]
    with Detector(path, device="cpu", threads=1, convolution="direct") as on_cpu:
        wanted = [on_cpu(image, ignore=region) for image in images]
        spec = on_cpu.spec
        batch = on_cpu(images[:1] * 3)
    assert sum(map(len, wanted)) > 20
    engine = save_engine(tmp_path / "model.engine", path, spec)
    with fake_gpu(), Detector(engine) as on_gpu:
        assert [on_gpu(image, ignore=region) for image in images] == wanted
        assert on_gpu(images[:1] * 3) == batch


def test_angles_of_mmrotate_le90(tmp_path: Path) -> None:
    path, recording = imported("mmrotate", "le90", tmp_path)
    with Detector(path) as detector:
        found = detector(recording.pictures[0].pixels())
    assert found.xywhr is not None
    assert (found.xywhr[:, 2] >= found.xywhr[:, 3]).all()
    assert (np.abs(found.xywhr[:, 4]) <= math.pi / 2 + 1e-6).all()
    assert np.ptp(found.xywhr[:, 4]) > 1


def test_what_rotated_boxes_cannot_do(tmp_path: Path) -> None:
    path, recording = imported("odtk-rotated", "default", tmp_path)
    for rule in ("soft_linear", "soft_gaussian", "fusion"):
        with pytest.raises(ValueError, match="does not work with rotated boxes; leave it out, or use"):
            Detector(path, suppression=Suppression(rule))
    with Detector(path, suppression=Suppression(max_detections=3, across_classes=True, iou_threshold=0.2)) as detector:
        assert len(detector(recording.pictures[0].pixels())) == 3
        with pytest.raises(ValueError, match="tiles do not work with rotated boxes yet"):
            detector(blocks(600, 600, seed=1), tiles=128)


def test_an_upright_network_does_not_fit_a_rotated_spec(tmp_path: Path) -> None:
    model, spec = random_retinanet()
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    rotated = load_preset("mmrotate-oc").spec(labels=spec.labels)
    with pytest.raises(ModelError, match=r"output 'deltas_p3' must be \(N, 45, h, w\)"):
        retinasdk.Detector(path, spec=rotated)
