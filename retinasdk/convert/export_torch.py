"""Exports PyTorch models to ONNX with raw head outputs and a spec.

`export_torchvision` reads the rules from the torchvision model itself: anchors, thresholds, resize and normalization.
`export_heads` takes a module of any framework together with a spec. torch and torchvision come with the extra `export`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk._util.progress import ProgressCallback, begin
from retinasdk._util.temporary import temporary_folder
from retinasdk.convert.flavours import flavour_spec, load_preset
from retinasdk.convert.importing.report import KINDS, Finding
from retinasdk.convert.torchvision_checkpoint import ARCHITECTURES, load_torchvision
from retinasdk.errors import ModelError
from retinasdk.onnx_graph.model_pair import write_model
from retinasdk.spec import METADATA_KEY, ModelSpec, Normalise, Resize

__all__ = [
    "ARCHITECTURES",
    "DEFAULT_OPSET",
    "OPSETS",
    "ExportReport",
    "Exported",
    "export_heads",
    "export_torchvision",
    "load_torchvision",
    "torchvision_spec",
]

OPSETS = range(13, 21)
DEFAULT_OPSET = 17  # The newest opset that every TensorRT from 8.5 on reads.

_TRACED_SIDES = (128, 160)
# Largest difference between PyTorch and ONNX Runtime, in standard deviations of a head output: two convolution
# libraries round differently over a hundred layers of float32.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: The ONNX file.
        spec: Its model spec, which is also in the metadata of the file and beside it, with the suffix .json.
        largest_difference: Largest difference of a head output between ONNX Runtime and PyTorch, in standard
            deviations of that output.
        findings: Where the rules of the model come from: given by you, read in the checkpoint, or concluded from
            something in it. Empty if they are those of a model that you passed.
    """

    path: Path
    spec: ModelSpec
    largest_difference: float
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        """Returns the report as text of several lines."""
        lines = [
            f"wrote {self.path} ({self.path.stat().st_size / 1e6:.1f} MB) and {self.path.with_suffix('.json').name}",
            *(f"{kind}: {item.text}" for kind in KINDS for item in self.findings if item.kind == kind),
            f"checked: {len(self.spec.labels)} classes; head outputs differ from PyTorch's by at most "
            f"{self.largest_difference:.1e} of their standard deviation",
        ]
        return "\n".join(lines)


Exported = ExportReport  # The former name, so that existing imports keep working.


def export_torchvision(
    model: Any,
    output: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    opset: int = DEFAULT_OPSET,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Exports a torchvision RetinaNet to ONNX with raw head outputs, and writes its spec.

    The rules are read from the model: anchors, thresholds, image sizes, normalization. Batch size, height and width
    are dynamic. The ONNX file is compared with the model in ONNX Runtime before anything is written.

    Example:
        ```py
        model = torchvision.models.detection.retinanet_resnet50_fpn(num_classes=3)
        model.load_state_dict(torch.load("mine.pth"))
        export_torchvision(model, "mine.onnx", labels=["__background__", "bolt", "nut"])
        ```

    Args:
        model: A torchvision.models.detection.RetinaNet, with your weights. It is not changed.
        output: The ONNX file to write. The spec is written beside it, with the suffix .json, and into it.
        labels: One label for each class index, including index 0, which torchvision reserves for the background.
            Defaults to the COCO names for 91 classes, otherwise to "class 0", "class 1" and so on.
        name: Name of the model, for people.
        opset: ONNX opset, 13 to 20.
        progress: Called with a `retinasdk.Progress` at the beginning of each step.

    Returns:
        The file, the spec, and the largest difference from PyTorch.

    Raises:
        ModelError: The ONNX file gives other values than PyTorch. Nothing is written.
        ValueError: `labels` has the wrong length, or `opset` is not supported.
        TypeError: `model` is not a torchvision RetinaNet.
        MissingDependencyError: torch, torchvision, onnx or onnxruntime is missing.
        OSError: The output cannot be written.
    """
    retinanet = require("torchvision.models.detection", "exporting torchvision's models").RetinaNet
    if not isinstance(model, retinanet):
        raise TypeError(f"the model must be a torchvision RetinaNet, not {type(model).__name__}")
    return export_heads(
        heads_of(model), output, torchvision_spec(model, labels=labels, name=name), opset=opset, progress=progress
    )


def export_heads(
    heads: Any,
    output: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    opset: int = DEFAULT_OPSET,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Exports a PyTorch module that returns raw RetinaNet heads to ONNX, and writes its spec.

    Use it for a framework other than torchvision: wrap the model in a module that returns its raw heads, and take the
    rules from `flavour_spec` or write a `ModelSpec`.

    Args:
        heads: A torch.nn.Module from normalized images (N, 3, H, W) float32 to a flat sequence of raw outputs: the
            logits (N, A * K, h, w) of each level, finest first, then the deltas (N, A * 4, h, w) of each level, as they
            come from the last convolutions, without sigmoid. It is not changed.
        output: The ONNX file to write. The spec is written beside it, with the suffix .json, and into it.
        spec: The rules of the model.
        opset: ONNX opset, 13 to 20.
        progress: Called with a `retinasdk.Progress` at the beginning of each step.

    Returns:
        The file, the spec, and the largest difference from PyTorch.

    Raises:
        ModelError: The outputs do not fit the spec, or the ONNX file gives other values than PyTorch. Nothing is
            written.
        ValueError: `opset` is not supported.
        MissingDependencyError: torch, onnx or onnxruntime is missing.
        OSError: The output cannot be written.
    """
    torch, onnx = require("torch", "exporting models"), require("onnx", "exporting models")
    if opset not in OPSETS:
        raise ValueError(
            f"the opset must be {OPSETS[0]} to {OPSETS[-1]}, not {opset}; every TensorRT reads {DEFAULT_OPSET}"
        )
    training = {module: module.training for module in heads.modules()}
    heads.eval()
    try:
        _check_outputs(torch, heads, spec)
        begin(progress, "trace the model")
        content = onnx.load_model_from_string(_trace(torch, heads, spec, opset))
        entry = content.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, spec.to_json()
        onnx.checker.check_model(content, full_check=True)
        serialized = content.SerializeToString()
        begin(progress, "compare with PyTorch")
        difference = _largest_difference(torch, heads, serialized, spec)
    finally:
        for module, was_training in training.items():
            module.training = was_training
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"the exported ONNX differs from PyTorch by {difference:.2g} standard deviations of a head output; at most "
            f"{_TOLERANCE:g} is accepted. Try another opset"
        )
    path = Path(output)
    write_model(path, serialized, spec)
    return ExportReport(path, spec, difference)


