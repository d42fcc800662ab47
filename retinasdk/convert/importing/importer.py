"""`import_onnx`: reads the graph, concludes the rules, writes and checks the model."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinasdk._util.progress import ProgressCallback, begin
from retinasdk.convert.configs import read_config
from retinasdk.convert.flavours import Preset, load_preset
from retinasdk.convert.flavours.preset import ANCHORS_PER_CELL, level_name
from retinasdk.convert.importing.anchors import decide_geometry
from retinasdk.convert.importing.channels import channel_order, framework_order
from retinasdk.convert.importing.check import check_heads, check_model, check_preprocessing
from retinasdk.convert.importing.check_boxes import check_boxes
from retinasdk.convert.importing.flavour_choice import Evidence, choose_flavour, collect_evidence, contradictions
from retinasdk.convert.importing.from_config import compare_classes, preset_of_config, with_config
from retinasdk.convert.importing.graph import GraphView, count_ops
from retinasdk.convert.importing.graph_anchors import read_anchors
from retinasdk.convert.importing.graph_postprocessing import read_postprocessing
from retinasdk.convert.importing.heads import DELTAS, HeadPair, find_heads
from retinasdk.convert.importing.inputs import NetworkInput, find_input
from retinasdk.convert.importing.keras_hub import keep_exported_size
from retinasdk.convert.importing.levels import MatchedLevel, match_levels
from retinasdk.convert.importing.loading import MAX_BYTES, load_model
from retinasdk.convert.importing.network_shape import NetworkShape, declared_size, find_network_shape
from retinasdk.convert.importing.nhwc_padding import move_padding_behind_transposes
from retinasdk.convert.importing.options import ImportOptions, LevelAnchors, padded_size, read_resize
from retinasdk.convert.importing.original_run import OriginalRun, run_original
from retinasdk.convert.importing.report import Finding, FoundLevel, ImportReport
from retinasdk.convert.importing.spec_builder import SQUASHING, build_spec, with_findings
from retinasdk.convert.importing.subgraph import ModelOutput, build_heads_model
from retinasdk.convert.importing.tf_models import refuse_unlike_tf_models
from retinasdk.convert.importing.validate import validate_network
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.model_pair import write_model
from retinasdk.spec import METADATA_KEY, ModelSpec, Resize


def import_onnx(
    path: str | Path,
    output: str | Path,
    *,
    flavour: str = "auto",
    config: str | Path | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    base_anchors: LevelAnchors | None = None,
    anchor_sizes: Sequence[float] | None = None,
    anchor_ratios: Sequence[float] | None = None,
    anchor_scales: Sequence[float] | None = None,
    strides: Sequence[float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channel_order: str | None = None,
    resize: Resize | str | None = None,
    score_threshold: float | None = None,
    nms_iou_threshold: float | None = None,
    top_k: int | None = None,
    max_detections: int | None = None,
    box_weights: Sequence[float] | None = None,
    box_means: Sequence[float] | None = None,
    pad_multiple: int | None = None,
    box_head: str | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
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
        flavour: The framework whose rules the network follows, one of `list_flavours()`. A named framework is taken at
            its usual anchors, thresholds and sizes where the graph does not contain them. "auto" concludes it from the
            graph and raises an error where the graph does not tell.
        config: The config file of the training, from which the rules are taken that no other argument gives: a YAML
            file of detectron2, a Python, JSON or YAML file of mmdetection, or a JSON file of the arguments of
            torchvision's RetinaNet. It is not executed. YAML needs the package pyyaml.
        labels: One label for each class, by class index. Defaults to the framework's usual labels if their number fits,
            otherwise to "class 0", "class 1" and so on.
        name: Name of the model, for people. Defaults to the title of the framework's preset.
        base_anchors: Anchors xyxy around cell (0, 0), in pixels of the network input, as nested sequences of shape
            (levels, A, 4), finest level first. Defaults to those in the graph, or the usual ones of a named framework.
        anchor_sizes: In place of `base_anchors`: base size of the anchors of each level, the square root of an anchor's
            area in pixels. Order, rounding and center of the anchors follow the framework.
        anchor_ratios: Height / width of the anchors.
        anchor_scales: Factors of the base size, such as 1, 2^(1/3) and 2^(2/3).
        strides: Distance between two cells of each level in pixels. Defaults to those in the graph, or the usual rule.
        mean: Mean of each channel on a scale of 0 to 255, in the channel order of the network.
        std: Standard deviation of each channel on a scale of 0 to 255.
        channel_order: "RGB" or "BGR".
        resize: How images become the network input: a `Resize`, or text such as "shortest:800,1333" with the rounding
            and filter of the framework. "squash" and "fit" suffice for a network of a fixed size.
        score_threshold: Candidates have a score above this, 0 to 1.
        nms_iou_threshold: NMS removes a box if its IoU with a better one of its class is above this, 0 to 1.
        top_k: Candidates per level, counted as (anchor, class) pairs.
        max_detections: Detections per image.
        box_weights: What the four deltas are divided by, x y width height; 1 / std where the framework speaks of std.
        box_means: What is added to the four deltas after that division; `target_means` of mmdetection. Defaults to 0.
        pad_multiple: The network input is padded on the right and bottom to a multiple of this many pixels. Defaults
            to the rule of the framework; without effect for a network of a fixed size.
        box_head: Name of a tensor, node or weight of the box regression head. Needed only where both heads have the
            same number of channels and nothing else tells them apart.
        force: Whether to insist on what you named where the graph contradicts it.
        progress: Called with a `retinasdk.Progress` at the beginning of each step: reading the file, running the
            network, the checks, writing.

    Returns:
        What was found, removed and checked. Read its `findings` of the kind "assumed": nothing in the graph shows them.

    Raises:
        ModelError: The file is not a RetinaNet, is damaged, contradicts an argument, or an argument is needed to
            decide; the message says which.
        ValueError: `output` does not end in .onnx, or is `path`.
        OSError: The output cannot be written.
        MissingDependencyError: The package onnx is missing.
    """
    path, output = Path(path), Path(output)
    if output.suffix.lower() != ".onnx":
        raise ValueError(f"the output {str(output)!r} must be the name of an .onnx file, such as model.onnx")
    if output.resolve() == path.resolve():
        raise ValueError(f"the output {str(output)!r} is the input; give it another name, so that the original remains")
    try:
        options = ImportOptions(
            flavour=flavour,
            labels=labels,
            name=name,
            base_anchors=base_anchors,
            anchor_sizes=anchor_sizes,
            anchor_ratios=anchor_ratios,
            anchor_scales=anchor_scales,
            strides=strides,
            mean=mean,
            std=std,
            channel_order=channel_order,
            resize=resize,
            score_threshold=score_threshold,
            nms_iou_threshold=nms_iou_threshold,
            top_k=top_k,
            max_detections=max_detections,
            box_weights=box_weights,
            box_means=box_means,
            pad_multiple=pad_multiple,
            box_head=box_head,
            force=force,
        )
        if config is not None:
            options = with_config(options, read_config(Path(config)))
        report, model = _import(path, output, options, progress)
    except ModelError as error:
        raise error if str(error).startswith(str(path)) else ModelError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ModelError(f"{path}: this machine has too little memory to run the network once") from error
    begin(progress, "write the model")
    write_model(output, model.SerializeToString(), report.spec)
    return report


