"""`import_onnx`: reads the graph, concludes the rules, writes and checks the model."""

from __future__ import annotations

import hashlib
import itertools
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinasdk._util.files import write_together
from retinasdk.convert.flavours import load_preset
from retinasdk.convert.flavours.preset import ANCHORS_PER_CELL, level_name
from retinasdk.convert.importing.channels import channel_order
from retinasdk.convert.importing.check import check_heads, check_model, check_preprocessing
from retinasdk.convert.importing.flavour_choice import choose_flavour, collect_evidence
from retinasdk.convert.importing.graph import GraphView, count_ops
from retinasdk.convert.importing.graph_postprocessing import read_postprocessing
from retinasdk.convert.importing.heads import HeadPair, find_heads
from retinasdk.convert.importing.inputs import NetworkInput, find_input
from retinasdk.convert.importing.loading import MAX_BYTES, load_model
from retinasdk.convert.importing.network_shape import NetworkShape, find_network_shape
from retinasdk.convert.importing.original_run import OriginalRun, run_original
from retinasdk.convert.importing.report import FoundLevel, ImportReport
from retinasdk.convert.importing.spec_builder import LevelAnchors, build_spec
from retinasdk.convert.importing.subgraph import ModelOutput, build_heads_model
from retinasdk.convert.importing.validate import validate_network
from retinasdk.errors import ModelError
from retinasdk.spec import METADATA_KEY, ModelSpec


def import_onnx(
    path: str | Path,
    output: str | Path,
    *,
    flavour: str = "auto",
    labels: Sequence[str] | None = None,
    name: str | None = None,
    base_anchors: LevelAnchors | None = None,
    box_head: str | None = None,
) -> ImportReport:
    """Converts a RetinaNet that another framework exported to ONNX.

    The import keeps the network from its normalized input to its raw heads, and removes the preprocessing before and
    the decoding and NMS after them. The rules of what was removed become the model spec. The written model is compared
    with the original graph before anything is written; either both files are written, or none.

    Example:
        ```py
        report = import_onnx("theirs.onnx", "model.onnx", flavour="mmdet", labels=["bolt", "nut"])
        print(report)
        ```

    Args:
        path: The ONNX file as the framework exported it. Opset 11 to 25; weights may be in external files.
        output: The ONNX file to write. The spec is written beside it, with the suffix .json, and into it.
        flavour: The framework whose rules the network follows, one of `list_flavours()`. "auto" concludes it from the
            graph and raises an error where the graph does not tell.
        labels: One label for each class, by class index. Defaults to the framework's usual labels if their number fits,
            otherwise to "class 0", "class 1" and so on.
        name: Name of the model, for people. Defaults to the title of the framework's preset.
        base_anchors: Anchors xyxy around cell (0, 0), in pixels of the network input, as nested sequences of shape
            (levels, A, 4), finest level first. Needed where they are neither the framework's defaults nor in the graph.
        box_head: Name of a tensor, node or weight of the box regression head. Needed only where both heads have the
            same number of channels and nothing else tells them apart.

    Returns:
        What was found, removed and checked. Read `notes`: they name what the import assumed.

    Raises:
        ModelError: The file is not a RetinaNet, is damaged, or an argument is needed to decide; the message says which.
        ValueError: `output` does not end in .onnx.
        OSError: The output cannot be written.
        MissingDependencyError: The package onnx is missing.
    """
    path, output = Path(path), Path(output)
    if output.suffix.lower() != ".onnx":
        raise ValueError(f"the output {str(output)!r} must be the name of an .onnx file, such as model.onnx")
    try:
        report, model = _import(path, output, flavour, labels, name, base_anchors, box_head)
    except ModelError as error:
        raise error if str(error).startswith(str(path)) else ModelError(f"{path}: {error}") from error
    spec = report.spec.to_json().encode()
    write_together({output: model.SerializeToString(), output.with_suffix(".json"): spec})
    return report


def _import(
    path: Path,
    output: Path,
    flavour: str,
    labels: Sequence[str] | None,
    name: str | None,
    base_anchors: LevelAnchors | None,
    box_head: str | None,
) -> tuple[ImportReport, Any]:
    command = shlex.join(["retinasdk", "import", str(path), "-o", str(output)])
    preset = None if flavour == "auto" else load_preset(flavour)

    # What is read in the graph.
    view = GraphView(load_model(path))
    usual_anchors = len(base_anchors[0]) if base_anchors else ANCHORS_PER_CELL
    heads = find_heads(view, anchors=usual_anchors, box_head=box_head, command=command)
    network = find_input(view, heads)
    validate_network(view, network, heads)
    postprocessing = read_postprocessing(view, heads)

    # What is concluded from it.
    if preset is None:
        evidence = collect_evidence(view, heads, network, postprocessing)
        flavour, reasons = choose_flavour(view, evidence, command=command)
        preset = load_preset(flavour)
    else:
        reasons = ("you named this framework",)
    original = run_original(view, network, heads)
    shape = find_network_shape(view, network, heads, original)
    levels = _match_levels(heads, shape)
    outputs, channel_notes = _outputs(view, heads, levels, original)

    # What is written.
    model = build_heads_model(view, network.tensor, outputs, shape.dimensions)
    spec, spec_notes = build_spec(
        preset,
        classes=heads.classes,
        anchors=heads.anchors,
        strides=[level.stride for level in levels],
        network=network,
        postprocessing=postprocessing,
        dimensions=shape.dimensions,
        labels=labels,
        name=name,
        base_anchors=base_anchors,
        source=_origin(path, view, network),
    )
    _embed_spec(model, spec)

    sources = [level.logits for level in levels] + [level.deltas for level in levels]
    checks = [
        check_model(model),
        check_heads(model, original, outputs, sources),
        *check_preprocessing(original, network, spec),
    ]
    report = ImportReport(
        source=path,
        output=output,
        spec=spec,
        producer=_producer(view),
        opset=view.opset,
        levels=tuple(_describe(heads, level) for level in levels),
        anchors=heads.anchors,
        classes=heads.classes,
        channel_order="value by value" if any(item.channel_order for item in outputs) else "anchor by anchor",
        shared_heads=heads.logits.shares_weights and heads.deltas.shares_weights,
        input_dimensions=shape.dimensions,
        image_input=network.image,
        preprocessing=network.steps,
        removed_operators=_removed_operators(view, model),
        evidence=reasons,
        checks=tuple(checks),
        notes=(*channel_notes, *spec_notes),
    )
    return report, model


