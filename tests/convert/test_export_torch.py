"""Compares `export_torchvision` with torchvision itself: all architectures, kinds of checkpoints and unusual rules."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import scene
from paths import EXAMPLES
from reference import Listed, assert_same_detections
from torchvision_heads import spread_heads

from retinasdk import Detector, ModelError, ModelSpec
from retinasdk.cli.main import main
from retinasdk.convert.export_torch import ARCHITECTURES, export_torchvision, load_torchvision

torch = pytest.importorskip("torch", reason="exports from torchvision, which needs torch; .ci/run installs it")
detection = pytest.importorskip("torchvision.models.detection", reason="exports from torchvision")

pytestmark = pytest.mark.heavy

LABELS = ("background", "bolt", "nut")


def fresh(architecture: str, classes: int = len(LABELS), seed: int = 1) -> Any:
    """A model with random weights that finds many boxes."""
    from retinasdk.convert.torchvision_checkpoint import _build

    torch.manual_seed(seed)
    model = _build(detection, architecture, classes).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # So that the batch norms change values.
                module.running_mean.normal_(0, 0.05)
                module.running_var.uniform_(0.8, 1.2)
    spread_heads(model, torch.randn(1, 3, 256, 320), bias=-3.5)
    return model


def eager(model: Any, picture: Any) -> Listed:
    with torch.inference_mode():
        (found,) = model([torch.from_numpy(picture).permute(2, 0, 1).float() / 255])
    return Listed(*(found[key].numpy() for key in ("boxes", "scores", "labels")))


def assert_same(model: Any, onnx_file: Path, picture: Any) -> None:
    theirs = eager(model, picture)
    assert len(theirs.scores) > 20
    # What is compared is the export, so without Winograd's rounding, which tests/pipeline/test_parity_torchvision.py
    # bounds. Convolutions of another library: boxes with nearly equal scores may swap places.
    with Detector(onnx_file, convolution="direct") as detector:
        ours = detector(picture)
    assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), theirs, tie=2e-5)


# Of the two kinds of blocks that ResNets are made of, one each, and the second version of the heads.
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if not name.endswith(("34_fpn", "101_fpn"))])
def test_architectures(architecture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command exports a checkpoint, and the boxes are those of torchvision."""
    model = fresh(architecture)
    checkpoint, out = tmp_path / "mine.pth", tmp_path / "mine.onnx"
    torch.save(model.state_dict(), checkpoint)
    options = ["--weights", str(checkpoint), "--labels", ",".join(LABELS), "--num-classes", "3"]
    options.append("--torchvision-defaults")
    assert main(["export", f"torchvision:{architecture}", "-o", str(out), *options]) == 0
    assert "3 classes; head outputs differ" in capsys.readouterr().out
    model.transform.min_size, model.transform.max_size = (320,), 533
    spec = ModelSpec.load(out.with_suffix(".json"))
    assert spec.labels == LABELS
    (entry,) = onnx.load(out).metadata_props
    assert ModelSpec.from_json(entry.value) == spec
    spec.replace(resize=type(spec.resize)("shortest", (320, 533))).save(out.with_suffix(".json"))
    assert_same(model, out, scene(7, 300, 400))


def test_rules_of_its_own(tmp_path: Path) -> None:
    """Anchors, thresholds, sizes and normalization of the model are written to the spec."""
    anchors = detection.anchor_utils.AnchorGenerator(
        sizes=((20, 28), (40, 56), (80, 112), (160, 224), (320, 448)), aspect_ratios=((0.5, 1.0),) * 5
    )
    backbone = fresh("retinanet_resnet18_fpn").backbone
    torch.manual_seed(3)
    model = detection.RetinaNet(
        backbone, 2, anchor_generator=anchors, min_size=256, max_size=400, image_mean=[0.4, 0.5, 0.6],
        image_std=[0.3, 0.2, 0.25], score_thresh=0.01, nms_thresh=0.4, detections_per_img=50, topk_candidates=77,
    ).eval()  # fmt: skip
    spread_heads(model, torch.randn(1, 3, 256, 320), bias=-3.5)
    made = export_torchvision(model, tmp_path / "own.onnx", labels=["a", "b"])
    spec = made.spec
    assert spec.levels[0].base_anchors == tuple(tuple(row) for row in anchors.cell_anchors[0].tolist())
    assert (spec.top_k, spec.max_detections, spec.nms_iou_threshold, spec.score_threshold) == (77, 50, 0.4, 0.01)
    assert spec.resize.size == (256, 400)
    assert spec.normalise.mean == pytest.approx((102, 127.5, 153))
    assert_same(model, made.path, scene(8, 300, 400))


