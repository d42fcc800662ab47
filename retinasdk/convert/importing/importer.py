"""`import_onnx`: the whole way, a line for each step."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinasdk._util.files import write_together
from retinasdk.convert.flavours import load_preset
from retinasdk.convert.flavours.preset import ANCHORS, level_name
from retinasdk.convert.importing.channels import channel_order
from retinasdk.convert.importing.check import check_heads, check_model, check_preprocessing
from retinasdk.convert.importing.cut import Output, heads_model
from retinasdk.convert.importing.evidence import choose_flavour, collect_facts, rules_in_graph
from retinasdk.convert.importing.graph import GraphView, count_ops
from retinasdk.convert.importing.heads import Heads, find_heads
from retinasdk.convert.importing.inputs import NetworkInput, find_input
from retinasdk.convert.importing.loading import MAX_BYTES, load_model
from retinasdk.convert.importing.report import FoundLevel, ImportReport
from retinasdk.convert.importing.rules import AnchorsOfLevels, make_spec
from retinasdk.convert.importing.trial import Freedom, OldRun, find_freedom, run_old
from retinasdk.convert.importing.validate import check_sound
from retinasdk.errors import ModelError
from retinasdk.spec import METADATA_KEY, ModelSpec


def import_onnx(
    path: str | Path,
    output: str | Path,
    *,
    flavour: str = "auto",
    labels: Sequence[str] | None = None,
    name: str | None = None,
    base_anchors: AnchorsOfLevels | None = None,
    box_head: str | None = None,
) -> ImportReport:
    """Writes the RetinaNet in the ONNX file `path` as retinasdk wants it to `output` (.onnx), and its spec beside it.

    flavour: whose rules the network follows, one of `list_flavours()`; "auto" decides by what is in the graph,
        or refuses.
    labels: one name per class index; None: the framework's usual ones, if their number is right.
    name: of the model, for people.
    base_anchors: (levels, A, 4) xyxy in input pixels around cell (0, 0), where they are not the framework's usual ones
        and not in the graph.
    box_head: the name of a tensor of the box head, where shapes do not tell the two heads apart.

    Both files are written when all is checked, or none. Raises `ModelError` for what is no RetinaNet, is damaged, or
    leaves a choice open that the arguments have to make; `ValueError` for an output that is no .onnx file.
    """
    path, output = Path(path), Path(output)
    if output.suffix.lower() != ".onnx":
        raise ValueError(f"output must be the name of an .onnx file, got {str(output)!r}")
    try:
        report, model = _import(path, output, flavour, labels, name, base_anchors, box_head)
    except ModelError as error:
        raise error if str(path) in str(error) else ModelError(f"{path}: {error}") from error
    spec = report.spec.to_json().encode()
    write_together({output: model.SerializeToString(), output.with_suffix(".json"): spec})
    return report


def _import(
    path: Path,
    output: Path,
    flavour: str,
    labels: Sequence[str] | None,
    name: str | None,
    base_anchors: AnchorsOfLevels | None,
    box_head: str | None,
) -> tuple[ImportReport, Any]:
    wanted = None if flavour == "auto" else load_preset(flavour)
    view = GraphView(load_model(path))
    heads = find_heads(view, anchors=len(base_anchors[0]) if base_anchors else ANCHORS, box_head=box_head)
    network = find_input(view, heads)
    check_sound(view, network, heads)
    facts = collect_facts(view, heads, network)
    if wanted is None:
        flavour, evidence = choose_flavour(view, facts)
        preset = load_preset(flavour)
    else:
        preset, evidence = wanted, ("it was asked for",)

    old = run_old(view, network, heads)
    freedom = find_freedom(view, network, heads, old)
    levels = _match_levels(heads, freedom)
    outputs, notes = _outputs(view, heads, levels, old)
    model = heads_model(view, network.tensor, outputs, freedom.sides)
    spec, rule_notes = make_spec(
        preset,
        classes=heads.classes,
        anchors=heads.anchors,
        strides=[level.stride for level in levels],
        network=network,
        behind=rules_in_graph(view, heads),
        sides=freedom.sides,
        labels=labels,
        name=name,
        base_anchors=base_anchors,
        source=_origin(path, view, network),
    )
    _seal(model, spec)
    sources = [level.logits for level in levels] + [level.deltas for level in levels]
    checks = [check_model(model), check_heads(model, old, outputs, sources), *check_preprocessing(old, network, spec)]
    report = ImportReport(
        source=path,
        output=output,
        spec=spec,
        producer=f"{view.model.producer_name} {view.model.producer_version}".strip(),
        opset=view.opset,
        levels=tuple(_describe(heads, level) for level in levels),
        anchors=heads.anchors,
        classes=heads.classes,
        channel_order="value by value" if any(item.order for item in outputs) else "anchor by anchor",
        shared_heads=heads.logits.shared and heads.deltas.shared,
        input_sides=freedom.sides,
        image_input=network.image,
        preprocessing=network.steps,
        cut=_removed(view, model),
        evidence=evidence,
        checks=tuple(checks),
        notes=(*notes, *rule_notes),
    )
    return report, model


@dataclass(frozen=True)
class _Level:
    """stride: nominal, pixels. logits, deltas: which of `Heads.tensors`."""

    stride: int
    logits: int
    deltas: int


def _match_levels(heads: Heads, freedom: Freedom) -> list[_Level]:
    """Levels from the finest on; a level's two outputs are those of the same size. Raises `ModelError`."""
    count = len(heads.logits.taps)
    ordered = [
        sorted(indices, key=lambda index: freedom.sizes[index], reverse=True)
        for indices in (range(count), range(count, 2 * count))
    ]
    sizes, others = ([freedom.sizes[index] for index in indices] for indices in ordered)
    halves = all(_is_half(small, large) for large, small in itertools.pairwise(sizes))
    if sizes != others or len(set(sizes)) != count or not halves:
        listed = [" ".join(f"{height}x{width}" for height, width in item) for item in (sizes, others)]
        raise ModelError(
            "wanted class and box heads on the same levels, each half as large as the one before; got "
            f"{listed[0]} and {listed[1]}"
        )
    finest = 2 ** round(math.log2(freedom.ran_at[0] / sizes[0][0]))
    return [_Level(finest << level, *indices) for level, indices in enumerate(zip(*ordered, strict=True))]


