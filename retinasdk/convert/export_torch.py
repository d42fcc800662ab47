"""From PyTorch to heads-only ONNX and its spec: `export_torchvision`, and `export_heads` for other frameworks.

What a torchvision model's spec says is read off the model itself: anchors, thresholds, resize and normalisation of one
that was built with its own are kept. torch and torchvision are the extra `export`.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retinasdk._util.files import write_together
from retinasdk._util.lazy import require
from retinasdk.convert.flavours import flavour_spec
from retinasdk.errors import ModelError
from retinasdk.spec import METADATA_KEY, ModelSpec, Normalise, Resize

# torchvision's two published ones, and their kin on other backbones.
ARCHITECTURES = (
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "retinanet_resnet18_fpn",
    "retinanet_resnet34_fpn",
    "retinanet_resnet101_fpn",
)
OPSETS = range(13, 21)
DEFAULT_OPSET = 17  # the newest that every TensorRT from 8.5 on reads

_PUBLISHED = ARCHITECTURES[:2]
# Their BatchNorm has no epsilon, unlike those of other checkpoints: torchvision's v1 file.
_PUBLISHED_V1 = "retinanet_resnet50_fpn_coco-eeacb38b"
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # where training scripts put the weights in their checkpoints
_LAST_LAYERS = ("classification_head.cls_logits", "regression_head.bbox_reg")
_TRACED_SIDES = (128, 160)
# Two convolution engines, float32, a hundred layers: what they may differ by, of what the heads vary by.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """path: of the ONNX file; spec: also in its metadata and beside it.

    largest_difference: of any head from torch's, as a part of that head's standard deviation.
    """

    path: Path
    spec: ModelSpec
    largest_difference: float


def load_torchvision(
    architecture: str,
    *,
    weights: str | os.PathLike[str] = "DEFAULT",
    classes: int | None = None,
    norm_eps: float | None = None,
) -> Any:
    """The model as torchvision builds it, in evaluation.

    weights: "DEFAULT", torchvision's own for COCO, fetched over the network; or a checkpoint file of the architecture.
    classes: of the head; None: as many as the weights have.
    norm_eps: epsilon of batch norms; None: 0 for torchvision's v1 weights, else 1e-5. A model that was fine-tuned from
        them keeps 0 if it was built with `weights=`; no checkpoint tells.
    Raises `ModelError`, `ValueError` or `MissingDependencyError`.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}; got {architecture!r}")
    detection = require("torchvision.models.detection", "exporting torchvision's models")
    if os.fspath(weights) == "DEFAULT":
        if architecture not in _PUBLISHED:
            raise ValueError(f"torchvision has no weights for {architecture}; give weights=FILE.pth")
        if classes not in (None, 91):
            raise ValueError(f"torchvision's weights have 91 classes, got classes={classes}; give weights=FILE.pth")
        try:
            model = getattr(detection, architecture)(weights="DEFAULT")
        except OSError as error:  # of urllib
            raise ModelError(
                f"{architecture}: torchvision's weights cannot be fetched ({error}); download them elsewhere and give "
                "weights=FILE.pth"
            ) from error
        return model.eval()
    path = Path(weights)
    state = _read_state(path)
    found = _classes_of(state, path)
    if classes not in (None, found):
        raise ModelError(f"{path}: wanted a head of {classes} classes, got one of {found}; leave the number out")
    model = _build(detection, architecture, found)
    _load_state(model, state, path, architecture)
    eps = (0.0 if path.stem == _PUBLISHED_V1 else 1e-5) if norm_eps is None else norm_eps
    for module in model.modules():
        if type(module).__name__ == "BatchNorm2d":
            module.eps = eps
    return model.eval()