def _import(
    path: Path, output: Path, options: ImportOptions, progress: ProgressCallback | None
) -> tuple[ImportReport, Any]:
    command = shlex.join(["retinasdk", "import", str(path), "-o", str(output)])
    # An unknown name is an error before anything else.
    named = None if options.flavour == "auto" else load_preset(options.flavour)

    # What is read in the graph.
    begin(progress, "read the graph")
    model = load_model(path)
    move_padding_behind_transposes(model)
    view = GraphView(model)
    usual_anchors = options.anchors_per_cell or (ANCHORS_PER_CELL if named is None else named.anchors.count)
    values = DELTAS if named is None else (named.box_coder.deltas,)
    heads = find_heads(view, anchors=usual_anchors, box_head=options.box_head, values=values, command=command)
    compare_classes(heads, options)
    network = find_input(view, heads)
    validate_network(view, network, heads)
    postprocessing = read_postprocessing(view, heads)
    grid = read_anchors(view, network, heads) if heads.values == 4 else None

    # What is concluded from it.
    in_graph = postprocessing.base_anchors if grid is None else [level.base_anchors for level in grid.levels]
    evidence = collect_evidence(view, heads, network, postprocessing, in_graph)
    preset, flavour_finding = _choose_preset(view, evidence, options, command)
    declared = declared_size(view, network)
    given_resize = read_resize(options.resize, preset.resize, declared)
    if declared is not None and preset.flavour in SQUASHING and options.is_from_config("resize"):
        given_resize = None  # A config has the resize of the training, which these replace by a fixed size.
    # A graph that resizes its images decides itself how large they are.
    fixed_size = None if given_resize is None or "Resize" in network.steps else given_resize.fixed_size
    if fixed_size is not None and padded_size(fixed_size, options.pad_multiple or preset.pad_multiple) == declared:
        fixed_size = declared  # Images are smaller than the input, and padded.
    begin(progress, "run the network")
    original = run_original(view, network, heads, fixed_size)
    shape = find_network_shape(view, network, heads, original, fixed_size)
    if preset.flavour == "keras-hub" and not options.force:
        shape = keep_exported_size(view, network, shape)
    if given_resize is None and declared is not None and shape.dimensions[1:] != declared:
        _ask_for_size(preset, declared, options, command)
    levels = match_levels(heads, shape)
    if heads.classes <= preset.first_class:
        raise ModelError(
            f"the network has only one class, which is the background of {preset.flavour}. Export a network with a "
            "class to detect, or name the framework that trained it with --flavour"
        )
    classes = heads.classes - preset.first_class
    outputs, is_by_value, channel_findings = _outputs(view, heads, levels, original, preset)
    geometry = decide_geometry(
        preset,
        options,
        count=heads.anchors,
        nominal=[level.stride for level in levels],
        from_width=_strides_from_width(levels, shape),
        grid=grid,
        constants=postprocessing.base_anchors,
        command=command,
    )

    # What is written.
    begin(progress, "build and check the model")
    model = build_heads_model(view, network.tensor, outputs, shape.dimensions)
    spec, findings = build_spec(
        preset,
        options,
        classes=classes,
        names=[level_name(level.stride) for level in levels],
        geometry=geometry,
        network=network,
        postprocessing=postprocessing,
        dimensions=shape.dimensions,
        declared=declared,
        given_resize=given_resize,
        source=_origin(path, view, network),
        command=command,
    )
    refuse_unlike_tf_models(spec, levels[-1].stride, options, command)
    findings = [flavour_finding, *findings, *channel_findings]
    if heads.is_usual:
        others = heads.logits.channels // heads.values
        text = (
            f"{heads.anchors} anchors per cell and {heads.classes} classes; the channels also allow "
            f"{others} anchors and {heads.deltas.channels // others} classes: then name a tensor of the box head: "
            f"--box-head {heads.logits.tensors[0].tensor}"
        )
        findings.append(Finding("assumed", "heads", text))
    spec = with_findings(spec, findings)
    _embed_spec(model, spec)

    sources = [level.logits for level in levels] + [level.deltas for level in levels]
    checks = [
        (True, check_model(model)),
        check_heads(model, original, outputs, sources),
        *check_preprocessing(original, network, spec, force=options.force),
    ]
    begin(progress, "compare boxes")
    checks.append(
        check_boxes(view, network, heads, spec, outputs, sources, postprocessing, findings, force=options.force)
    )
    report = ImportReport(
        source=path,
        output=output,
        spec=spec,
        producer=_producer(view),
        opset=view.opset,
        levels=tuple(_describe(heads, level) for level in levels),
        anchors=heads.anchors,
        classes=classes,
        channel_order="value by value" if is_by_value else "anchor by anchor",
        shared_heads=heads.logits.shares_weights and heads.deltas.shares_weights,
        input_dimensions=shape.dimensions,
        image_input=network.image,
        preprocessing=network.steps,
        removed_operators=_removed_operators(view, model),
        findings=tuple(findings),
        checks=tuple(text for is_equal, text in checks if is_equal),
        unchecked=tuple(text for is_equal, text in checks if not is_equal),
    )
    return report, model


