"""Checks the boxes of an import against those of the original graph, and says what nothing could be checked against."""

from __future__ import annotations

from collections.abc import Sequence

from retinasdk.convert.importing.box_comparison import PIXELS, SCORE, BoxComparison, NotComparableError
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.graph_postprocessing import GraphPostprocessing
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.report import Finding
from retinasdk.convert.importing.subgraph import ModelOutput
from retinasdk.errors import ModelError
from retinasdk.spec import ModelSpec

_SHARE = 0.01  # More boxes than this may not differ; none at all where there are fewer than 100.
_TIED_SHARE, _FEW_TIES = 0.05, 3  # Ties are rare. More of them than this are no coincidence.
_SHOWN = 5
# What the user may change without a contradiction. The comparison takes the values of the graph.
_CHANGEABLE = ("score_threshold", "nms_iou_threshold", "top_k", "max_detections")
_FACTS = {
    "base_anchors": "anchors",
    "stride": "strides",
    "box_coder": "box decoding",
    "clip": "clipping",
    "score_threshold": "score threshold",
    "top_k": "top-k",
    "nms_iou_threshold": "NMS",
    "max_detections": "maximum of detections",
    "normalise": "normalization",
    "resize": "resize",
}


def check_boxes(
    view: GraphView,
    network: NetworkInput,
    heads: HeadPair,
    spec: ModelSpec,
    outputs: Sequence[ModelOutput],
    sources: Sequence[int],
    postprocessing: GraphPostprocessing,
    findings: Sequence[Finding],
    *,
    force: bool,
) -> tuple[bool, str]:
    """Compares the boxes of the spec with those of the graph's own decoding and NMS.

    Args:
        view: The original graph.
        network: Input of the network.
        heads: The heads.
        spec: The spec of the imported model.
        outputs: Outputs of the imported model: logits of all levels, then deltas.
        sources: Index in `heads.tensor_names` of each output.
        postprocessing: Rules that were read in the graph. Thresholds and limits that the user changed are compared at
            their values in the graph.
        findings: Where the rules come from.
        force: Whether a difference is reported instead of raised.

    Returns:
        Whether the boxes are compared and equal, and a sentence for the report.

    Raises:
        ModelError: More than 1 % of the boxes differ, `force` is False, and the user changed no threshold or limit
            whose value in the graph is not known.
    """
    if not postprocessing.has_nms:
        return False, _unknown_facts(findings, "the graph has no NMS of its own to compare with")
    if postprocessing.several:
        rules = ", ".join(postprocessing.several)
        return False, _unknown_facts(findings, f"the graph contains several values of {rules}, and a model has one")
    given = {item.rule for item in findings if item.kind == "given"} & set(_CHANGEABLE)
    in_graph = {name: value for name in given if (value := getattr(postprocessing, name)) is not None}
    spec = spec.replace(**in_graph)
    try:
        comparison = BoxComparison(view, network, heads, spec, outputs, sources, postprocessing)
        tally = comparison.run()
    except NotComparableError as error:
        return False, _unknown_facts(findings, str(error))
    if tally.boxes == tally.differing == 0:
        return False, _unknown_facts(findings, "the graph finds no boxes in the test pictures")
    agreement = (
        f"{tally.equal} of {tally.boxes} boxes of the graph's own decoding and NMS agree within {PIXELS:g} px and "
        f"{SCORE:g} of score, on {_count(tally.pictures, 'picture')} of random blocks"
    )
    differing = _listed("these differ", tally.examples)
    tied = _listed("these hang on the rounding of float32, at a limit or between equal numbers", tally.ties)
    if tally.differing <= _SHARE * tally.boxes and tally.tied <= max(_FEW_TIES, _TIED_SHARE * tally.boxes):
        return True, f"{agreement}{differing}{tied}"
    text = (
        f"the rules of {spec.flavour} give other boxes than the graph: {_count(tally.differing or tally.tied, 'box')} "
        f"differ; {agreement}{differing or tied}"
    )
    unread = sorted(given - in_graph.keys())
    if unread:
        return False, f"the boxes: {text}. You gave {', '.join(unread)}; the value in the graph is not known"
    if not force:
        raise ModelError(
            f"{text}\nNothing was written. Name the framework that exported the graph (--flavour), or give the rule "
            "that differs, such as --anchors, --strides, --box-weights or --nms-iou. Insist with --force (in Python: "
            "force=True)"
        )
    return False, f"the boxes: {text}"


def _unknown_facts(findings: Sequence[Finding], reason: str) -> str:
    """Returns a sentence on the rules that nothing in the graph confirms, and how to check them."""
    read = {item.rule for item in findings if item.kind == "read"}
    facts = [text for rule, text in _FACTS.items() if rule not in read]
    return (
        f"{', '.join(facts)}; {reason}. Compare with boxes of your framework: retinasdk verify MODEL --expected "
        "boxes.json --image photo.jpg"
    )


def _listed(title: str, boxes: Sequence[str]) -> str:
    """Returns the first boxes, each on a line of its own, after a title; nothing if there are none."""
    lines = [*boxes[:_SHOWN], *([f"and {len(boxes) - _SHOWN} more"] if len(boxes) > _SHOWN else [])]
    return f"; {title}:" + "".join(f"\n  {line}" for line in lines) if boxes else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('x') else 's'}"
