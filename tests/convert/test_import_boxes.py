"""The check at the end of an import: our boxes against those of the decoding and NMS in the original graph."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import other_frameworks as other
from foreign.torchvision_graph import torchvision_graph
from onnx import helper, numpy_helper

from retinasdk import ImportReport, ModelError, ModelSpec, import_onnx
from retinasdk._util.box_matching import Boxes, are_left, pair_equal
from retinasdk.convert.importing import box_comparison, importer
from retinasdk.convert.importing.box_ties import Ties
from retinasdk.convert.importing.graph_detections import GraphTail, read_boxes

AGREE = r"(\d+) of \1 boxes of the graph's own decoding and NMS agree within 0\.1 px and 0\.001 of score, on 3 pictures"


def imported(model: onnx.ModelProto, folder: Path, **options: Any) -> ImportReport:
    onnx.save(model, str(folder / "foreign.onnx"))
    return import_onnx(folder / "foreign.onnx", folder / "heads.onnx", **options)


def joined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The outputs boxes, scores, labels as mmdeploy names them: dets (1, n, 5) and labels (1, n), labels first."""
    boxes, scores, labels = (item.name for item in model.graph.output)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "second"))
    model.graph.node.extend(
        [
            helper.make_node("Unsqueeze", [scores, "second"], ["column"]),
            helper.make_node("Concat", [boxes, "column"], ["table"], axis=1),
            helper.make_node("Unsqueeze", ["table", "first"], ["dets"]),
            helper.make_node("Unsqueeze", [labels, "first"], ["labels"]),
        ]
    )
    del model.graph.output[:]
    model.graph.output.extend([onnx.ValueInfoProto(name="labels"), onnx.ValueInfoProto(name="dets")])
    return model


def reversed_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    names = [item.name for item in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in reversed(names)])
    return model