def _choose_preset(
    view: GraphView, evidence: Sequence[Evidence], options: ImportOptions, command: str
) -> tuple[Preset, Finding]:
    """Returns the rules of the framework that the user named, or that the graph shows, and why."""
    if options.config is not None:
        return preset_of_config(evidence, options, options.config, command)
    if options.flavour == "auto":
        flavour, reasons = choose_flavour(view, evidence, command=command)
        return load_preset(flavour), Finding("concluded", "flavour", f"the rules of {flavour}: {'; '.join(reasons)}")
    preset = load_preset(options.flavour)
    contrary = contradictions(options.flavour, evidence)
    if contrary and not options.force:
        raise ModelError(
            f"the graph contradicts the rules of {options.flavour}: {'; '.join(contrary)}. Name another framework, or "
            f"leave --flavour out to let the graph tell: {command}. Insist with --force (in Python: force=True)"
        )
    insisted = f", although {'; '.join(contrary)}" if contrary else ""
    return preset, Finding("given", "flavour", f"the rules of {preset.flavour}, which you named{insisted}")


def _ask_for_size(preset: Preset, declared: tuple[int, int], options: ImportOptions, command: str) -> None:
    """Raises `ModelError` for an export at a size that changes the strides, where nothing tells whether it is used."""
    if not preset.stride_from_width or options.force or all(side % preset.pad_multiple == 0 for side in declared):
        return
    resize = preset.resize
    raise ModelError(
        f"this is an export for {declared[0]} x {declared[1]}. Where {preset.pad_multiple} does not divide the sides, "
        f"{preset.flavour} has other strides and anchors than in its training. To follow the export, tell how images "
        f"get that size: {command} --flavour {preset.flavour} --resize fit if they are padded, or --resize squash if "
        f"they are stretched. To take images of any size, padded to a multiple of {preset.pad_multiple}, as in "
        f"training: {command} --flavour {preset.flavour} --resize {resize.rule}:{','.join(map(str, resize.size))}"
    )


