"""Runs the decoding and NMS of a graph and those of a spec on the same head outputs, and compares the boxes.

Note [What is compared]
Both sides get the same head outputs: those that the original network computes for a seeded picture. The imported
network computes the same ones, which `check_heads` has shown. On one side, the part of the original graph after its
heads turns them into boxes; on the other side, the rules of the spec do. So a difference is a difference of the rules.

Pictures of random blocks show no objects, and a trained network gives them low scores. So a constant is added to the
class logits of each level, the same on both sides, so that each level has candidates above the threshold: a few in the
first picture, where all of them matter, and more in the others, where the top-k and the maximum of detections matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.box_matching import Boxes, are_left, pair_equal
from retinasdk._util.lazy import require
from retinasdk.convert.importing.box_ties import Ties
from retinasdk.convert.importing.check import expected_output
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.graph_detections import GraphTail, custom_operators, read_boxes
from retinasdk.convert.importing.graph_postprocessing import GraphPostprocessing
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.onnx_runner import OnnxRunner, first_line
from retinasdk.convert.importing.original_run import image_and_feeds, with_dynamic_names
from retinasdk.convert.importing.raised_scores import best, raise_of
from retinasdk.convert.importing.subgraph import ModelOutput, extract_subgraph
from retinasdk.pipeline.postprocess import decode, sigmoid, suppress, to_original
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.suppression import Suppression
from retinasdk.pipeline.types import HeadOutputs, Kept
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

PIXELS, SCORE = 0.1, 0.001
# (height, width) of the pictures: long and narrow, so that they are small, and still larger than the anchors of the
# coarsest level along one side. 64 and 128 do not divide the long sides, where the rules of strides differ.
_SIZES = ((160, 1120), (608, 224), (288, 352))
_RESIZED_SIZES = ((60, 600), (500, 70), (90, 620))
_MAX_PIXELS = 1_500_000  # Of all pictures together, so that a network of a large fixed size is checked in seconds.
_CANDIDATES = (30, 300)  # How many candidates of a level pass the threshold in the first two pictures.


@dataclass
class Tally:
    """What was compared so far."""

    pictures: int = 0
    boxes: int = 0
    equal: int = 0
    tied: int = 0
    differing: int = 0
    examples: tuple[str, ...] = ()  # The boxes that differ, in words.
    ties: tuple[str, ...] = ()


class NotComparableError(Exception):
    """The graph's own decoding and NMS cannot be run or read; the text is a part of a sentence that says why."""