def quiet(model: onnx.ModelProto) -> onnx.ModelProto:
    """As a trained network on noise: no score of a candidate is above 0.001."""
    last = {node.input[2] for node in model.graph.node if node.output[0].startswith("logits_")}
    for tensor in model.graph.initializer:
        if tensor.name in last:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) - np.float32(30), tensor.name))
    return model


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "torchvision": lambda: torchvision_graph()[0],
    "torchvision, other limits": lambda: torchvision_graph(score_threshold=0.3, top_k=40, nms_iou=0.3)[0],
    "torchvision, few detections": lambda: torchvision_graph(classes=1, max_detections=20)[0],
    "torchvision, trained": lambda: quiet(torchvision_graph()[0]),
    "outputs in another order": lambda: reversed_outputs(torchvision_graph()[0]),
    "mmdeploy": lambda: other.mmdeploy_whole()[0],
    "mmdeploy, dets and labels": lambda: joined(other.mmdeploy_whole()[0]),
}


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_boxes_of_the_graph_are_equal(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    report = imported(make(), tmp_path)
    (text,) = [text for text in report.checks if "NMS" in text]
    assert re.fullmatch(AGREE + " of random blocks", text)
    assert int(text.split()[0]) >= 40
    assert report.unchecked == ()


def other_order(spec: ModelSpec) -> ModelSpec:
    order = np.arange(9).reshape(3, 3).T.reshape(-1)
    levels = [
        dataclasses.replace(level, base_anchors=tuple(level.base_anchors[index] for index in order))
        for level in spec.levels
    ]
    return spec.replace(levels=tuple(levels))


def other_strides(spec: ModelSpec) -> ModelSpec:
    return spec.replace(levels=tuple(dataclasses.replace(level, stride=None) for level in spec.levels))


MUTATIONS: dict[str, Callable[[ModelSpec], ModelSpec]] = {
    "anchor order": other_order,
    "strides": other_strides,
    "clip": lambda spec: spec.replace(clip="none"),
    "clip to the padding": lambda spec: spec.replace(clip="padded"),
    "last pixel": lambda spec: spec.replace(clip_limit="last_pixel"),
    "inclusive pixels": lambda spec: spec.replace(inclusive_pixels=True),
    "top-k": lambda spec: spec.replace(top_k=60),
    "score threshold": lambda spec: spec.replace(score_threshold=0.06),
    "nms": lambda spec: spec.replace(nms_iou_threshold=0.55),
    "maximum": lambda spec: spec.replace(max_detections=20),
    "box weights": lambda spec: spec.replace(
        box_coder=dataclasses.replace(spec.box_coder, weights=(1.0, 1.0, 1.1, 1.1))
    ),
    "resize by one scale": lambda spec: spec.replace(rescale="uniform"),
}


@pytest.mark.parametrize("change", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_wrong_rule_is_an_error(
    change: Callable[[ModelSpec], ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = importer.build_spec

    def build_wrong(*arguments: Any, **options: Any) -> Any:
        spec, findings = build(*arguments, **options)
        return change(spec), findings

    graph = torchvision_graph(top_k=40)[0] if change is not other_strides else other.mmdeploy_whole()[0]
    monkeypatch.setattr(importer, "build_spec", build_wrong)
    with pytest.raises(
        ModelError, match=r"other boxes than the graph: \d+ boxes differ; \d+ of \d+ boxes .* these differ:"
    ):
        imported(graph, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]

    report = imported(graph, tmp_path, force=True)
    assert any("other boxes than the graph" in text for text in report.unchecked)
    assert not any("decoding and NMS" in text for text in report.checks)


def test_box_weights_that_the_graph_does_not_have(tmp_path: Path) -> None:
    graph = torchvision_graph()[0]
    with pytest.raises(ModelError, match=r"only in the graph: class \d, score 0\.\d{4}, box ") as caught:
        imported(graph, tmp_path, box_weights=(10, 10, 5, 5))
    assert "Nothing was written" in str(caught.value)


def test_limits_of_the_user_are_no_difference(tmp_path: Path) -> None:
    graph = torchvision_graph(top_k=100)[0]
    report = imported(graph, tmp_path, score_threshold=0.5, nms_iou_threshold=0.7, max_detections=7, top_k=9)
    assert any("boxes of the graph's own decoding and NMS agree" in text for text in report.checks)
    assert (report.spec.score_threshold, report.spec.max_detections, report.spec.top_k) == (0.5, 7, 9)


def test_a_limit_of_the_user_where_that_of_the_graph_is_unknown(tmp_path: Path) -> None:
    """mmdeploy's graph has fewer candidates than its top-k, so it contains none."""
    report = imported(other.mmdeploy_whole()[0], tmp_path, top_k=5)
    (text,) = report.unchecked
    assert text.startswith("the boxes: the rules of mmdeploy give other boxes than the graph: ")
    assert text.endswith("You gave top_k; the value in the graph is not known")


def test_a_graph_that_finds_nothing_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Boxes.of(np.zeros((0, 4)), [], [])
    monkeypatch.setattr(box_comparison, "read_boxes", lambda outputs: nothing)
    with pytest.raises(ModelError, match="0 of 0 boxes of the graph's own decoding"):
        imported(torchvision_graph()[0], tmp_path)


def test_as_many_candidates_as_in_the_exported_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLPerf's export has the number of candidates of each level as a constant, and fails with fewer."""
    run, attempts = GraphTail.run, []

    def fail_first(tail: GraphTail, values: Any) -> Any:
        attempts.append(values)
        if len(attempts) % 2:
            raise RuntimeError("k argument [1000] should not be greater than specified axis dim value [40]")
        return run(tail, values)

    monkeypatch.setattr(GraphTail, "run", fail_first)
    report = imported(torchvision_graph()[0], tmp_path)
    assert len(attempts) == 6
    few, many = (values["logits_p7"] for values in attempts[:2])
    assert (few > -2.9).sum() < (many > -2.9).sum() == many.size
    assert re.match(AGREE, report.checks[-1])


@pytest.mark.parametrize(
    ("make", "flavour", "reason"),
    [
        (lambda: other.odtk()[0], "odtk", "NMS.*; the graph has no NMS of its own to compare with. Compare with boxes"),
        (lambda: other.mmdeploy()[0], "mmdeploy", r"ONNX Runtime cannot run mmdeploy\.TRTBatchedNMS, which the graph"),
    ],
    ids=["no NMS", "NMS of a plugin"],
)
def test_what_cannot_be_compared_is_said(
    make: Callable[[], onnx.ModelProto], flavour: str, reason: str, tmp_path: Path
) -> None:
    report = imported(make(), tmp_path, flavour=flavour)
    (text,) = report.unchecked
    assert text.startswith("anchors, strides, ")
    assert re.search(reason, text)
    assert "retinasdk verify MODEL --expected boxes.json --image photo.jpg" in text
    assert f"not checked: {text}" in str(report)


def test_rules_in_the_graph_are_not_listed_as_unknown(tmp_path: Path) -> None:
    """The NMS has no boxes to give, since its result is no output; its thresholds were read all the same."""
    model = torchvision_graph()[0]
    del model.graph.output[0]
    (text,) = imported(model, tmp_path).unchecked
    assert text.startswith("clipping; its outputs are not known as boxes, scores and labels (")


# -- the outputs -------------------------------------------------------------------------------------------------------

BOXES, SCORES, LABELS = np.arange(12, dtype=np.float32).reshape(3, 4), np.float32([0.9, 0.8, 0.0]), np.array([2, 0, 1])


@pytest.mark.parametrize(
    "outputs",
    [
        [BOXES, SCORES, LABELS],
        [LABELS.astype(np.float32), BOXES[None], SCORES[None]],
        [np.concatenate([BOXES, SCORES[:, None]], axis=1)[None], LABELS[None].astype(np.int32)],
        [np.array(2), BOXES, SCORES, LABELS, np.zeros((1, 9, 4, 4), np.float32)],
        [BOXES, np.float32([0.9, 0.8, -1]), np.array([2, 0, -1])],
    ],
    ids=["plain", "batch and float labels", "dets", "with more", "filled up"],
)
def test_known_outputs(outputs: list[np.ndarray[Any, Any]]) -> None:
    found = read_boxes({str(index): values for index, values in enumerate(outputs)})
    assert found is not None
    assert found.xyxy.tolist() == BOXES[:2].tolist()
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.class_ids.tolist() == [2, 0]


@pytest.mark.parametrize(
    "outputs",
    [
        [BOXES, SCORES],
        [BOXES, BOXES, SCORES, LABELS],
        [BOXES, np.zeros((3, 80), np.float32)],
        [np.zeros((3, 6), np.float32), LABELS],
        [BOXES, SCORES[:2], LABELS],
        [],
    ],
    ids=["no labels", "two images", "scores of classes", "rotated", "lengths", "none"],
)
def test_unknown_outputs(outputs: list[np.ndarray[Any, Any]]) -> None:
    assert read_boxes({str(index): values for index, values in enumerate(outputs)}) is None


# -- matching and ties -------------------------------------------------------------------------------------------------


def test_no_box_is_in_two_pairs() -> None:
    twice = Boxes.of([[0, 0, 9, 9], [0, 0, 9, 9]], [0.5, 0.5], [1, 1])
    once = Boxes.of([[0, 0.05, 9, 9]], [0.5], [1])
    assert len(pair_equal(twice, once, pixels=0.1, score=0.001)) == 1
    assert len(pair_equal(once, twice, pixels=0.1, score=0.001)) == 1
    assert len(pair_equal(once, Boxes.of(once.xyxy, once.scores, [0]), pixels=0.1, score=0.001)) == 0
    assert len(pair_equal(once, Boxes.of(once.xyxy + 0.11, once.scores, [1]), pixels=0.1, score=0.001)) == 0
    assert len(pair_equal(once, Boxes.of(once.xyxy, once.scores + 0.0011, [1]), pixels=0.1, score=0.001)) == 0


def explained(expected: Boxes, found: Boxes, candidates: Boxes, **limits: Any) -> tuple[list[bool], list[bool]]:
    ties = Ties(candidates, limits.pop("scores", [0.05]), **{"iou_threshold": 0.5, "max_detections": 100, **limits})
    pairs = pair_equal(expected, found, pixels=0.1, score=0.001)
    left = are_left(len(expected), pairs[:, 0]), are_left(len(found), pairs[:, 1])
    missing, extra = ties.explain(expected, found, *left)
    return missing.tolist(), extra.tolist()


ONE, FAR, HALF = [0.0, 0.0, 30.0, 10.0], [100.0, 0.0, 130.0, 10.0], [10.0, 0.0, 40.0, 10.0]  # IoU of ONE and HALF: 0.5


def test_a_score_at_the_threshold_is_a_tie() -> None:
    both, one = Boxes.of([ONE, FAR], [0.9, 0.050001], [0, 0]), Boxes.of([ONE], [0.9], [0])
    assert explained(both, one, both) == ([False, True], [False])
    both = Boxes.of([ONE, FAR], [0.9, 0.0502], [0, 0])
    assert explained(both, one, both) == ([False, False], [False])


def test_an_overlap_at_the_threshold_is_a_tie() -> None:
    both, one = Boxes.of([ONE, HALF], [0.9, 0.8], [0, 0]), Boxes.of([ONE], [0.9], [0])
    assert explained(both, one, both) == ([False, True], [False])
    assert explained(both, one, both, iou_threshold=0.6) == ([False, False], [False])
    other_class = Boxes.of([ONE, HALF], [0.9, 0.8], [0, 1])
    assert explained(other_class, one, other_class) == ([False, False], [False])


def test_equal_scores_are_a_tie() -> None:
    candidates = Boxes.of([ONE, HALF], [0.9, 0.9], [0, 0])
    first, second = candidates.take(np.array([0])), candidates.take(np.array([1]))
    assert explained(first, second, candidates, iou_threshold=0.4) == ([True], [True])
    candidates = Boxes.of([ONE, HALF], [0.9, 0.8], [0, 0])
    first, second = candidates.take(np.array([0])), candidates.take(np.array([1]))
    assert explained(first, second, candidates, iou_threshold=0.4) == ([False], [False])


def test_a_tie_moves_the_last_box() -> None:
    """One more box above the end of the list pushes the last one out."""
    candidates = Boxes.of([ONE, HALF, FAR], [0.9, 0.8, 0.7], [0, 0, 0])
    first, second = candidates.take(np.array([0, 1])), candidates.take(np.array([0, 2]))
    assert explained(first, second, candidates, max_detections=2) == ([False, True], [False, True])
    assert explained(first, second, candidates, max_detections=3) == ([False, True], [False, False])


def test_another_maximum_is_no_tie() -> None:
    candidates = Boxes.of([ONE, HALF, FAR], [0.9, 0.8, 0.7], [0, 0, 0])
    less = candidates.take(np.array([0]))
    assert explained(candidates, less, candidates, max_detections=1, iou_threshold=0.7) == (
        [False, False, False],
        [False],
    )