def _strides_from_width(levels: Sequence[MatchedLevel], shape: NetworkShape) -> list[int] | None:
    """Returns input width // number of columns of each level, or None if the width is dynamic."""
    width = shape.dimensions[2]
    return [width // shape.head_sizes[level.logits][1] for level in levels] if isinstance(width, int) else None


def _outputs(
    view: GraphView, heads: HeadPair, levels: Sequence[MatchedLevel], original: OriginalRun | str, preset: Preset
) -> tuple[list[ModelOutput], bool, list[Finding]]:
    """Returns the outputs of the new model, logits of all levels and then deltas.

    Also returns whether the channels of the original are ordered value by value, and the origin of their order.
    """
    outputs, assumed, is_by_value = [], [], False
    for kind, head, indices in (
        ("logits", heads.logits, [level.logits for level in levels]),
        ("deltas", heads.deltas, [level.deltas - len(levels) for level in levels]),
    ):
        order, is_shown = channel_order(view, head, heads.anchors, kind, original)
        assumed += [] if is_shown else [kind]
        is_by_value |= order is not None
        order = framework_order(order, preset, heads.anchors, head.channels // heads.anchors, kind)
        channels = head.channels if order is None else len(order)
        outputs += [
            ModelOutput(f"{kind}_{level_name(level.stride)}", head.tensors[index], channels, order)
            for level, index in zip(levels, indices, strict=True)
        ]
    findings = []
    if preset.first_class:
        text = f"class 0 is left out, the background that {preset.flavour} never reports; class 1 is class 0 here"
        findings.append(Finding("concluded", "labels", text))
    if preset.delta_order != "xywh":
        text = f"the deltas are reordered: {preset.flavour} stores y, x, height, width"
        findings.append(Finding("concluded", "channels", text))
    if not assumed:
        return outputs, is_by_value, [*findings, Finding("read", "channels", "the order of the channels of both heads")]
    text = (
        f"the channel order of the {' and '.join(assumed)}, anchor by anchor, as in every known framework; nothing in "
        "the graph shows it"
    )
    return outputs, is_by_value, [*findings, Finding("assumed", "channels", text)]


def _describe(heads: HeadPair, level: MatchedLevel) -> FoundLevel:
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