def export_torchvision(
    model: Any,
    output: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    opset: int = DEFAULT_OPSET,
) -> Exported:
    """Writes a torchvision RetinaNet as heads-only ONNX with its spec in it, and the spec beside it as JSON.

    model: a torchvision.models.detection.RetinaNet, of `load_torchvision` or one's own; it is left as it is.
    output: the ONNX file. labels: one name a class index; None: COCO's for 91 classes, else "class 0" and so on.
    opset: 13 to 20. Batch, height and width are dynamic. Before anything is written, the ONNX is run beside the model.
    Raises `ModelError`, `ValueError`, `TypeError`, `MissingDependencyError` or `OSError`; nothing is written then.
    """
    torch = require("torch", "exporting torchvision's models")
    retinanet = require("torchvision.models.detection", "exporting torchvision's models").RetinaNet
    if not isinstance(model, retinanet):
        raise TypeError(f"model must be a torchvision RetinaNet, got {type(model).__name__}")
    return export_heads(_heads(torch, model), output, torchvision_spec(model, labels=labels, name=name), opset=opset)


def export_heads(
    heads: Any, output: str | os.PathLike[str], spec: ModelSpec, *, opset: int = DEFAULT_OPSET
) -> Exported:
    """Writes a network of any framework in PyTorch as heads-only ONNX with its spec in it, and the spec beside it.

    heads: a torch.nn.Module from (N, 3, H, W) float32, normalised, to each level's logits (N, A*K, h, w) and then each
        level's deltas (N, A*4, h, w), as convolved, in one sequence. It is left as it is. spec: its rules.
    output, opset and what is raised: as in `export_torchvision`.
    """
    torch, onnx = require("torch", "exporting models"), require("onnx", "exporting models")
    if opset not in OPSETS:
        raise ValueError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}; {DEFAULT_OPSET} fits every TensorRT")
    training = {module: module.training for module in heads.modules()}
    heads.eval()
    try:
        _check_outputs(torch, heads, spec)
        content = onnx.load_model_from_string(_trace(torch, heads, spec, opset))
        entry = content.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, spec.to_json()
        onnx.checker.check_model(content, full_check=True)
        serialized = content.SerializeToString()
        difference = _largest_difference(torch, heads, serialized, spec)
    finally:
        for module, was_training in training.items():
            module.training = was_training
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"the ONNX file gives heads that differ from the model's by {difference:.2g} of their spread; "
            f"wanted at most {_TOLERANCE:g}; try another opset"
        )
    path = Path(output)
    write_together({path: serialized, path.with_suffix(".json"): spec.to_json().encode()})
    return Exported(path, spec, difference)


