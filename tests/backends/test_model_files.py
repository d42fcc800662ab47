"""Model files that are broken, are something else, or do not fit their spec; and odd ones that must work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pictures import LABELS, blocks

from retinasdk import Detector, ModelError, ModelSpec, Resize
from retinasdk.spec import METADATA_KEY


@pytest.fixture
def altered(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> Callable[..., Path]:
    """altered(change, **spec_changes) writes the tiny network, changed by change(model), and a spec beside it."""

    def write(change: Callable[[onnx.ModelProto], Any] = lambda model: None, **spec_changes: Any) -> Path:
        model = onnx.ModelProto()
        model.CopyFrom(network)
        change(model)
        onnx.save(model, str(tmp_path / "model.onnx"))
        spec.replace(**spec_changes).save(tmp_path / "model.json")
        return tmp_path / "model.onnx"

    return write


def set_sides(model: onnx.ModelProto, *sides: int | str) -> None:
    """Fixes N, C, H, W of the input, and leaves the outputs' sizes open."""
    for axis, side in zip(model.graph.input[0].type.tensor_type.shape.dim, sides, strict=True):
        if isinstance(side, int):
            axis.dim_value = side
        else:
            axis.dim_param = side
    for output in model.graph.output:
        shape = output.type.tensor_type.shape
        for index in (0, 2, 3):
            shape.dim[index].dim_param = f"{output.name}_{index}"


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole[:20],
        lambda whole: np.random.default_rng(0).bytes(5000),
        lambda whole: b"this is a text file, not a network\n" * 20,
        lambda whole: b"<html><body>404</body></html>",
        lambda whole: b"\x89PNG\r\n\x1a\n" + whole,
    ],
    ids=["empty", "half", "a byte short", "start", "garbage", "text", "html", "png"],
)
def test_broken_files(model_path: Path, tmp_path: Path, spec: ModelSpec, content: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content(model_path.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.onnx: ") as caught:
        Detector(path, spec=spec)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx is not the path of a file and not the name of a bundled model"):
        Detector(tmp_path / "none.onnx")


def test_another_network(tmp_path: Path, spec: ModelSpec) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 10])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value], [result])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    with pytest.raises(
        ModelError, match=r"no model spec: there is no relu\.json beside it.*retinasdk import relu\.onnx"
    ):
        Detector(path)
    with pytest.raises(
        ModelError,
        match="must have one input named 'images', got x; check that it is a RetinaNet with raw head outputs",
    ):
        Detector(path, spec=spec)
    with pytest.raises(ModelError, match=r"input 'x' must be \(N, 3, H, W\) float32, got \[1, 10\]"):
        Detector(path, spec=spec.replace(input="x"))


