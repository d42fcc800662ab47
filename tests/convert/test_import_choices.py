"""What an import reads, concludes, assumes and asks: no rule that changes boxes is guessed in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import other_frameworks as other
from foreign.torchvision_graph import CORNERS, torchvision_graph
from onnx import numpy_helper

from retinasdk import ModelError, Resize
from retinasdk.convert.flavours import flavour_spec
from retinasdk.convert.importing import ImportReport, import_onnx

SQUARE = [[(-4.0 * 2**level, -4.0 * 2**level, 4.0 * 2**level, 4.0 * 2**level)] * 9 for level in range(5)]
BOUNDS = (-other.LN_1000_16, other.LN_1000_16)


def imported(model: onnx.ModelProto, folder: Path, **options: Any) -> ImportReport:
    onnx.save(model, str(folder / "foreign.onnx"))
    return import_onnx(folder / "foreign.onnx", folder / "heads.onnx", **options)


def refused(model: onnx.ModelProto, folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message):
        imported(model, folder, **options)
    assert not list(folder.glob("heads.*"))


def named(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Gives the first node a name, as the modules of a framework do."""
    model.graph.node[0].name = name
    return model


# -- which framework ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("/stem/Conv", "NAME"),
        ("/bbox_head/retina_cls/Conv", "mmdet"),
        ("bbox_head.retina_reg.weight", "mmdet"),
        ("/head/classification_head/cls_logits/Conv", "torchvision"),
        ("/head/cls_score/Conv", "detectron2"),
        ("/cls_head/cls_head.8/Conv", "odtk"),
    ],
)
def test_a_sigmoid_is_no_evidence_for_odtk(name: str, suggested: str, tmp_path: Path) -> None:
    refused(named(other.odtk()[0], name), tmp_path, rf"cannot tell which framework .* --flavour {suggested} ")


def test_bbox_head_is_not_box_head(tmp_path: Path) -> None:
    foreign = named(other.raw_heads()[0], "bbox_head.retina_cls.weight")
    refused(foreign, tmp_path, r"its names suggest mmdet\)")


def test_heads_that_only_the_usual_number_of_anchors_tells_apart(tmp_path: Path) -> None:
    """72 and 36 channels: 9 anchors and 8 classes, or 18 anchors and 2 classes."""
    foreign = other.raw_heads(8)[0]
    report = imported(foreign, tmp_path, flavour="torchvision")
    assert (report.anchors, report.classes) == (9, 8)
    (text,) = [text for text in report.texts("assumed") if text.startswith("9 anchors per cell and 8 classes")]
    assert "18 anchors and 2 classes" in text
    box_head = text.rpartition(" ")[2]
    refused_folder = tmp_path / "other"
    refused_folder.mkdir()
    refused(foreign, refused_folder, "18 anchors per cell .*--anchors", flavour="torchvision", box_head=box_head)
    clear = imported(other.raw_heads(3)[0], tmp_path, flavour="torchvision")
    assert not any("anchors per cell" in text for text in clear.texts("assumed"))


def test_names_of_another_framework_are_a_question(tmp_path: Path) -> None:
    """The numbers are those of mmdetection, but the names are those of torchvision."""
    foreign = named(other.decoded(3, "ratio", bounds=BOUNDS)[0], "/head/classification_head/conv/Conv")
    refused(foreign, tmp_path, r"its graph is contradictory\. Found: .*'head/classification_head'.* --flavour NAME")
    assert imported(foreign, tmp_path, flavour="mmdet").spec.flavour == "mmdet"


def test_nms_in_the_graph_means_mmdeploy(tmp_path: Path) -> None:
    whole = imported(other.mmdeploy()[0], tmp_path, flavour="mmdeploy").spec
    assert (whole.clip, whole.drop_empty) == ("padded", "never")
    decoded = imported(other.decoded(3, "ratio", bounds=BOUNDS)[0], tmp_path).spec
    assert (decoded.flavour, decoded.clip, decoded.drop_empty) == ("mmdet", "resized", "before_nms")


