"""What the import asks, or refuses, about exports of the frameworks themselves, because a wrong guess changes boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from recorded_case import FOLDER

from retinasdk import ModelError, ModelSpec, import_onnx


def imported(case: str, folder: Path, **options: Any) -> ModelSpec:
    return import_onnx(FOLDER / f"{case}.onnx", folder / "model.onnx", **options).spec


def refused(case: str, folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message):
        imported(case, folder, **options)
    assert not list(folder.iterdir())


def test_odtk_at_a_size_that_changes_its_strides(tmp_path: Path) -> None:
    """250 x 313: P3 has 32 x 40 cells, so 313 // 40 = 7, and so on."""
    refused("odtk/fixed_250x313", tmp_path, "this is an export for 250 x 313. .* --resize fit", flavour="odtk")
    spec = imported("odtk/fixed_250x313", tmp_path, flavour="odtk", resize="squash")
    assert [level.stride for level in spec.levels] == [(7, 7), (15, 15), (31, 31), (62, 62), (104, 104)]
    assert spec.levels[0].base_anchors[0] == (3.5 - 14, 3.5 - 14, 3.5 + 14, 3.5 + 14)
    assert (spec.resize.size, spec.pad_multiple, spec.clip) == ((250, 313), 1, "level")
    # As in training, whatever the export says.
    spec = imported("odtk/fixed_250x313", tmp_path, flavour="odtk", resize="shortest:800,1333")
    assert (spec.levels[0].stride, spec.pad_multiple) == (None, 128)
    assert spec.levels[0].base_anchors[0] == (-12, -12, 20, 20)


def test_odtk_at_a_size_that_changes_nothing(tmp_path: Path) -> None:
    report = import_onnx(FOLDER / "odtk/fixed_multiple.onnx", tmp_path / "model.onnx", flavour="odtk")
    assert [level.stride for level in report.spec.levels] == [None] * 5
    assert any("the graph declares an input of 256 x 384" in text for text in report.texts("assumed"))


def test_a_limit_of_all_levels_is_refused(tmp_path: Path) -> None:
    """mmdeploy's pre_top_k, 5000 by default: as if it had been set to 60, where each level keeps 1000."""
    model = onnx.load(str(FOLDER / "mmdeploy/dynamic-usual.onnx"))
    constants = [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.name == "value"]
    changed = 0
    for tensor in [*constants, *model.graph.initializer]:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.int64 and values.size == 1 and int(values.reshape(-1)[0]) == 5000:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, 60), tensor.name))
            changed += 1
    assert changed
    onnx.save(model, str(tmp_path / "theirs.onnx"))
    message = "the graph keeps at most 60 candidates of all levels together, after 1000 of each of 5 levels"
    with pytest.raises(ModelError, match=message):
        import_onnx(tmp_path / "theirs.onnx", tmp_path / "model.onnx")


def test_a_limit_of_each_class_is_kept(tmp_path: Path) -> None:
    """mmdeploy's max_output_boxes_per_class, in a graph where it is below the maximum of detections."""
    spec = imported("mmdeploy/dynamic-limits", tmp_path)
    assert (spec.max_per_class, spec.top_k, spec.top_k_unit) == (12, 1000, "anchor")


def test_anchors_in_separate_constants(tmp_path: Path) -> None:
    """pytorch-retinanet's whole export has widths, heights and centers as constants; here they are made smaller."""
    usual = imported("pytorch-retinanet/whole", tmp_path, flavour="pytorch-retinanet", resize="fit")
    model = onnx.load(str(FOLDER / "pytorch-retinanet/whole.onnx"))
    for node in model.graph.node:
        for attribute in node.attribute:
            values = onnx.numpy_helper.to_array(attribute.t) if attribute.name == "value" else np.empty(0)
            if values.size == 2313 and values.dtype == np.float32 and values.std() > 0:
                is_size = len(np.unique(values.reshape(-1)[:9].round(3))) > 1
                changed = values * np.float32(0.75) if is_size else values
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(changed))
    onnx.save(model, str(tmp_path / "theirs.onnx"))
    report = import_onnx(tmp_path / "theirs.onnx", tmp_path / "model.onnx", flavour="pytorch-retinanet", resize="fit")
    assert any("not the usual ones of pytorch-retinanet" in text for text in report.texts("read"))
    for level, other in zip(report.spec.levels, usual.levels, strict=True):
        center = level.stride[0] / 2 if level.stride else 0
        expected = (np.array(other.base_anchors) - center) * 0.75 + center
        np.testing.assert_allclose(level.base_anchors, expected, rtol=1e-5, atol=1e-4)


