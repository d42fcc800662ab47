"""`export_source`: exports what a user names: a published model, a checkpoint, a DeepForest model."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk._util.progress import ProgressCallback, begin
from retinasdk.convert.checkpoint_file import Checkpoint, read_checkpoint
from retinasdk.convert.deepforest import load_deepforest
from retinasdk.convert.export_rules import QUESTIONS, ask, default_findings, given_rules, with_rules
from retinasdk.convert.export_torch import DEFAULT_OPSET, ExportReport, export_heads, heads_of, torchvision_spec
from retinasdk.convert.flavours.coco import BACKGROUND, UNUSED
from retinasdk.convert.importing.options import ImportOptions
from retinasdk.convert.importing.report import Finding
from retinasdk.convert.importing.spec_builder import with_findings
from retinasdk.convert.torchvision_checkpoint import (
    ANCHORS_PER_CELL,
    PUBLISHED,
    anchors_of,
    architecture_of,
    build,
    check_architecture,
    load_published,
    published_architecture,
)
from retinasdk.errors import ModelError

TORCHVISION, DEEPFOREST = "torchvision:", "deepforest:"


def export_source(
    source: str,
    output: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    classes: int | None = None,
    norm_eps: float | None = None,
    torchvision_defaults: bool = False,
    trusted: bool = False,
    opset: int = DEFAULT_OPSET,
    progress: ProgressCallback | None = None,
    **rules: Any,
) -> ExportReport:
    """Exports a PyTorch model to ONNX with raw head outputs, and writes its spec.

    Args:
        source: "torchvision:NAME" or "torchvision:NAME:WEIGHTS" for a model of torchvision; "deepforest:" with a
            checkpoint, a folder or a name; or a checkpoint file of torchvision's RetinaNet.
        output: The ONNX file to write.
        weights: A checkpoint file for "torchvision:NAME". Defaults to torchvision's COCO weights.
        labels: One label for each class index.
        name: Name of the model, for people.
        classes: Expected number of classes.
        norm_eps: Epsilon of the batch norms.
        torchvision_defaults: Whether rules that the file does not contain and that are not given are torchvision's.
        trusted: Whether the checkpoint may run code while it is read, as a whole pickled model does.
        opset: ONNX opset, 13 to 20.
        progress: Called with a `retinasdk.Progress` at the beginning of each step.
        **rules: Rules of the model, by the names of the arguments of `import_onnx`.

    Returns:
        The file, the spec, the origin of its rules, and the largest difference from PyTorch.

    Raises:
        ModelError: The model cannot be read, or something that decides on boxes is not known.
        ValueError: An argument is wrong.
        MissingDependencyError: torch, torchvision, onnx or onnxruntime is missing.
        OSError: The output cannot be written.
    """
    options = ImportOptions(labels=labels, name=name, **rules)
    command = ["retinasdk", "export", source, "-o", str(output)] + (["--weights", str(weights)] if weights else [])
    begin(progress, "load the model")
    if source.startswith(DEEPFOREST):
        if weights is not None:
            raise ValueError(f"weights must not be given for {source}: name the checkpoint as deepforest:{weights}")
        place = source.removeprefix(DEEPFOREST)
        model, names, findings = load_deepforest(place, labels=None if labels is None else list(labels))
        spec = torchvision_spec(model, labels=names, name=name or f"DeepForest {Path(place).stem}")
    else:
        model, findings, asked, file = _torchvision(source, weights, classes, norm_eps, trusted)
        spec = torchvision_spec(model, labels=labels, name=name or (file.stem if file else None))
        if file is None and labels is None:
            spec = spec.replace(ignore_labels=tuple(item for item in (BACKGROUND, UNUSED) if item in spec.labels))
        unknown = asked - given_rules(options) - ({"norm_eps"} if norm_eps is not None else set())
        if "base_anchors" in unknown and spec.anchors_per_cell != ANCHORS_PER_CELL:
            raise ModelError(
                f"{file} has {spec.anchors_per_cell} anchors per cell, torchvision's default model has "
                f"{ANCHORS_PER_CELL}. Give yours: {shlex.join(command)} --anchors FILE.json, or "
                "describe them with --anchor-sizes, --anchor-ratios and --anchor-scales"
            )
        if unknown and not torchvision_defaults:
            raise ask(unknown, f"{file} holds the weights, but not all rules", shlex.join(command))
        findings += default_findings(spec, unknown)
    spec, given = with_rules(spec, options)
    replaced = {item.rule for item in given}
    findings = [item for item in findings if item.rule not in replaced] + given
    if labels is not None:
        findings.append(Finding("given", "labels", f"{len(labels)} labels"))
    spec = with_findings(spec, findings)
    return replace(
        export_heads(heads_of(model), output, spec, opset=opset, progress=progress), findings=tuple(findings)
    )


def _torchvision(
    source: str, weights: str | os.PathLike[str] | None, classes: int | None, norm_eps: float | None, trusted: bool
) -> tuple[Any, list[Finding], set[str], Path | None]:
    """Returns the model, the origin of its rules, those that nobody knows, and the file; None if it is published."""
    architecture, chosen = None, "DEFAULT"
    if source.startswith(TORCHVISION):
        architecture, _, chosen = source.removeprefix(TORCHVISION).partition(":")
        check_architecture(architecture)
        if chosen and weights is not None:
            raise ValueError(f"weights must not be given for {source}, which names torchvision's weights {chosen}")
    elif Path(source).suffix.lower() == ".onnx":
        raise ValueError(
            f"{source} is an ONNX file already; convert it with: retinasdk import {shlex.quote(source)} -o OUT.onnx"
        )
    elif weights is not None:
        raise ValueError(f"weights must not be given for the checkpoint {source}; name the architecture instead")
    else:
        weights = source
    if weights is None or (architecture is not None and os.fspath(weights) == "DEFAULT"):
        model = load_published(str(architecture), chosen or "DEFAULT", classes=classes)
        return model, [_published(chosen or "DEFAULT")], set(), None
    path = Path(weights)
    if (published := published_architecture(path)) is not None:
        if architecture not in (None, published):
            raise ModelError(f"{path} holds torchvision's weights of {published}, not of {architecture}")
        model = build(published, read_checkpoint(path).state, path, classes=classes, norm_eps=norm_eps)
        return model, [_published(path.name)], set(), None
    checkpoint = read_checkpoint(path, trusted=trusted)
    if checkpoint.model is not None:
        if not isinstance(checkpoint.model, require("torchvision.models.detection", "exporting models").RetinaNet):
            raise ModelError(f"{path} holds a {type(checkpoint.model).__name__}, not a torchvision RetinaNet")
        text = "all rules, from the whole model in the file"
        return checkpoint.model.eval(), [Finding("read", "all", text)], set(), path
    architecture = architecture or architecture_of(checkpoint.state, path)
    unknown = set(QUESTIONS)
    if architecture == PUBLISHED[1]:
        unknown.remove("norm_eps")  # Always torchvision's default: this model has no frozen batch norms.
    findings = _from_arguments(checkpoint, architecture)
    if findings:
        unknown, norm_eps = set(), _norm_eps(checkpoint) if norm_eps is None else norm_eps
    model = build(architecture, checkpoint.state, path, classes=classes, norm_eps=norm_eps)
    return (
        model,
        [
            *findings,
            Finding("read", "architecture", f"{architecture}, {anchors_of(checkpoint.state)} anchors per cell"),
        ],
        unknown,
        path,
    )


def _published(weights: str) -> Finding:
    return Finding("read", "all", f"all rules, from torchvision's model with its own weights {weights}")


def _from_arguments(checkpoint: Checkpoint, architecture: str) -> list[Finding]:
    """Returns what follows from the arguments that torchvision's training script (references/detection) writes.

    The script builds the model by its name, and cannot set anchors, sizes or thresholds.
    """
    arguments = checkpoint.extra.get("args")
    if not isinstance(arguments, Namespace) or getattr(arguments, "model", None) != architecture:
        return []
    text = f"torchvision's defaults for all rules: its training script built {architecture}, as the arguments show"
    return [Finding("concluded", "all", text)]


def _norm_eps(checkpoint: Checkpoint) -> float:
    """Returns the epsilon of the batch norms: 0 if the training script started from torchvision's v1 weights."""
    arguments = checkpoint.extra["args"]
    started = str(getattr(arguments, "weights", None) or "")
    return 0.0 if arguments.model == PUBLISHED[0] and started.rpartition(".")[2] in ("COCO_V1", "DEFAULT") else 1e-5