@pytest.mark.parametrize(
    ("flavour", "reason"),
    [
        ("mmdet", "the graph clamps dw and dh to at most 4.1352"),
        ("detectron2", "the graph normalizes with mean 123.675"),
        ("odtk", "the base anchors in the graph have the sizes, order and rounding of keras-hub, mlperf, torchvision"),
    ],
)
def test_a_framework_that_the_graph_contradicts(flavour: str, reason: str, tmp_path: Path) -> None:
    foreign = torchvision_graph()[0]
    refused(foreign, tmp_path, rf"the graph contradicts the rules of {flavour}: .*{reason}.*--force", flavour=flavour)
    report = imported(foreign, tmp_path, flavour=flavour, force=True)
    assert report.spec.flavour == flavour
    assert any("which you named, although" in text for text in report.texts("given"))


def test_mmdet_with_nms_in_the_graph(tmp_path: Path) -> None:
    message = "the graph contradicts the rules of mmdet: NMS follows the heads"
    refused(other.mmdeploy()[0], tmp_path, message, flavour="mmdet")


def test_only_what_is_equal_is_called_checked(tmp_path: Path) -> None:
    foreign = torchvision_graph()[0]
    refused(
        foreign, tmp_path, "preprocessing in the graph contradicts the rules of torchvision", resize="shortest:96,300"
    )
    report = imported(foreign, tmp_path, resize="shortest:96,300", force=True)
    (text,) = report.unchecked
    assert "by the spec" in text
    assert not any("by the spec" in text for text in report.checks)
    assert f"not checked: {text}" in str(report)


# -- anchors and strides -----------------------------------------------------------------------------------------------


def test_anchors_are_asked_for(tmp_path: Path) -> None:
    foreign = other.keras()[0]
    refused(foreign, tmp_path, r"the graph contains no anchors\..* --flavour keras-retinanet .* --anchors FILE\.json")
    report = imported(foreign, tmp_path, flavour="keras-retinanet", base_anchors=SQUARE)
    assert report.spec.levels[1].base_anchors[0] == tuple(SQUARE[1][0])
    assert "you gave the base anchors" in report.texts("given")


def test_anchors_and_strides_are_read_in_a_whole_graph(tmp_path: Path) -> None:
    report = imported(torchvision_graph()[0], tmp_path)
    assert report.spec.levels == flavour_spec("torchvision").levels
    assert "the base anchors are the usual ones of torchvision" in report.texts("read")
    assert "the strides are input side // number of cells" in report.texts("read")


def test_strides_of_another_rule_are_read(tmp_path: Path) -> None:
    """The graph of torchvision, with the nominal strides in place of a division."""
    whole = torchvision_graph()[0]
    divisions = [node for node in whole.graph.node if node.op_type == "Div" and "slice" in "".join(node.input)]
    strides = [node for node in divisions if sum("slice" in name for name in node.input) == 2]
    assert len(strides) == 5
    for level, node in enumerate(strides):
        whole.graph.initializer.append(numpy_helper.from_array(np.array([8 << level] * 2), f"step_{level}"))
        for user in whole.graph.node:
            user.input[:] = [f"step_{level}" if name == node.output[0] else name for name in user.input]
        whole.graph.node.remove(node)
    report = imported(whole, tmp_path)
    assert [level.stride for level in report.spec.levels] == [(8 << level, 8 << level) for level in range(5)]
    assert "the strides are 8 16 32 64 128" in report.texts("read")


def test_given_anchors_that_differ_from_those_in_the_graph(tmp_path: Path) -> None:
    foreign = torchvision_graph()[0]
    refused(foreign, tmp_path, "anchors that you gave differ from those in the graph.*--force", base_anchors=SQUARE)
    same = np.array([[(-x, -y, x, y) for x, y in corners] for corners in CORNERS])
    assert imported(foreign, tmp_path, base_anchors=same).spec.levels == flavour_spec("torchvision").levels


