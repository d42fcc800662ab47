"""Imports RetinaNets as other frameworks write them, and compares the result with the known network inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from cases import scene
from foreign import not_retinanets
from foreign import other_frameworks as other
from foreign.torchvision_graph import LIMITS, torchvision_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Listed, assert_same_detections

from retinasdk import Detector, ModelError, ModelSpec, Resize
from retinasdk.convert.flavours import flavour_spec
from retinasdk.convert.importing import ImportReport, import_onnx
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import find_heads
from retinasdk.convert.importing.inputs import find_input
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.spec import METADATA_KEY

LEVELS = range(3, 8)
NAMES = [f"{kind}_p{level}" for kind in ("logits", "deltas") for level in LEVELS]
Array = npt.NDArray[Any]


def run(model: onnx.ModelProto, feeds: dict[str, Array], outputs: list[str] | None = None) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feeds)  # type: ignore[no-any-return]


def imported(model: onnx.ModelProto, folder: Path, **options: Any) -> tuple[ImportReport, onnx.ModelProto]:
    onnx.save(model, str(folder / "foreign.onnx"))
    report = import_onnx(folder / "foreign.onnx", folder / "heads.onnx", **options)
    return report, onnx.load(str(folder / "heads.onnx"))


def noise(batch: int = 2, height: int = 96, width: int = 160) -> Array:
    return np.random.default_rng(3).standard_normal((batch, 3, height, width)).astype(np.float32)


def assert_same_heads(model: onnx.ModelProto, network: onnx.ModelProto, tensor: Array, *, atol: float = 0) -> None:
    for ours, theirs in zip(
        run(model, {"images": tensor}, NAMES), run(network, {"images": tensor}, NAMES), strict=True
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


# -- torchvision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_torchvisions_whole_graph_gives_the_same_detections(opset: int, tmp_path: Path) -> None:
    whole, network = torchvision_graph(opset=opset)
    report, model = imported(whole, tmp_path, labels=["a", "b", "c"])
    assert_same_heads(model, network, noise())
    assert report.spec.flavour == "torchvision"
    assert report.spec.resize.size == LIMITS
    with Detector(tmp_path / "heads.onnx") as detector:
        for size in ((90, 120), (200, 100), (64, 64)):
            picture = scene(sum(size), *size)
            boxes, scores, labels = run(whole, {"image": picture.transpose(2, 0, 1).astype(np.float32) / 255})
            assert len(scores) > 50
            ours = detector(picture)
            assert_same_detections(
                Listed(ours.xyxy, ours.scores, ours.class_ids), Listed(boxes, scores, labels), tie=1e-5
            )


def test_thresholds_in_the_graph_are_kept(tmp_path: Path) -> None:
    report, _ = imported(torchvision_graph(score_threshold=0.125)[0], tmp_path)
    assert report.spec.score_threshold == 0.125
    assert "score_threshold 0.125 (usual: 0.05 for torchvision)" in report.texts("read")


def test_limits_in_the_graph_are_kept(tmp_path: Path) -> None:
    whole, _ = torchvision_graph(top_k=40, nms_iou=0.375, max_detections=10)
    report, _ = imported(whole, tmp_path, labels=["a", "b", "c"])
    assert (report.spec.top_k, report.spec.nms_iou_threshold, report.spec.max_detections) == (40, 0.375, 10)
    picture = scene(7, 90, 120)
    boxes, scores, labels = run(whole, {"image": picture.transpose(2, 0, 1).astype(np.float32) / 255})
    assert len(scores) == 10
    with Detector(tmp_path / "heads.onnx") as detector:
        ours = detector(picture)
    assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), Listed(boxes, scores, labels), tie=1e-5)


def test_anchors_in_the_graph_are_kept(tmp_path: Path) -> None:
    whole, _ = torchvision_graph()
    for tensor in whole.graph.initializer:
        if tensor.dims == [1, 9, 4]:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    report, _ = imported(whole, tmp_path, flavour="torchvision")
    assert report.spec.levels[0].base_anchors[0] == (-11.5, -5.5, 11.5, 5.5)
    assert report.spec.levels[4].base_anchors[6] == (-90.5, -181, 90.5, 181)
    assert any("the base anchors, which are not the usual ones" in text for text in report.texts("read"))
    assert "the strides are input side // number of cells" in report.texts("read")


# -- others ------------------------------------------------------------------------------------------------------------

AUTO: dict[str, tuple[Callable[[], other.Graphs], str]] = {
    "detectron2": (lambda: other.decoded(5, "size", bounds=(None, other.LN_1000_16)), "detectron2"),
    "mmdet": (lambda: other.decoded(5, "ratio", bounds=(-other.LN_1000_16, other.LN_1000_16)), "mmdet"),
}


@pytest.mark.parametrize(
    ("make", "flavour"), [(lambda: other.odtk(5), "odtk"), (lambda: other.keras(5), "keras-retinanet")]
)
def test_usual_anchors_of_a_named_framework_are_an_assumption(
    make: Callable[[], other.Graphs], flavour: str, tmp_path: Path
) -> None:
    foreign, network = make()
    report, model = imported(foreign, tmp_path, flavour=flavour)
    assert report.spec.levels == flavour_spec(flavour).levels
    assert report.spec.box_coder == flavour_spec(flavour).box_coder
    assert_same_heads(model, network, noise())
    text = f"the base anchors, the usual ones of {flavour}; the graph contains none"
    assert text in report.texts("assumed")
    assert f"assumed: {text}" in str(report)
    assert text in report.spec.source["assumed"]


def test_padding_before_the_transpose(tmp_path: Path) -> None:
    """Keras pads in channels-last layout. The padding of the first convolution belongs to the network."""
    foreign, network = other.keras(5, pads_last=False)
    report, model = imported(foreign, tmp_path, flavour="keras-retinanet")
    assert "Pad" not in report.preprocessing
    assert_same_heads(model, network, noise())


def test_keras_traced_by_pytorch(tmp_path: Path) -> None:
    """The biases behind a transpose and a cast, and the padding whose amounts the graph computes, stay."""
    foreign, network = other.keras_on_torch(5)
    report, model = imported(foreign, tmp_path, flavour="keras-hub", resize="squash")
    assert report.input_dimensions == ("N", 96, 160)  # As declared, although the network runs at other sizes.
    assert report.spec.resize.size == (96, 160)
    assert_same_heads(model, network, noise())
    with pytest.raises(ModelError, match=r"accepts only 96 x 160.* stretches .*--flavour keras-hub --resize squash"):
        imported(foreign, tmp_path, flavour="keras-hub")
    other_size = {"flavour": "keras-hub", "resize": "squash:800x800"}
    with pytest.raises(ModelError, match="the network accepts only 96 x 160, so the resize rule must be"):
        imported(foreign, tmp_path, **other_size)


def test_keras_traced_without_a_size(tmp_path: Path) -> None:
    foreign, _ = other.keras_on_torch(5, sides=("H", "W"))
    options = {"flavour": "keras-hub", "resize": "squash:96x160"}
    with pytest.raises(ModelError, match=r"padding for images of 1 x 1 pixels.*Export it for one size: model\.export"):
        imported(foreign, tmp_path, **options)
    assert imported(foreign, tmp_path, force=True, **options)[0].input_dimensions == ("N", 96, 160)


@pytest.mark.parametrize(("make", "flavour"), AUTO.values(), ids=AUTO.keys())
def test_evidence_decides(make: Callable[[], other.Graphs], flavour: str, tmp_path: Path) -> None:
    foreign, network = make()
    report, model = imported(foreign, tmp_path)
    assert report.spec.flavour == flavour
    assert report.input_dimensions == ("N", "H", "W")
    assert report.spec.levels == flavour_spec(flavour).levels
    assert report.spec.box_coder == flavour_spec(flavour).box_coder
    assert_same_heads(model, network, noise())
    assert any("bit by bit" in text for text in report.checks)
    # With pixels of 0 to 255, random weights give huge values and put every box outside the picture.
    tame = flavour_spec("torchvision").normalise
    small = report.spec.replace(resize=Resize("shortest", (128, 224)), normalise=tame)
    with Detector(tmp_path / "heads.onnx", spec=small) as detector:
        assert len(detector(scene(1, 100, 140))) > 0


def test_deltas_scaled_in_the_graph_need_the_weights(tmp_path: Path) -> None:
    usual, scaled = (
        other.decoded(5, "size", bounds=(None, other.LN_1000_16), factor=factor)[0] for factor in (1.0, 0.2)
    )
    assert "dw and dh are multiplied by 1 before exp" in imported(usual, tmp_path)[0].texts("read")
    with pytest.raises(ModelError, match=r"dw and dh by 0.2 before exp, but detectron2 by 1.* --box-weights X,Y,5,5 "):
        imported(scaled, tmp_path)
    report, _ = imported(scaled, tmp_path, box_weights=(10, 10, 5, 5))
    assert report.spec.box_coder.weights == (10, 10, 5, 5)


def test_mmdeploys_fixed_size_with_a_plugin_behind(tmp_path: Path) -> None:
    foreign, network = other.mmdeploy(3, (96, 160))
    with pytest.raises(
        ModelError, match=r"contains no anchors\. It follows the rules of mmdeploy\. .*--flavour mmdeploy "
    ):
        imported(foreign, tmp_path)
    report, model = imported(foreign, tmp_path, flavour="mmdeploy")
    assert report.spec.flavour == "mmdeploy"
    assert (report.spec.clip, report.spec.drop_empty) == ("padded", "never")
    assert report.input_dimensions == (1, 96, 160)
    assert report.spec.resize == Resize("squash", (96, 160), "half_up", eight_bit=True)
    assert report.removed_operators["TRTBatchedNMS"] == 1
    assert any("accepts only that size and mmdeploy does so" in text for text in report.texts("concluded"))
    assert_same_heads(model, network, noise(batch=1))
    with Detector(tmp_path / "heads.onnx") as detector:
        assert len(detector(scene(1, 100, 140))) > 0


@pytest.mark.parametrize(("size", "resized"), [((100, 140), (96, 134)), ((90, 160), (90, 160)), ((48, 80), (96, 160))])
def test_a_fixed_size_can_be_padded(size: tuple[int, int], resized: tuple[int, int], tmp_path: Path) -> None:
    """The result is that of the same network with a dynamic size, on a picture that is padded to a multiple."""
    foreign, network = other.mmdeploy(3, (96, 160))
    report, _ = imported(foreign, tmp_path, flavour="mmdeploy", resize="fit")
    assert report.spec.resize == Resize("fit", (96, 160), "half_up", eight_bit=True)
    assert "the resize rule fit 96 x 160" in report.texts("given")
    picture = scene(5, *size)
    onnx.save(network, str(tmp_path / "dynamic.onnx"))
    dynamic = report.spec.replace(resize=Resize("longest", (max(resized),), "half_up", eight_bit=True), pad_multiple=32)
    for spec in (report.spec, dynamic):
        transform = Transform.plan(size, spec)
        assert (transform.resized, transform.padded) == (resized, (96, 160))
    with Detector(tmp_path / "heads.onnx") as detector, Detector(tmp_path / "dynamic.onnx", spec=dynamic) as free:
        ours, theirs = (
            Listed(found.xyxy, found.scores, found.class_ids) for found in (detector(picture), free(picture))
        )
    assert len(ours.scores) > 20
    assert_same_detections(ours, theirs, tie=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_mmdeploys_whole_graph_gives_the_same_detections(seed: int, tmp_path: Path) -> None:
    """Boxes reach into the padding, and boxes without area stay."""
    foreign, _ = other.mmdeploy_whole(max_detections=60)
    report, _ = imported(foreign, tmp_path, labels=["a", "b", "c"])
    assert report.spec.flavour == "mmdeploy"
    assert report.spec.levels == flavour_spec("mmdeploy").levels
    assert (report.spec.max_detections, report.spec.score_threshold) == (60, 0.05)
    assert "the strides are 8 16 32 64 128" in report.texts("read")
    spec = report.spec.replace(resize=Resize("native", (200,)), top_k=65536)
    picture = scene(seed, 90, 140)  # Padded to 96 x 160.
    tensor = preprocess([picture], [Transform.plan((90, 140), spec)], spec).tensor
    boxes, scores, labels = run(foreign, {"images": tensor})
    assert len(scores) > 20
    assert boxes[:, 2].max() > 140 or boxes[:, 3].max() > 90
    with Detector(tmp_path / "heads.onnx", spec=spec) as detector:
        ours = detector(picture)
    assert_same_detections(Listed(ours.xyxy, ours.scores, ours.class_ids), Listed(boxes, scores, labels), tie=1e-5)


@pytest.mark.parametrize("by_value", [False, True], ids=["a*K+k", "k*A+a"])
@pytest.mark.parametrize("classes", [1, 2, 3, 9, 36, 80])
def test_channels_come_anchor_by_anchor(classes: int, by_value: bool, tmp_path: Path) -> None:
    foreign, network = other.flat_heads(classes, by_value=by_value)
    report, model = imported(foreign, tmp_path, flavour="detectron2")
    assert (report.anchors, report.classes) == (9, classes)
    assert report.channel_order == ("value by value" if by_value else "anchor by anchor")
    tensor = noise(1)
    for name, ours, theirs in zip(
        NAMES, run(model, {"images": tensor}, NAMES), run(network, {"images": tensor}, NAMES), strict=True
    ):
        each = classes if "logits" in name else 4
        if by_value:
            batch, channels, height, width = theirs.shape
            assert channels == 9 * each
            wanted = theirs.reshape(batch, each, 9, height, width).swapaxes(1, 2).reshape(ours.shape)
        else:
            wanted = theirs
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("classes", [3, 8, 16])
def test_raw_heads_need_a_flavour(classes: int, tmp_path: Path) -> None:
    foreign, network = other.raw_heads(classes)
    with pytest.raises(
        ModelError, match=r"cannot tell which framework .* fits detectron2.*torchvision.* --flavour NAME"
    ):
        imported(foreign, tmp_path)
    assert not list(tmp_path.glob("heads.*"))
    report, model = imported(foreign, tmp_path, flavour="torchvision")
    assert (report.anchors, report.classes) == (9, classes)
    assert any("the channel order of the" in text for text in report.texts("assumed"))
    assert [(level.name, level.stride) for level in report.levels] == [(f"p{n}", 2**n) for n in LEVELS]
    assert_same_heads(model, network, noise())


def test_four_classes_are_told_apart_by_the_sigmoid(tmp_path: Path) -> None:
    foreign, network = other.flat_heads(4, sigmoid=True)
    _, model = imported(foreign, tmp_path, flavour="torchvision")
    assert_same_heads(model, network, noise())


def test_four_classes_without_a_sigmoid_are_a_choice(tmp_path: Path) -> None:
    foreign, network = other.raw_heads(4)
    with pytest.raises(
        ModelError,
        match=r"(?s)36 and 36 channels.*foreign.onnx .* --box-head /head/\w+_p3/Conv_output_0.* --box-head /head",
    ):
        imported(foreign, tmp_path, flavour="torchvision")
    _, model = imported(foreign, tmp_path, flavour="torchvision", box_head="/head/deltas_p3/Conv_output_0")
    assert_same_heads(model, network, noise())
    with pytest.raises(ModelError, match=r"'deltas' does not belong to a box head. Name a tensor of it: '/head"):
        imported(foreign, tmp_path, flavour="torchvision", box_head="deltas")


def test_half_precision_becomes_single_outside(tmp_path: Path) -> None:
    foreign, network = other.in_half(other.flat_heads(3))
    _, model = imported(foreign, tmp_path, flavour="detectron2")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert_same_heads(model, network, noise(), atol=0.1)


WRITTEN: dict[str, Callable[[], other.Graphs]] = {
    "sizes from the input": other.sized_by_the_input,
    "copies of weights": other.with_copies_of_weights,
    "nodes in disorder": lambda: other.in_disorder(other.flat_heads()),
    "functions": other.with_a_function,
}


@pytest.mark.parametrize("make", WRITTEN.values(), ids=WRITTEN.keys())
def test_ways_to_write_the_same_network(make: Callable[[], other.Graphs], tmp_path: Path) -> None:
    foreign, network = make()
    report, model = imported(foreign, tmp_path, flavour="detectron2")
    assert_same_heads(model, network, noise())
    assert report.shared_heads
    assert not model.functions
    assert "Identity" not in {node.op_type for node in model.graph.node}


def test_reshapes_that_take_sizes_from_the_input_show_the_channel_order(tmp_path: Path) -> None:
    report, _ = imported(other.sized_by_the_input()[0], tmp_path, flavour="detectron2")
    assert "the order of the channels of both heads" in report.texts("read")


def test_mlperf_is_torchvision_with_264_classes(tmp_path: Path) -> None:
    whole, network = torchvision_graph(264)
    report, model = imported(whole, tmp_path)
    assert report.spec.flavour == "mlperf"
    assert len(report.spec.labels) == 264
    assert_same_heads(model, network, noise(1))


# -- preprocessing in the graph ----------------------------------------------------------------------------------------

MEAN, STD = (103.5, 116.25, 123.75), (57.5, 57.25, 58.5)
PREPROCESSING: dict[str, dict[str, Any]] = {
    "0 to 255": {},
    "0 to 1": {"unit": True},
    "bytes": {"as_bytes": True},
    "bytes, 0 to 1": {"as_bytes": True, "unit": True},
    "RGB to BGR": {"as_bytes": True, "swaps": "Gather"},
    "RGB to BGR by a step of -1": {"as_bytes": True, "swaps": "Slice"},
    "as factors": {"as_factor": True},
}


@pytest.mark.parametrize("options", PREPROCESSING.values(), ids=PREPROCESSING.keys())
def test_normalisation_in_the_graph_goes_into_the_spec(options: dict[str, Any], tmp_path: Path) -> None:
    foreign, network = other.with_preprocessing(MEAN, STD, **options)
    report, model = imported(foreign, tmp_path, flavour="torchvision")
    assert_same_heads(model, network, noise())
    spec = report.spec
    assert spec.normalise.mean == pytest.approx(MEAN, rel=1e-5)
    assert spec.normalise.std == pytest.approx(STD, rel=1e-5)
    assert spec.normalise.channels == "BGR"  # The mean is lower in the first channel than in the last.
    assert any("differ by up to" in text for text in report.checks)

    picture = scene(4, 96, 160)
    given = picture if options.get("swaps") else picture[..., ::-1]  # The graph takes its own channel order.
    values = given[None] if options.get("as_bytes") else given.transpose(2, 0, 1)[None].astype(np.float32)
    if options.get("unit") and not options.get("as_bytes"):
        values = values / np.float32(255)
    as_it_is = spec.replace(resize=Resize("native", (4096,)))
    tensor = preprocess([picture], [Transform.plan((96, 160), as_it_is)], as_it_is).tensor
    for ours, theirs in zip(
        run(model, {"images": tensor}, NAMES), run(foreign, {"photo": np.ascontiguousarray(values)}, NAMES), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@given(mean=st.tuples(*[st.floats(80, 150)] * 3), std=st.tuples(*[st.floats(40, 80)] * 3), unit=st.booleans())
@settings(max_examples=15)
def test_any_mean_and_deviation_are_found(
    mean: tuple[float, float, float], std: tuple[float, float, float], unit: bool
) -> None:
    view = GraphView(other.with_preprocessing(mean, std, unit=unit)[0])
    found = find_input(view, find_heads(view, anchors=9)).normalise
    assert found is not None
    assert found.unit == unit
    assert found.mean == pytest.approx(mean, rel=1e-4)
    assert found.std == pytest.approx(std, rel=1e-4)


def test_usual_numbers_stay_the_usual_ones(tmp_path: Path) -> None:
    report, _ = imported(torchvision_graph()[0], tmp_path)
    assert report.spec.normalise == flavour_spec("torchvision").normalise


# -- what is written ---------------------------------------------------------------------------------------------------


def test_both_files_carry_the_spec(tmp_path: Path) -> None:
    report, model = imported(other.odtk(3)[0], tmp_path, flavour="odtk", labels=["x", "y", "z"], name="bolts")
    beside = ModelSpec.load(tmp_path / "heads.json")
    inside = {item.key: item.value for item in model.metadata_props}[METADATA_KEY]
    assert beside == report.spec == ModelSpec.from_json(inside)
    assert (beside.name, beside.labels) == ("bolts", ("x", "y", "z"))
    assert beside.source["imported_from"] == "foreign.onnx"
    assert len(beside.source["sha256"]) == 64
    assert json.loads((tmp_path / "heads.json").read_text())["flavour"] == "odtk"
    assert [item.name for item in model.graph.output] == NAMES
    assert not [node for node in model.graph.node if node.op_type in ("Sigmoid", "Identity")]


def test_the_report_can_be_read(tmp_path: Path) -> None:
    text = str(imported(torchvision_graph()[0], tmp_path)[0])
    for part in (
        "5 levels, 9 anchors per cell, 3 classes",
        "p3  stride 8",
        "removed before the network: Sub, Div, Unsqueeze, Resize, Gather, Pad",
        "1 NonMaxSuppression",
        "5 TopK",
        "rules: torchvision",
        "concluded: the rules of torchvision: the graph normalizes with mean",
        "; the graph clamps dw and dh to at most 4.1352 before exp",
        "read: top_k 1000 (as usual for torchvision)",
        "read: the resize rule shortest 128 x 224",
        "bit by bit",
        "assumed: the 3 classes have no names",
    ):
        assert part in text


@pytest.mark.parametrize("levels", [3, 7])
def test_other_pyramids_with_anchors_given(levels: int, tmp_path: Path) -> None:
    foreign = not_retinanets.other_heads([6] * levels, [8] * levels)
    with pytest.raises(
        ModelError, match=r"has 2 anchors per cell .*torchvision has 9 on 5 levels from p3 on.*base_anchors="
    ):
        imported(foreign, tmp_path, flavour="torchvision")
    names = [f"p{level}" for level in range(3, 3 + levels)]
    anchors = [[(-x, -3.0 * x, x, 3.0 * x), (-3.0 * x, -x, 3.0 * x, x)] for x in 2.0 ** np.arange(levels)]
    report, model = imported(foreign, tmp_path, flavour="detectron2", base_anchors=anchors)
    assert [level.name for level in report.levels] == names
    assert [level.stride for level in report.spec.levels] == [(8 << n, 8 << n) for n in range(levels)]
    assert report.spec.levels[-1].base_anchors == tuple(anchors[-1])
    assert not report.shared_heads
    ours = run(model, {"images": noise()}, [f"logits_{name}" for name in names])
    theirs = run(foreign, {"images": noise()}, [f"head_0_{level}" for level in range(levels)])
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, wanted)