def test_a_fixed_size_that_was_padded(tmp_path: Path) -> None:
    """mmdeploy resizes to its input_shape and pads that to a multiple of 32; the graph shows the padded size alone."""
    report = import_onnx(FOLDER / "mmdeploy/static.onnx", tmp_path / "model.onnx")
    assert any("which is padded to a multiple of 32" in text for text in report.texts("concluded"))
    spec = imported("mmdeploy/static", tmp_path, resize="squash:120x180")
    assert spec.resize.target(300, 400) == (120, 180)
    assert (spec.padded(120, 180), spec.pad_multiple) == ((128, 192), 32)
    spec = imported("mmdeploy/static", tmp_path, resize="fit:120x180")
    assert (spec.resize.target(300, 400), spec.padded(120, 160)) == ((120, 160), (128, 192))
    for resize in ("squash:90x180", "fit:129x192", "shortest:128,192"):
        message = "the network accepts only 128 x 192, so the resize rule must be"
        with pytest.raises(ModelError, match=message):
            imported("mmdeploy/static", tmp_path, resize=resize)


def test_tf_models_has_no_background_and_another_order_of_deltas(tmp_path: Path) -> None:
    """Its heads have 7 classes, and deltas in the order y, x, height, width."""
    path = FOLDER / "tf-models/defaults.onnx"
    report = import_onnx(path, tmp_path / "model.onnx", flavour="tf-models", resize="fit")
    assert (report.classes, len(report.spec.labels), report.channel_order) == (6, 6, "anchor by anchor")
    assert [item.text for item in report.findings if "class 0 is left out" in item.text]
    gathers = {
        node.output[0]: node.input[1]
        for node in onnx.load(tmp_path / "model.onnx").graph.node
        if node.op_type == "Gather"
    }
    orders = {
        item.name: onnx.numpy_helper.to_array(item).tolist()
        for item in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    assert orders[gathers["logits_p3"]][:8] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert orders[gathers["deltas_p7"]][:8] == [1, 0, 3, 2, 5, 4, 7, 6]


def test_tf_models_needs_a_threshold_of_nms_from_half_on(tmp_path: Path) -> None:
    """The framework compares with 0.5 too, so that it removes more boxes with a lower threshold."""
    options: dict[str, Any] = {"flavour": "tf-models", "resize": "fit", "nms_iou_threshold": 0.45}
    refused("tf-models/defaults", tmp_path, "the NMS threshold is 0.45. Below 0.5 .* nms_version v1", **options)
    assert imported("tf-models/defaults", tmp_path, force=True, **options).nms_iou_threshold == 0.45


def test_tf_models_needs_a_size_that_the_coarsest_stride_divides(tmp_path: Path) -> None:
    """It would pad 200 x 300 to 256 x 384 and clip boxes to 200 x 300."""
    options: dict[str, Any] = {"flavour": "tf-models", "resize": "fit:200x300", "pad_multiple": 128}
    refused("tf-models/defaults", tmp_path, "the resize rule is fit 200 x 300, but .* sides 128 divides", **options)
    assert imported("tf-models/defaults", tmp_path, force=True, **options).pad_multiple == 128


def test_tf_models_needs_a_class_besides_the_background(tmp_path: Path) -> None:
    message = "only one class, which is the background of tf-models"
    refused("keras-hub/four-levels", tmp_path, message, flavour="tf-models", resize="squash")