def test_an_anchor_rule(tmp_path: Path) -> None:
    rule = {"anchor_sizes": (16, 32, 64, 128, 256), "anchor_ratios": (1, 2, 3), "strides": (8, 16, 32, 64, 100)}
    spec = imported(other.raw_heads()[0], tmp_path, flavour="keras-retinanet", **rule).spec
    assert spec.levels[0].base_anchors[0] == (-4.0, -4.0, 12.0, 12.0)
    assert spec.levels[4].base_anchors[0] == (-78.0, -78.0, 178.0, 178.0)
    assert spec.levels[4].stride == (100, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_sizes": (16, 32)}, r"2 sizes, but the network has 5 levels: p3, .*--anchor-sizes"),
        ({"anchor_ratios": (1,)}, r"3 scales and 1 ratios, so 3 anchors per cell, but the network has 9"),
        ({"strides": (8, 16)}, r"2 strides are given \(--strides or --anchors\), but the network has 5 levels"),
        ({"anchor_ratios": (1,), "base_anchors": SQUARE}, "base anchors are given twice"),
        ({"base_anchors": [[[-1, -1, 1, 1]] * 9] * 4 + [[[-1, -1, 1, 1]]]}, "levels of different length"),
        ({"base_anchors": [[[-1, -1, 1]] * 9] * 5}, r"has shape \(5, 9, 3\)"),
        ({"base_anchors": []}, r"this network needs \(5, 9, 4\)"),
        ({"anchor_sizes": ()}, "0 sizes, but the network has 5 levels"),
        ({"anchor_sizes": (1, 2, 3, 4, -5)}, "base anchor"),
        ({"strides": (8, 16, 32, 64, 0)}, "a stride must be"),
        ({"channel_order": "GBR"}, "channels must be one of"),
        ({"box_weights": (1, 1, 0, 1)}, "box_coder.weights must be four numbers above 0"),
        ({"top_k": 0}, "top_k must be from 1"),
        ({"mean": (1, 2, 3)}, "mean and std belong together"),
        ({"box_weights": (1, 2)}, "--box-weights takes 4 numbers, but there are 2"),
        ({"resize": "shortest:800"}, "the resize rule 'shortest:800' is unknown"),
        ({"resize": "fit"}, "the resize rule 'fit' is unknown"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(other.raw_heads()[0], tmp_path, message, flavour="detectron2", **options)


# -- pixels, sizes, thresholds -----------------------------------------------------------------------------------------


def test_everything_can_be_given(tmp_path: Path) -> None:
    options = {
        "mean": (1, 2, 3),
        "std": (4, 5, 6),
        "channel_order": "RGB",
        "resize": "longest:640",
        "score_threshold": 0.25,
        "nms_iou_threshold": 0.625,
        "top_k": 77,
        "max_detections": 33,
        "box_weights": (10, 10, 5, 5),
        "labels": ["a", "b", "c"],
        "base_anchors": SQUARE,
        "strides": (8, 16, 32, 64, 128),
    }
    report = imported(other.raw_heads()[0], tmp_path, flavour="detectron2", **options)
    spec = report.spec
    assert (spec.normalise.mean, spec.normalise.std, spec.normalise.channels) == ((1, 2, 3), (4, 5, 6), "RGB")
    assert spec.resize == Resize("longest", (640,), "half_up", antialias=True, eight_bit=True)
    assert (spec.score_threshold, spec.nms_iou_threshold, spec.top_k, spec.max_detections) == (0.25, 0.625, 77, 33)
    assert spec.box_coder.weights == (10, 10, 5, 5)
    assert len(report.texts("assumed")) == 1  # The order of the channels, which no option names.
    assert spec.source["given"].startswith("the rules of detectron2, which you named; you gave the base anchors")


def test_a_threshold_of_zero_is_read(tmp_path: Path) -> None:
    report = imported(torchvision_graph(score_threshold=0.0)[0], tmp_path)
    assert report.spec.score_threshold == 0
    assert "score_threshold 0 (usual: 0.05 for torchvision)" in report.texts("read")


def test_several_thresholds_are_a_question(tmp_path: Path) -> None:
    """Each level has its own, which the spec cannot say."""
    whole = torchvision_graph()[0]
    greater = [node for node in whole.graph.node if node.op_type == "Greater"]
    whole.graph.initializer.append(numpy_helper.from_array(np.float32(0.125), "another"))
    greater[-1].input[1] = "another"
    message = r"several values of score_threshold: 0\.05, 0\.125\. .* --score-threshold N \(in Python: score_threshold="
    refused(whole, tmp_path, message)
    assert imported(whole, tmp_path, score_threshold=0.1).spec.score_threshold == 0.1


def test_what_is_not_known_is_called_assumed(tmp_path: Path) -> None:
    assumed = imported(other.raw_heads()[0], tmp_path, flavour="detectron2").texts("assumed")
    for part in ("base anchors", "strides 8", "mean 103.53", "order BGR", "shortest 800", "top_k 1000", "score", "nms"):
        assert any(part in text for text in assumed)


def test_a_normalization_that_cannot_be_read_is_asked_for(tmp_path: Path) -> None:
    foreign = other.with_preprocessing((103.5, 116.25, 123.75), (57.5, 57.25, 58.5), swaps="Concat")[0]
    refused(foreign, tmp_path, "normalizes images in a way that cannot be read.* --mean M1,M2,M3", flavour="mmdet")
    given = {"mean": (103.5, 116.25, 123.75), "std": (57.5, 57.25, 58.5), "channel_order": "BGR"}
    assert imported(foreign, tmp_path, flavour="mmdet", **given).spec.normalise.channels == "BGR"


def test_a_mean_that_looks_like_another_channel_order_is_a_question(tmp_path: Path) -> None:
    foreign = other.with_preprocessing((90.0, 100.0, 110.0), (57.5, 57.25, 58.5))[0]
    message = r"looks like the channel order BGR .* but torchvision has RGB.* --channel-order RGB, or BGR"
    refused(foreign, tmp_path, message, flavour="torchvision")
    assert imported(foreign, tmp_path, flavour="torchvision", channel_order="RGB").spec.normalise.channels == "RGB"
    report = imported(foreign, tmp_path, flavour="detectron2")
    assert report.spec.normalise.channels == "BGR"
    assert any("order BGR, from the rules of detectron2" in text for text in report.texts("concluded"))


def test_a_mean_that_shows_no_channel_order(tmp_path: Path) -> None:
    foreign = other.with_preprocessing((100.0, 100.0, 101.0), (57.5, 57.25, 58.5))[0]
    report = imported(foreign, tmp_path, flavour="torchvision")
    assert "the channel order RGB, as usual for torchvision" in report.texts("assumed")


def test_mean_and_std_that_differ_from_the_graph(tmp_path: Path) -> None:
    given = {"mean": (1, 2, 3), "std": (4, 5, 6)}
    refused(torchvision_graph()[0], tmp_path, "mean and std that you gave differ from those in the graph", **given)


# -- rules of other frameworks -----------------------------------------------------------------------------------------


def test_the_best_class_of_each_anchor_is_a_rule_that_no_spec_has(tmp_path: Path) -> None:
    model, _ = other.flat_heads(3, sigmoid=True)
    model.graph.node.add(op_type="ArgMax", input=[model.graph.output[0].name], output=["best"]).attribute.append(
        onnx.helper.make_attribute("axis", 2)
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, None))
    refused(model, tmp_path, "only the best class of each anchor.*--across-classes", flavour="detectron2")
    imported(model, tmp_path, flavour="detectron2", force=True)


def test_the_names_of_a_framework_suggest_it(tmp_path: Path) -> None:
    model = named(other.raw_heads(3)[0], "/classificationModel/output/Conv")
    refused(model, tmp_path, "its names suggest pytorch-retinanet.*flavour='pytorch-retinanet'")
