"""Imports whole ONNX exports of torchvision; detections must equal those of the PyTorch model."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cases import scene
from reference import Listed, assert_same_detections
from torchvision_heads import small_model, spread

from retinasdk import Detector
from retinasdk.convert.importing import import_onnx

torch = pytest.importorskip("torch", reason="exports torchvision's models, which needs torch; .ci/run installs it")
detection = pytest.importorskip("torchvision.models.detection", reason="exports torchvision's models")

AnchorGenerator = detection.anchor_utils.AnchorGenerator
pytestmark = pytest.mark.heavy

CLASSES = 5


def as_tensor(picture: Any) -> Any:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def fresh_model(version: str, **settings: Any) -> Any:
    """A torchvision model with random weights that gives some thousand candidates in an image."""
    torch.manual_seed(20)
    # A sixth of the work of the default sizes. The graph contains these sizes.
    settings = {"min_size": 320, "max_size": 533, **settings}
    if version == "small":
        model = small_model(CLASSES, **settings)
    else:
        build = {"v1": detection.retinanet_resnet50_fpn, "v2": detection.retinanet_resnet50_fpn_v2}[version]
        model = build(weights=None, weights_backbone=None, num_classes=CLASSES, **settings).eval()
    seen: dict[str, list[Any]] = {"cls_logits": [], "bbox_reg": []}
    lasts = {"cls_logits": model.head.classification_head.cls_logits, "bbox_reg": model.head.regression_head.bbox_reg}
    hooks = [
        last.register_forward_hook(lambda _, __, output, name=name: seen[name].append(output))
        for name, last in lasts.items()
    ]
    with torch.no_grad():
        model([as_tensor(scene(1, 256, 320))])
        spread(lasts["cls_logits"], seen["cls_logits"], deviation=1.0, bias=-5.5)
        spread(lasts["bbox_reg"], seen["bbox_reg"], deviation=0.3, bias=0.0)
    for hook in hooks:
        hook.remove()
    return model


def export(model: Any, path: Path, opset: int, *, dynamic: bool) -> None:
    names = {"input_names": ["image"], "output_names": ["boxes", "scores", "labels"]}
    axes = {"image": {1: "H", 2: "W"}, "boxes": {0: "n"}, "scores": {0: "n"}, "labels": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecation.
        torch.onnx.export(
            model,
            ([as_tensor(scene(2, 300, 400))],),
            str(path),
            dynamo=False,
            opset_version=opset,
            dynamic_axes=axes if dynamic else None,
            **names,
        )


@pytest.mark.parametrize(
    ("version", "opset", "dynamic"),
    [("v1", 11, False), ("v1", 20, True), ("v2", 17, True)],
    ids=str,
)
def test_detections_are_torchvisions_own(version: str, opset: int, dynamic: bool, tmp_path: Path) -> None:
    model = fresh_model(version)
    export(model, tmp_path / "whole.onnx", opset, dynamic=dynamic)
    report = import_onnx(tmp_path / "whole.onnx", tmp_path / "heads.onnx", labels=list("abcde"))
    assert report.spec.flavour == "torchvision"
    assert (report.anchors, report.classes, report.opset) == (9, CLASSES, opset)
    assert report.input_dimensions == ("N", "H", "W")  # Also where the image size is fixed: that of the network is not.
    assert report.spec.resize.size == (320, 533)  # From the graph, not the default 800 and 1333.
    assert {"NonMaxSuppression", "TopK", "Sigmoid", "Exp"} <= set(report.removed_operators)
    checked = re.match(r"(\d+) of \1 boxes of the graph's own decoding and NMS agree .* 3 pictures", report.checks[-1])
    assert checked
    assert int(checked[1]) > 100
    with Detector(tmp_path / "heads.onnx") as detector:
        for size in ((300, 400), (427, 640)):
            picture = scene(sum(size), *size)
            with torch.inference_mode():
                (item,) = model([as_tensor(picture)])
            theirs = Listed(*(item[key].numpy() for key in ("boxes", "scores", "labels")))
            assert len(theirs.scores) > 100
            ours = detector(picture)
            # Convolutions of another library: boxes with nearly equal scores may swap places.
            assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), theirs, tie=1e-5)


SETTINGS = {"topk_candidates": 200, "detections_per_img": 50, "nms_thresh": 0.4, "score_thresh": 0.02}


@pytest.mark.parametrize(("opset", "dynamic"), [(11, True), (14, False), (17, True)], ids=str)
def test_settings_of_the_export_are_read(opset: int, dynamic: bool, tmp_path: Path) -> None:
    model = fresh_model("small", **SETTINGS)
    export(model, tmp_path / "whole.onnx", opset, dynamic=dynamic)
    spec = import_onnx(tmp_path / "whole.onnx", tmp_path / "heads.onnx", labels=list("abcde")).spec
    assert (spec.top_k, spec.max_detections) == (200, 50)
    assert (spec.nms_iou_threshold, spec.score_threshold) == (0.4, 0.02)
    picture = scene(1, 427, 640)
    with torch.inference_mode():
        (item,) = model([as_tensor(picture)])
    theirs = Listed(*(item[key].numpy() for key in ("boxes", "scores", "labels")))
    assert len(theirs.scores) == 50
    with Detector(tmp_path / "heads.onnx") as detector:
        ours = detector(picture)
    assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), theirs, tie=1e-5)


def test_anchors_and_sizes_of_the_export_are_read(tmp_path: Path) -> None:
    sizes = tuple((side, side * 1.5) for side in (16, 32, 64, 128, 256))
    anchors = AnchorGenerator(sizes, ((0.4, 1.0, 1.7),) * 5)
    settings = {"image_mean": [0.4, 0.45, 0.5], "image_std": [0.3, 0.25, 0.2], "score_thresh": 0.0}
    model = fresh_model("small", anchor_generator=anchors, **settings)
    export(model, tmp_path / "whole.onnx", 17, dynamic=True)
    # The mean is higher in blue than in red, as it is in BGR, so the order is asked for.
    given = {"labels": list("abcde"), "flavour": "torchvision", "channel_order": "RGB"}
    report = import_onnx(tmp_path / "whole.onnx", tmp_path / "heads.onnx", **given)
    spec = report.spec
    assert report.anchors == 6
    for level, own in zip(spec.levels, anchors.cell_anchors, strict=True):
        np.testing.assert_allclose(level.base_anchors, own.numpy(), atol=1e-4)
        assert level.stride is None
    assert spec.score_threshold == 0
    picture = scene(2, 300, 413)
    with torch.inference_mode():
        (item,) = model([as_tensor(picture)])
    theirs = Listed(*(item[key].numpy() for key in ("boxes", "scores", "labels")))
    assert len(theirs.scores) > 100
    with Detector(tmp_path / "heads.onnx") as detector:
        ours = detector(picture)
    assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), theirs, tie=1e-5)


class Heads(torch.nn.Module):
    """The part of the model that the dynamo exporter can write: up to the heads, raw or flattened by torchvision."""

    def __init__(self, model: Any, *, flat: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.flat = model.backbone, model.head, flat

    def forward(self, images: Any) -> tuple[Any, ...]:
        levels = list(self.backbone(images).values())
        if self.flat:
            outputs = self.head(levels)
            return outputs["cls_logits"], outputs["bbox_regression"]
        classify, regress = self.head.classification_head, self.head.regression_head
        logits = [classify.cls_logits(classify.conv(level)) for level in levels]
        return (*logits, *(regress.bbox_reg(regress.conv(level)) for level in levels))


@pytest.mark.parametrize(("opset", "flat"), [(18, False), (20, True)], ids=["18, raw", "20, concatenated"])
def test_heads_by_the_dynamo_exporter(opset: int, flat: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch's dynamo exporter needs it")
    model = fresh_model("small")
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height", "width"))
    path = tmp_path / "heads.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecation.
        torch.onnx.export(
            Heads(model, flat=flat).eval(),
            (torch.randn(2, 3, 320, 448),),
            str(path),
            dynamo=True,
            opset_version=opset,
            external_data=False,
            dynamic_shapes=None if flat else {"images": {0: batch, 2: 32 * height, 3: 32 * width}},
        )
    out = tmp_path / "mine.onnx"
    report = import_onnx(path, out, flavour="torchvision", labels=list("abcde"), resize=None if not flat else "squash")
    assert (report.anchors, report.classes) == (9, CLASSES)
    images = torch.randn(2, 3, 320, 448)
    with torch.inference_mode():
        wanted = Heads(model, flat=False)(images)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    names = [level.logits for level in report.spec.levels] + [level.deltas for level in report.spec.levels]
    for found, tensor in zip(session.run(names, {report.spec.input: images.numpy()}), wanted, strict=True):
        np.testing.assert_allclose(found, tensor.numpy(), rtol=1e-3, atol=1e-3)