@dataclass(frozen=True)
class _Level:
    """One level: its nominal stride in pixels, and the index of its two tensors in `HeadPair.tensor_names`."""

    stride: int
    logits: int
    deltas: int


def _match_levels(heads: HeadPair, shape: NetworkShape) -> list[_Level]:
    """Pairs the two heads by the size of their outputs, finest level first. Raises `ModelError`."""
    count = len(heads.logits.tensors)
    ordered = [
        sorted(indices, key=lambda index: shape.head_sizes[index], reverse=True)
        for indices in (range(count), range(count, 2 * count))
    ]
    sizes, others = ([shape.head_sizes[index] for index in indices] for indices in ordered)
    are_halves = all(_is_half(small, large) for large, small in itertools.pairwise(sizes))
    if sizes != others or len(set(sizes)) != count or not are_halves:
        listed = [" ".join(f"{height}x{width}" for height, width in item) for item in (sizes, others)]
        raise ModelError(
            "the class head and the box head do not form a pyramid: both need the same sizes, each half of the one "
            f"before, but the class head has {listed[0]} and the box head {listed[1]}. Export the whole network at one "
            "image size"
        )
    finest = 2 ** round(math.log2(shape.input_size[0] / sizes[0][0]))
    return [_Level(finest << level, *indices) for level, indices in enumerate(zip(*ordered, strict=True))]


def _is_half(small: tuple[int, int], large: tuple[int, int]) -> bool:
    """Whether both sides are half as long, rounded up or down."""
    return all(abs(2 * mine - theirs) <= 1 for mine, theirs in zip(small, large, strict=True))


def _outputs(
    view: GraphView, heads: HeadPair, levels: Sequence[_Level], original: OriginalRun | str
) -> tuple[list[ModelOutput], list[str]]:
    """Returns the outputs of the new model, logits of all levels and then deltas, and notes on their channel order."""
    outputs, assumed = [], []
    for kind, head, indices in (
        ("logits", heads.logits, [level.logits for level in levels]),
        ("deltas", heads.deltas, [level.deltas - len(levels) for level in levels]),
    ):
        order, is_shown = channel_order(view, head, heads.anchors, kind, original)
        assumed += [] if is_shown else [kind]
        outputs += [
            ModelOutput(f"{kind}_{level_name(level.stride)}", head.tensors[index], head.channels, order)
            for level, index in zip(levels, indices, strict=True)
        ]
    if not assumed:
        return outputs, []
    return outputs, [
        f"the channel order of the {' and '.join(assumed)} is assumed to be anchor by anchor, as in every known "
        "framework; nothing in the graph shows it"
    ]


def _describe(heads: HeadPair, level: _Level) -> FoundLevel:
    names = heads.tensor_names
    return FoundLevel(level_name(level.stride), names[level.logits], names[level.deltas], level.stride)


def _producer(view: GraphView) -> str:
    return f"{view.model.producer_name} {view.model.producer_version}".strip()


def _origin(path: Path, view: GraphView, network: NetworkInput) -> dict[str, str]:
    """Returns where the model comes from, for `ModelSpec.source`."""
    origin = {"imported_from": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if view.model.producer_name:
        origin["producer"] = _producer(view)
    if network.normalise is not None:
        origin["normalise_in_graph"] = f"mean {network.normalise.mean}, std {network.normalise.std}, of 255"
    return origin


def _removed_operators(view: GraphView, model: Any) -> dict[str, int]:
    counts = count_ops(view.nodes)
    counts.subtract(count_ops(model.graph.node))
    return {kind: count for kind, count in counts.most_common() if count > 0}


def _embed_spec(model: Any, spec: ModelSpec) -> None:
    """Writes the spec into the metadata of the model. Raises `ModelError` if the model is too large for one file."""
    model.producer_name = "retinasdk"
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"the imported network has {model.ByteSize() / (1 << 30):.1f} GiB and has to fit into one file of 2 GiB. "
            "Convert its weights to float16 first"
        )