def _is_half(small: tuple[int, int], large: tuple[int, int]) -> bool:
    """Along both axes, rounded up or down."""
    return all(abs(2 * mine - theirs) <= 1 for mine, theirs in zip(small, large, strict=True))


def _outputs(
    view: GraphView, heads: Heads, levels: Sequence[_Level], old: OldRun | str
) -> tuple[list[Output], list[str]]:
    """The new outputs, logits of all levels and then deltas, and what to note of their channels."""
    outputs, unproven = [], []
    for kind, head, indices in (
        ("logits", heads.logits, [level.logits for level in levels]),
        ("deltas", heads.deltas, [level.deltas - len(levels) for level in levels]),
    ):
        order, is_proven = channel_order(view, head, heads.anchors, kind, old)
        unproven += [] if is_proven else [kind]
        outputs += [
            Output(f"{kind}_{level_name(level.stride)}", head.taps[index], head.channels, order)
            for level, index in zip(levels, indices, strict=True)
        ]
    notes = (
        [
            f"the channel order of the {' and '.join(unproven)} (anchor by anchor) is taken for granted: nothing in "
            "the graph shows it"
        ]
        if unproven
        else []
    )
    return outputs, notes


def _describe(heads: Heads, level: _Level) -> FoundLevel:
    tensors = heads.tensors
    return FoundLevel(level_name(level.stride), tensors[level.logits], tensors[level.deltas], level.stride)


def _origin(path: Path, view: GraphView, network: NetworkInput) -> dict[str, str]:
    """Notes for the spec: what was imported, and what it said itself."""
    origin = {"imported_from": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if view.model.producer_name:
        origin["producer"] = f"{view.model.producer_name} {view.model.producer_version}".strip()
    if network.normalise is not None:
        origin["normalise_in_graph"] = f"mean {network.normalise.mean}, std {network.normalise.std}, of 255"
    return origin


def _removed(view: GraphView, model: Any) -> dict[str, int]:
    counts = count_ops(view.nodes)
    counts.subtract(count_ops(model.graph.node))
    return {kind: count for kind, count in counts.most_common() if count > 0}


def _seal(model: Any, spec: ModelSpec) -> None:
    """Puts the spec into the model."""
    model.producer_name = "retinasdk"
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    if model.ByteSize() > MAX_BYTES:
        raise ModelError(
            f"wanted a network that fits into one file of 2 GiB, got {model.ByteSize() / (1 << 30):.1f} GiB; "
            "convert its weights to float16 first"
        )