def test_a_fixed_size(tmp_path: Path) -> None:
    model = fresh("retinanet_resnet18_fpn")
    model.transform.fixed_size = (320, 256)  # width, height
    made = export_torchvision(model, tmp_path / "fixed.onnx")
    assert (made.spec.resize.rule, made.spec.resize.size) == ("squash", (256, 320))
    assert_same(model, made.path, scene(9, 300, 400))


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_opsets(opset: int, tmp_path: Path) -> None:
    made = export_torchvision(fresh("retinanet_resnet18_fpn"), tmp_path / "a.onnx", opset=opset)
    assert onnx.load(made.path).opset_import[0].version == opset


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = fresh("retinanet_resnet18_fpn").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_torchvision(model, tmp_path / "a.onnx")
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# -- kinds of checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Any:
    return fresh("retinanet_resnet18_fpn")


FORMS = (None, "model", "state_dict", "model_state_dict", "parallel", "lightning", "frozen")


@pytest.mark.parametrize("wrapper", FORMS)
def test_forms(small: Any, wrapper: str | None, tmp_path: Path) -> None:
    state: Any = small.state_dict()
    if wrapper == "parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    elif wrapper == "lightning":  # a module that keeps the network in `self.model`
        weights = {f"model.{key}": value for key, value in state.items()}
        state = {"state_dict": weights, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 0.1}}
    elif wrapper == "frozen":
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    elif wrapper:
        state = {wrapper: state, "epoch": 3}
    torch.save(state, tmp_path / "a.pth")
    loaded = load_torchvision("retinanet_resnet18_fpn", weights=tmp_path / "a.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for a, b in zip(loaded.backbone(images).values(), small.backbone(images).values(), strict=True):
            assert torch.equal(a, b)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_what_is_no_checkpoint(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(Evil(), tmp_path / "evil.pth")
    torch.save(small.state_dict(), tmp_path / "r18.pth")
    for name, message in {
        "absent.pth": "does not exist; check the path of the checkpoint",
        "text.pth": "cannot be read as a checkpoint of weights",
        "other.pth": "does not contain a torchvision RetinaNet: none of its 1 entries is head",
        "list.pth": "contains list instead of weights by name",
        "evil.pth": "cannot be read as a checkpoint of weights",
        "r18.pth": "does not fit retinanet_resnet50_fpn",
    }.items():
        with pytest.raises(ModelError, match=message):
            load_torchvision("retinanet_resnet50_fpn", weights=tmp_path / name)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(ModelError, match="has a head of 3 classes, not 5"):
        load_torchvision("retinanet_resnet18_fpn", weights=tmp_path / "r18.pth", classes=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torchvision:retinanet_vgg"], "'retinanet_vgg' is unknown; choose one of retinanet_resnet50_fpn"),
        (["retinanet_resnet50_fpn"], "retinanet_resnet50_fpn does not exist; check the path of the checkpoint"),
        (["torchvision:retinanet_resnet50_fpn:COCO_V7"], "torchvision has no weights 'COCO_V7'"),
        (
            ["torchvision:retinanet_resnet50_fpn:COCO_V1", "--weights", "a.pth"],
            "which names torchvision's weights",
        ),
        (["theirs.onnx"], "is an ONNX file already; convert it with: retinasdk import theirs.onnx"),
        (["mine.pth", "--weights", "other.pth"], "--weights must not be given for the checkpoint mine.pth"),
        (["torchvision:retinanet_resnet18_fpn"], "torchvision has no weights for retinanet_resnet18_fpn"),
        (["torchvision:retinanet_resnet50_fpn", "--num-classes", "5"], "torchvision's weights have 91 classes"),
        (["torchvision:retinanet_resnet50_fpn", "--opset", "12"], "invalid choice: 12"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *arguments, "-o", str(tmp_path / "a.onnx")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_wrong_labels_and_models(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 classes, got 2\. .* is the background: .*: background,a,b"):
        export_torchvision(small, tmp_path / "a.onnx", labels=["a", "b"])
    with pytest.raises(TypeError, match="must be a torchvision RetinaNet, not Linear"):
        export_torchvision(torch.nn.Linear(1, 1), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_is_not_written(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export with other values is detected before anything is written."""
    from retinasdk.convert import export_torch as exporting

    trace = exporting._trace

    def wrong(*arguments: Any) -> bytes:
        model = onnx.load_model_from_string(trace(*arguments))
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim == 4:
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.01), tensor.name))
                break
        return bytes(model.SerializeToString())

    monkeypatch.setattr(exporting, "_trace", wrong)
    with pytest.raises(ModelError, match="the exported ONNX differs from PyTorch by"):
        export_torchvision(small, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_both_files_or_none(small: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(IsADirectoryError):
        export_torchvision(small, tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_labels_from_a_file(small: Any, tmp_path: Path) -> None:
    torch.save(small.state_dict(), tmp_path / "a.pth")
    (tmp_path / "names.txt").write_text("background\nhex bolt\nnut\n")
    options = ["--torchvision-defaults", "--labels", str(tmp_path / "names.txt")]
    assert main(["export", str(tmp_path / "a.pth"), "-o", str(tmp_path / "a.onnx"), *options]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["labels"] == ["background", "hex bolt", "nut"]


# -- other frameworks --------------------------------------------------------------------------------------------------


class Backbone(torch.nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Any) -> dict[str, Any]:
        return dict(zip("34567", self.inner(images).values(), strict=True))


class Head(torch.nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.classify, self.regress = inner.classification_head, inner.regression_head

    def forward(self, levels: Any) -> tuple[list[Any], list[Any]]:
        return (
            [self.classify.cls_logits(self.classify.conv(level)) for level in levels],
            [self.regress.bbox_reg(self.regress.conv(level)) for level in levels],
        )


class LikeDetectron2(torch.nn.Module):
    """The parts of a detectron2 RetinaNet that the example uses, with the layers of torchvision."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(model.backbone), Head(model.head)
        self.head_in_features = ["3", "4", "5", "6", "7"]


class LikeMmdet(torch.nn.Module):
    """The parts of an mmdetection RetinaNet that the example uses, with the layers of torchvision."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.bbox_head = Backbone(model.backbone), Head(model.head)

    def extract_feat(self, images: Any) -> tuple[Any, ...]:
        return tuple(self.backbone(images).values())


@pytest.mark.parametrize(("flavour", "like"), [("detectron2", LikeDetectron2), ("mmdet", LikeMmdet)])
def test_other_frameworks(small: Any, flavour: str, like: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the wrappers of the example on models of the same shape; the frameworks themselves are not installed."""
    example = runpy.run_path(str(EXAMPLES / "export_other_frameworks.py"))
    wrapper = {"detectron2": "Detectron2Heads", "mmdet": "MmdetHeads"}[flavour]
    config = {
        "detectron2": "MODEL: {META_ARCHITECTURE: RetinaNet, RETINANET: {SCORE_THRESH_TEST: 0.01}}",
        "mmdet": "model = dict(type='RetinaNet', bbox_head=dict(type='RetinaHead'), test_cfg=dict(score_thr=0.01))",
    }
    example["LOADERS"][flavour] = lambda *_: (example[wrapper](like(small)), config[flavour])
    out = tmp_path / "out.onnx"
    monkeypatch.setattr("sys.argv", ["example", flavour, "config", "weights", str(out), *LABELS])
    example["main"]()
    picture = scene(11, 300, 400)
    with Detector(out) as detector:
        assert (detector.spec.flavour, detector.labels) == (flavour, LABELS)
        assert detector.spec.score_threshold == 0.01
        assert len(detector(picture)) > 0


def test_heads_that_do_not_fit_the_spec(small: Any, tmp_path: Path) -> None:
    from retinasdk.convert.export_torch import export_heads, heads_of
    from retinasdk.convert.flavours import flavour_spec

    with pytest.raises(
        ModelError, match=r"do not fit the spec: it needs logits with 9 anchors x 2 classes = 18 channels"
    ):
        export_heads(heads_of(small), tmp_path / "a.onnx", flavour_spec("torchvision", labels=["a", "b"]))
    assert list(tmp_path.iterdir()) == []