def test_unknown_opset(altered: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 999

    with pytest.raises(ModelError, match=r"ONNX Runtime cannot load it.*opset"):
        Detector(altered(change))


# -- specs that do not fit ---------------------------------------------------------------------------------------------


def other_level(spec: ModelSpec, **changes: Any) -> dict[str, Any]:
    return {"levels": (dataclasses.replace(spec.levels[0], **changes), *spec.levels[1:])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda spec: {"labels": (*LABELS, "cat")},
            r"'logits_p3' must be \(N, 36, h, w\).*9 anchors and 4 classes, got",
        ),
        (lambda spec: {"input": "pixels"}, "must have one input named 'pixels', got images"),
        (lambda spec: other_level(spec, logits="cls_p3"), "must have an output named 'cls_p3', got logits_p3, "),
        (lambda spec: other_level(spec, deltas="box_p3"), "must have an output named 'box_p3'"),
        (lambda spec: other_level(spec, logits="deltas_p3", deltas="logits_p3"), "must be .N, 27, h, w."),
        (
            lambda spec: {
                "levels": tuple(
                    dataclasses.replace(level, base_anchors=level.base_anchors[:3]) for level in spec.levels
                )
            },
            r"\(N, 9, h, w\).*3 anchors and 3 classes, got .*27",
        ),
    ],
    ids=["classes", "input", "logits", "deltas", "swapped", "anchors"],
)
def test_specs_of_another_network(
    altered: Callable[..., Path], spec: ModelSpec, changes: Callable[[ModelSpec], dict[str, Any]], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Detector(altered(**changes(spec)))
    assert "the spec belongs to it, or convert it again: retinasdk import model.onnx" in str(caught.value)


def test_broken_spec_beside_the_model(altered: Callable[..., Path]) -> None:
    path = altered()
    path.with_suffix(".json").write_text('{"format": 1, "labels": []}')
    with pytest.raises(ModelError, match=r"model\.json: field name is missing"):
        Detector(path)


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        (TensorProto.FLOAT16, "input", r"float32, got .* tensor\(float16\)"),
        (TensorProto.UINT8, "input", r"float32, got .* tensor\(uint8\)"),
        (TensorProto.FLOAT16, "output", r"'logits_p4' must be .* float32 .*tensor\(float16\)"),
        (TensorProto.DOUBLE, "output", r"'logits_p4' must be .* float32 .*tensor\(double\)"),
    ],
)
def test_other_number_types(altered: Callable[..., Path], kind: int, where: str, message: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        if where == "input":
            graph.input[0].type.tensor_type.elem_type = kind
            for node in graph.node:
                node.input[:] = ["as_float" if name == "images" else name for name in node.input]
            graph.node.insert(0, helper.make_node("Cast", ["images"], ["as_float"], to=TensorProto.FLOAT))
        else:
            output = next(item for item in graph.output if item.name == "logits_p4")
            output.type.tensor_type.elem_type = kind
            for node in graph.node:
                node.output[:] = ["as_float" if name == "logits_p4" else name for name in node.output]
            graph.node.append(helper.make_node("Cast", ["as_float"], ["logits_p4"], to=kind))

    with pytest.raises(ModelError, match=message):
        Detector(altered(change))


@pytest.mark.parametrize("sides", [("N", 1, "H", "W"), ("N", 4, "H", "W")])
def test_other_channel_counts(altered: Callable[..., Path], sides: tuple[Any, ...]) -> None:
    def change(model: onnx.ModelProto) -> None:
        set_sides(model, *sides)
        first = next(tensor for tensor in model.graph.initializer if tensor.dims[1:2] == [3])
        values = np.repeat(numpy_helper.to_array(first)[:, :1], sides[1], axis=1)
        first.CopyFrom(numpy_helper.from_array(values, first.name))

    with pytest.raises(ModelError, match=r"must be \(N, 3, H, W\) float32, got .*channels first"):
        Detector(altered(change))


def test_named_channel_axis(altered: Callable[..., Path], detector: Detector) -> None:
    path = altered(lambda model: set_sides(model, "N", "C", "H", "W"))
    assert Detector(path, threads=1)(blocks()) == detector(blocks())


# -- fixed sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_fixed_batch(altered: Callable[..., Path], detector: Detector, batch: int) -> None:
    fixed = Detector(altered(lambda model: set_sides(model, batch, 3, "H", "W")), threads=1)
    images = [blocks(90 - 10 * (index % 2), 120, seed=index) for index in range(7)]
    wanted = detector(images)
    assert fixed(images) == wanted
    assert fixed(images[0]) == wanted[0]
    assert fixed([]) == []


def test_fixed_sides(altered: Callable[..., Path], model_path: Path, spec: ModelSpec) -> None:
    squash = Resize("squash", (96, 128))

    def change(model: onnx.ModelProto) -> None:
        set_sides(model, "N", 3, 96, 128)

    wanted = Detector(model_path, spec=spec.replace(resize=squash), threads=1)(blocks())
    assert Detector(altered(change, resize=squash), threads=1)(blocks()) == wanted
    assert len(wanted) > 0
    with pytest.raises(
        ModelError, match=r"input height is fixed to 96, but .* 'shortest' gives other sizes; export with"
    ):
        Detector(altered(change))
    with pytest.raises(ModelError, match="input width is fixed to 128"):
        Detector(altered(change, resize=Resize("squash", (96, 160))))


def test_all_sides_fixed(altered: Callable[..., Path], model_path: Path, spec: ModelSpec) -> None:
    squash = Resize("squash", (60, 100))  # padded to 64 x 128

    def change(model: onnx.ModelProto) -> None:
        set_sides(model, 1, 3, 64, 128)

    fixed = Detector(altered(change, resize=squash), threads=1)
    free = Detector(model_path, spec=spec.replace(resize=squash), threads=1)
    images = [blocks(), blocks(30, 40), blocks(200, 50)]
    for mine, wanted in zip(fixed(images), free(images), strict=True):
        # Known sizes let ONNX Runtime choose other kernels, which round otherwise.
        np.testing.assert_array_equal(mine.class_ids, wanted.class_ids)
        np.testing.assert_allclose(mine.xyxy, wanted.xyxy, atol=1e-2)
        np.testing.assert_allclose(mine.scores, wanted.scores, atol=1e-4)
    assert len(fixed(images[2])) > 0


# -- heads that do not fit at run time ---------------------------------------------------------------------------------


def test_heads_of_different_sizes(altered: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        set_sides(model, "N", 3, "H", "W")
        swap = {"deltas_p3": "deltas_p4", "deltas_p4": "deltas_p3"}
        for node in model.graph.node:
            node.output[:] = [swap.get(name, name) for name in node.output]

    detector = Detector(altered(change))
    with pytest.raises(ModelError, match="deltas"):
        detector(blocks())


def test_channels_that_are_only_known_at_run_time(altered: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        """Repeats the classification channels as often as the batch is large, so no shape tells their number."""
        set_sides(model, "N", 3, "H", "W")
        for node in model.graph.node:
            node.output[:] = ["once" if name == "logits_p3" else name for name in node.output]
        one = numpy_helper.from_array(np.array([1], np.int64), "one")
        first = numpy_helper.from_array(np.array([0], np.int64), "first")
        model.graph.initializer.extend([one, first])
        model.graph.node.extend(
            [
                helper.make_node("Shape", ["images"], ["shape"]),
                helper.make_node("Gather", ["shape", "first"], ["images_given"]),
                helper.make_node("Concat", ["one", "images_given", "one", "one"], ["times"], axis=0),
                helper.make_node("Tile", ["once", "times"], ["logits_p3"]),
            ]
        )
        output = next(item for item in model.graph.output if item.name == "logits_p3")
        output.type.tensor_type.shape.dim[1].dim_param = "channels"

    detector = Detector(altered(change), threads=1)
    assert len(detector(blocks())) > 0
    with pytest.raises(ModelError, match=r"logits_p3 must have 9 anchors x 3 classes = 27 channels, got \(2, 54, "):
        detector([blocks(), blocks(seed=1)])


# -- numbers that are not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("head", ["logits", "deltas"])
def test_weights_that_are_no_numbers(altered: Callable[..., Path], head: str, value: float) -> None:
    def change(model: onnx.ModelProto) -> None:
        last = {node.input[2] for node in model.graph.node if node.output[0].startswith(head)}
        for tensor in model.graph.initializer:
            if tensor.name in last:  # its bias
                values = np.full(tuple(tensor.dims), value, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    detections = Detector(altered(change))(blocks(), score_threshold=0.3)
    assert np.isfinite(detections.xyxy).all()
    assert np.isfinite(detections.scores).all()
    if head == "logits" and value == np.inf:
        assert detections.scores.tolist() == [1.0] * len(detections)
        assert len(detections) > 0
    else:
        assert len(detections) == 0


# -- where the spec comes from -----------------------------------------------------------------------------------------


def with_metadata(spec: ModelSpec) -> Callable[[onnx.ModelProto], None]:
    return lambda model: helper.set_model_props(model, {METADATA_KEY: spec.to_json()})


def test_spec_in_the_file_alone(altered: Callable[..., Path], spec: ModelSpec, detector: Detector) -> None:
    path = altered(with_metadata(spec))
    path.with_suffix(".json").unlink()
    alone = Detector(path, threads=1)
    assert alone.spec == spec
    assert alone(blocks()) == detector(blocks())


def test_order_of_specs(altered: Callable[..., Path], spec: ModelSpec) -> None:
    path = altered(with_metadata(spec.replace(name="inside")), name="beside")
    assert Detector(path).spec.name == "beside"
    assert Detector(path, spec=spec.replace(name="given")).spec.name == "given"
    path.with_suffix(".json").unlink()
    assert Detector(path).spec.name == "inside"


def test_broken_spec_in_the_file(altered: Callable[..., Path]) -> None:
    path = altered(lambda model: helper.set_model_props(model, {METADATA_KEY: "{}"}))
    path.with_suffix(".json").unlink()
    message = r'model\.onnx, metadata retinasdk\.spec: a model spec must have "format": 1, got None'
    with pytest.raises(ModelError, match=message):
        Detector(path)