def torchvision_spec(model: Any, *, labels: Sequence[str] | None = None, name: str | None = None) -> ModelSpec:
    """The rules of a torchvision RetinaNet, as its parts have them. Raises `ModelError` or `ValueError`."""
    transform, classes = model.transform, int(model.head.classification_head.num_classes)
    if labels is None and classes != len(flavour_spec("torchvision").labels):
        labels = [f"class {index}" for index in range(classes)]
    if labels is not None and len(labels) != classes:
        hint = ""
        if len(labels) + 1 == classes:
            hint = f"; class 0 of torchvision is the background: put its name first: background,{','.join(labels)}"
        raise ValueError(f"labels must be one name for each of {classes} classes, got {len(labels)}{hint}")
    spec = flavour_spec("torchvision", labels=labels, name=name)
    anchors = [tuple(map(tuple, cell.tolist())) for cell in model.anchor_generator.cell_anchors]
    if len(anchors) != len(spec.levels):
        raise ModelError(f"wanted a RetinaNet of {len(spec.levels)} levels, got anchors for {len(anchors)}")
    levels = (dataclasses.replace(level, base_anchors=base) for level, base in zip(spec.levels, anchors, strict=True))
    fixed = transform.fixed_size  # (width, height)
    return spec.replace(
        levels=tuple(levels),
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


# -- checkpoints -------------------------------------------------------------------------------------------------------


def _read_state(path: Path) -> Mapping[str, Any]:
    """Weights by name. Only tensors are read: a checkpoint cannot run code here."""
    torch = require("torch", "reading checkpoints")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such checkpoint file") from None
    except Exception as error:  # of pickle and of torch
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path}: wanted a PyTorch checkpoint of weights, got a file that cannot be read as one ({first}); save "
            "model.state_dict()"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ModelError(f"{path}: wanted weights by name, got {type(state).__name__}; save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}  # of DataParallel


def _classes_of(state: Mapping[str, Any], path: Path) -> int:
    logits, deltas = (state.get(f"head.{name}.weight") for name in _LAST_LAYERS)
    if logits is None or deltas is None:
        raise ModelError(
            f"{path}: wanted the weights of a torchvision RetinaNet, got {len(state)} entries without "
            f"head.{_LAST_LAYERS[0]}; is it another architecture or framework?"
        )
    anchors = int(deltas.shape[0]) // 4
    return int(logits.shape[0]) // anchors


def _build(detection: Any, architecture: str, classes: int) -> Any:
    if architecture in _PUBLISHED:
        return getattr(detection, architecture)(weights=None, weights_backbone=None, num_classes=classes)
    extra = require("torchvision.ops.feature_pyramid_network", "exporting torchvision's models").LastLevelP6P7
    utils = require("torchvision.models.detection.backbone_utils", "exporting torchvision's models")
    norm = require("torch.nn", "exporting torchvision's models").BatchNorm2d
    backbone = utils.resnet_fpn_backbone(
        backbone_name=architecture.split("_")[1],
        weights=None,
        norm_layer=norm,
        returned_layers=[2, 3, 4],
        extra_blocks=extra(256, 256),
    )
    return detection.RetinaNet(backbone, classes)


def _load_state(model: Any, state: Mapping[str, Any], path: Path, architecture: str) -> None:
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        line = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{path}: does not fit {architecture}: {line}; name another architecture") from error
    # Frozen batch norms do not count the batches that they have seen.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ModelError(
            f"{path}: does not fit {architecture}: {len(missing)} weights are missing and {len(unexpected)} are not "
            f"its own, such as {(missing or unexpected)[0]}; name another architecture"
        )


# -- the graph ---------------------------------------------------------------------------------------------------------


def _heads(torch: Any, model: Any) -> Any:
    """A module that gives what `ModelSpec` wants: each level's logits, then each level's deltas, as convolved."""
    backbone, classify, regress = model.backbone, model.head.classification_head, model.head.regression_head

    class Heads(torch.nn.Module):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.classify, self.regress = backbone, classify, regress

        def forward(self, images: Any) -> tuple[Any, ...]:
            levels = list(self.backbone(images).values())
            logits = [self.classify.cls_logits(self.classify.conv(level)) for level in levels]
            return (*logits, *(self.regress.bbox_reg(self.regress.conv(level)) for level in levels))

    return Heads()


def _check_outputs(torch: Any, heads: Any, spec: ModelSpec) -> None:
    with torch.inference_mode():
        shapes = [tuple(output.shape) for output in heads(torch.zeros(1, 3, *_TRACED_SIDES))]
    levels, anchors, classes = len(spec.levels), spec.anchors_per_cell, len(spec.labels)
    wanted = [anchors * classes] * levels + [anchors * 4] * levels
    if [shape[1] if len(shape) == 4 else None for shape in shapes] != wanted:
        raise ModelError(
            f"wanted logits of {anchors} anchors x {classes} classes = {anchors * classes} channels for each of "
            f"{levels} levels, then deltas of {anchors * 4}, got outputs of {shapes}; does the spec belong to it?"
        )


def _trace(torch: Any, heads: Any, spec: ModelSpec, opset: int) -> bytes:
    names = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
    axes = {name: {0: "n", 2: f"{name}_h", 3: f"{name}_w"} for name in names}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        path = Path(folder) / "heads.onnx"
        # Not dynamo's exporter: its opsets begin at 18, which no TensorRT 8 reads.
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
    """Over batches and sizes that were not traced."""
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