class BoxComparison:
    """Runs both sides on the pictures and collects the differences.

    Args:
        view: The original graph.
        network: Input of the network.
        heads: The heads.
        spec: The spec of the imported model, with the thresholds and limits of the graph.
        outputs: Outputs of the imported model: logits of all levels, then deltas.
        sources: Index in `heads.tensor_names` of each output.
        postprocessing: Rules that were read in the graph.

    Raises:
        NotComparableError: ONNX Runtime cannot load the graph.
    """

    def __init__(
        self,
        view: GraphView,
        network: NetworkInput,
        heads: HeadPair,
        spec: ModelSpec,
        outputs: Sequence[ModelOutput],
        sources: Sequence[int],
        postprocessing: GraphPostprocessing,
    ) -> None:
        self._onnx = require("onnx", "importing ONNX models")
        self._view, self._network, self._heads, self._spec = view, network, heads, spec
        self._outputs, self._sources = outputs, sources
        self._suppression = Suppression(max_per_class=postprocessing.max_per_class)
        self._resized = _resized_tensor(view, network)
        self._tail = GraphTail(view, heads)
        wanted = [network.tensor, *heads.tensor_names, *self._tail.borders, *([self._resized] if self._resized else [])]
        self._inner = [name for name in dict.fromkeys(wanted) if name in view.producer]
        needed = {name for index in view.ancestors(self._inner) for name in view.inputs_of(index)}
        inputs = {item.name: with_dynamic_names(view.shape(item.name)) for item in view.inputs if item.name in needed}
        self._network_inputs = list(inputs)
        try:
            # Optimized, since both sides get the same values.
            self._runner = OnnxRunner(extract_subgraph(view, inputs, self._inner), optimize=True)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class.
            raise self._cannot_run(error) from error

    def _cannot_run(self, error: Exception) -> NotComparableError:
        custom = custom_operators(self._view, self._heads)
        if custom:
            return NotComparableError(
                f"ONNX Runtime cannot run {', '.join(custom)}, which the graph uses after its heads"
            )
        return NotComparableError(f"ONNX Runtime cannot run the graph's own decoding and NMS: {first_line(error)}")

    def run(self) -> Tally:
        """Compares all pictures.

        Raises:
            NotComparableError: The graph's own decoding and NMS cannot be run, or its outputs are not known.
        """
        tally = Tally()
        pixels = 0
        for index, size in enumerate(_RESIZED_SIZES if self._resized else _SIZES):
            image, feeds = image_and_feeds(self._onnx, self._view, self._network, self._allowed(size), seed=index)
            try:
                values = self._runner.run({name: feeds[name] for name in self._network_inputs}, self._inner)
            except Exception as error:
                raise self._cannot_run(error) from error
            known = {**feeds, **dict(zip(self._inner, values, strict=True))}
            tensor = known[self._network.tensor]
            pixels += tensor.shape[0] * tensor.shape[2] * tensor.shape[3]
            if tally.pictures and pixels > _MAX_PIXELS:
                break
            self._add(tally, index, (image.shape[0], image.shape[1]), known)
        return tally

    def _allowed(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns a size that the network takes: where the graph does not pad, a multiple of what the spec pads to."""
        if self._resized or "Pad" in self._network.steps:
            return size
        multiple = self._spec.pad_multiple
        return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple

    def _add(
        self,
        tally: Tally,
        index: int,
        size: tuple[int, int],
        known: dict[str, npt.NDArray[Any]],
    ) -> None:
        names = self._heads.tensor_names
        count = len(self._outputs) // 2
        wanted = _CANDIDATES[index] if index < len(_CANDIDATES) else self._spec.top_k * 6 // 5
        raised = self._raised(known, wanted)
        try:
            outputs = self._tail.run(raised)
        except Exception:  # Some exports work only with as many candidates as there were in the exported image.
            raised = self._raised(known, None)
            try:
                outputs = self._tail.run(raised)
            except Exception as error:
                raise self._cannot_run(error) from error
        expected = read_boxes(outputs)
        if expected is None:
            listed = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in outputs.items())
            raise NotComparableError(f"its outputs are not known as boxes, scores and labels ({listed})")
        head_values = [
            np.ascontiguousarray(expected_output(raised[names[source]][:1], output))
            for output, source in zip(self._outputs, self._sources, strict=True)
        ]
        heads = HeadOutputs(tuple(head_values[:count]), tuple(head_values[count:]))
        transform = self._transform(size, known)
        found, ties = self._by_the_spec(heads, transform)
        self._compare(tally, expected, found, ties)

    def _raised(self, known: dict[str, npt.NDArray[Any]], wanted: int | None) -> dict[str, npt.NDArray[Any]]:
        """Returns the values with other logits, so that `wanted` candidates of each level pass the threshold."""
        raised = dict(known)
        for name in self._heads.logits.tensor_names:
            values = known[name]
            step = raise_of(values[0], self._spec.score_threshold, wanted)
            raised[name] = values + np.asarray(step, values.dtype)
        return raised

    def _transform(self, size: tuple[int, int], known: dict[str, npt.NDArray[Any]]) -> Transform:
        padded = (int(known[self._network.tensor].shape[2]), int(known[self._network.tensor].shape[3]))
        scale = 1.0 if self._spec.rescale == "uniform" else None
        if self._resized is None:
            return Transform(size, size, padded, scale)  # The boxes of the graph are in pixels of its input.
        # By the size in the graph: whether the spec resizes alike is checked with the pixels.
        resized = (int(known[self._resized].shape[-2]), int(known[self._resized].shape[-1]))
        return Transform(size, resized, padded, None if scale is None else self._spec.resize.scale(*size))

    def _by_the_spec(self, heads: HeadOutputs, transform: Transform) -> tuple[Boxes, Ties]:
        spec = self._spec
        candidates = decode(heads, spec, [transform], score_threshold=spec.score_threshold)
        (kept,) = to_original(suppress(candidates, spec, self._suppression), spec, [transform])
        count = candidates.counts[0]
        known = Kept(
            transform.to_original(candidates.boxes[0, :count]),
            sigmoid(candidates.logits[0, :count]),
            candidates.class_ids[0, :count],
        )
        limits = [spec.score_threshold]
        for level in heads.logits:
            if level.size > spec.top_k:
                limits.append(float(sigmoid(best(level.reshape(-1), spec.top_k + 1)[-2:]).mean()))
        ties = Ties(
            Boxes.of(known.boxes, known.scores, known.class_ids),
            limits,
            iou_threshold=spec.nms_iou_threshold,
            max_detections=spec.max_detections,
        )
        return Boxes.of(kept.boxes, kept.scores, kept.class_ids), ties

    def _compare(self, tally: Tally, expected: Boxes, found: Boxes, ties: Ties) -> None:
        pairs = pair_equal(expected, found, pixels=PIXELS, score=SCORE)
        missing, extra = are_left(len(expected), pairs[:, 0]), are_left(len(found), pairs[:, 1])
        tied_missing, tied_extra = ties.explain(expected, found, missing, extra)
        tally.pictures += 1
        tally.boxes += len(expected)
        tally.equal += len(pairs)
        tally.tied += int(tied_missing.sum() + tied_extra.sum())
        lost, more = expected.take(missing & ~tied_missing), found.take(extra & ~tied_extra)
        tally.differing += len(lost) + len(more)
        for boxes, where in ((lost, "only in the graph"), (more, "only by the spec")):
            tally.examples += tuple(f"{where}: {text}" for text in self._describe(boxes))
        for boxes in (expected.take(tied_missing), found.take(tied_extra)):
            tally.ties += tuple(self._describe(boxes))

    def _describe(self, boxes: Boxes) -> list[str]:
        return [
            f"{self._spec.labels[class_id] if class_id < len(self._spec.labels) else class_id}, score {score:.4f}, box "
            f"{' '.join(f'{value:.2f}' for value in box)}"
            for box, score, class_id in zip(
                boxes.xyxy.tolist(), boxes.scores.tolist(), boxes.class_ids.tolist(), strict=True
            )
        ]


def _resized_tensor(view: GraphView, network: NetworkInput) -> str | None:
    """Returns the output of the Resize in the preprocessing, or None if the graph does not resize."""
    current: str | None = network.tensor
    while current in view.producer:
        index = view.producer[current]
        if view.nodes[index].op_type == "Resize":
            return current
        current = view.pixel_input(index)
    return None