def torchvision_spec(model: Any, *, labels: Sequence[str] | None = None, name: str | None = None) -> ModelSpec:
    """Reads the rules of a torchvision RetinaNet from the model.

    Args:
        model: A torchvision.models.detection.RetinaNet.
        labels: One label for each class index. Defaults as in `export_torchvision`.
        name: Name of the model, for people.

    Raises:
        ValueError: `labels` has the wrong length.
    """
    transform, classes = model.transform, int(model.head.classification_head.num_classes)
    if labels is None and classes != len(flavour_spec("torchvision").labels):
        labels = [f"class {index}" for index in range(classes)]
    if labels is not None and len(labels) != classes:
        hint = ""
        if len(labels) + 1 == classes:
            hint = f". Class 0 of torchvision is the background: put its name first: background,{','.join(labels)}"
        raise ValueError(f"labels must be one name for each of the {classes} classes, got {len(labels)}{hint}")
    anchors = [tuple(map(tuple, cell.tolist())) for cell in model.anchor_generator.cell_anchors]
    spec = load_preset("torchvision").spec(labels=labels, name=name, base_anchors=anchors)
    fixed = transform.fixed_size  # (width, height)
    return spec.replace(
        resize=Resize("squash", (fixed[1], fixed[0]))
        if fixed
        else Resize("shortest", (int(transform.min_size[-1]), int(transform.max_size))),
        normalise=Normalise(_by_255(transform.image_mean), _by_255(transform.image_std)),
        pad_multiple=int(transform.size_divisible),
        score_threshold=float(model.score_thresh),
        top_k=int(model.topk_candidates),
        nms_iou_threshold=float(model.nms_thresh),
        max_detections=int(model.detections_per_img),
    )


def _by_255(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) * 255 for value in values)
    return red, green, blue


# -- the graph ---------------------------------------------------------------------------------------------------------


def heads_of(model: Any) -> Any:
    """Wraps a torchvision RetinaNet in a module that returns its raw heads, as `export_heads` takes it."""
    torch: Any = require("torch", "exporting torchvision's models")
    backbone, classify, regress = model.backbone, model.head.classification_head, model.head.regression_head

    class RawHeads(torch.nn.Module):  # type: ignore[misc]  # The base class is only known at run time.
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.classify, self.regress = backbone, classify, regress

        def forward(self, images: Any) -> tuple[Any, ...]:
            levels = list(self.backbone(images).values())
            logits = [self.classify.cls_logits(self.classify.conv(level)) for level in levels]
            return (*logits, *(self.regress.bbox_reg(self.regress.conv(level)) for level in levels))

    return RawHeads()


def _check_outputs(torch: Any, heads: Any, spec: ModelSpec) -> None:
    with torch.inference_mode():
        shapes = [tuple(output.shape) for output in heads(torch.zeros(1, 3, *_TRACED_SIDES))]
    levels, anchors, classes = len(spec.levels), spec.anchors_per_cell, len(spec.labels)
    wanted = [anchors * classes] * levels + [anchors * 4] * levels
    if [shape[1] if len(shape) == 4 else None for shape in shapes] != wanted:
        raise ModelError(
            f"the outputs {shapes} do not fit the spec: it needs logits with {anchors} anchors x {classes} classes = "
            f"{anchors * classes} channels for each of {levels} levels, then deltas with {anchors * 4} channels. Check "
            "the labels and the levels of the spec"
        )


def _trace(torch: Any, heads: Any, spec: ModelSpec, opset: int) -> bytes:
    names = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
    axes = {name: {0: "n", 2: f"{name}_h", 3: f"{name}_w"} for name in names}
    with temporary_folder() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecation.
        path = Path(folder) / "heads.onnx"
        # Not the dynamo exporter: its opsets begin at 18, which no TensorRT 8 reads.
        torch.onnx.export(
            heads,
            (torch.zeros(1, 3, *_TRACED_SIDES),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[spec.input],
            output_names=names,
            dynamic_axes={spec.input: {0: "n", 2: "height", 3: "width"}, **axes},
        )
        return path.read_bytes()


def _largest_difference(torch: Any, heads: Any, content: bytes, spec: ModelSpec) -> float:
    """Compares ONNX Runtime with PyTorch on batches and sizes other than the traced one."""
    runtime = require("onnxruntime", "checking the export")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    worst, random = 0.0, np.random.default_rng(0)
    for shape in ((2, 3, 96, 128), (1, 3, 224, 160)):
        images = random.standard_normal(shape).astype(np.float32)
        with torch.inference_mode():
            wanted = heads(torch.from_numpy(images))
        for found, tensor in zip(session.run(names, {spec.input: images}), wanted, strict=True):
            expected = tensor.numpy()
            worst = max(worst, float(np.abs(found - expected).max() / max(float(expected.std()), 1e-6)))
    return worst
