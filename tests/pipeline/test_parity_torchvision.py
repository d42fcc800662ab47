"""The whole path against torchvision itself: eager model(image) and Detector(image) on an ONNX export of its heads.

What can differ is told apart by hooks on the eager model: its own input tensor against preprocess(), its own head
tensors through postprocess() against its result, and only then Detector, whose convolutions another engine computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import image, scene
from reference import Listed, assert_same_detections
from torchvision_heads import spread_heads

from retinasdk import Detections, Detector, ModelSpec, Resize
from retinasdk.convert.export_torch import export_torchvision
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.types import HeadOutputs

torch = pytest.importorskip("torch", reason="compares with torchvision itself, which needs torch; .ci/run installs it")
detection = pytest.importorskip("torchvision.models.detection", reason="compares with torchvision itself")

pytestmark = pytest.mark.heavy

VERSIONS = {"v1": ("v1", 91), "v2": ("v2", 5)}
# By the way of computing convolutions: scores as close as `tie` may change places. Winograd's rounding is coarser; the
# worst box was 0.015 px off in a picture of 720 x 1280.
TOLERANCES: dict[str, dict[str, float]] = {
    "direct": {"tie": 1e-5},
    "auto": {"tie": 1e-4, "box_tolerance": 5e-2, "score_tolerance": 1e-4},
}
SMALL = (320, 533)  # shorter and longer side: a sixth of the work of the default (800, 1333)


@dataclass
class Seen:
    """What went through the eager model in its last call: its input, and its heads' outputs by level."""

    tensor: Any = None
    logits: list[Any] = field(default_factory=list)
    deltas: list[Any] = field(default_factory=list)


@dataclass
class Pair:
    """torchvision's model and the same network as retinasdk takes it."""

    model: Any
    onnx: Path
    spec: ModelSpec
    seen: Seen

    def with_limits(self, limits: tuple[int, int]) -> ModelSpec:
        self.model.transform.min_size, self.model.transform.max_size = (limits[0],), limits[1]
        return self.spec.replace(resize=Resize("shortest", limits))

    def eager(self, pictures: list[npt.NDArray[np.uint8]]) -> list[Listed]:
        self.seen.logits.clear()
        self.seen.deltas.clear()
        with torch.inference_mode():
            results = self.model([as_tensor(picture) for picture in pictures])
        return [Listed(*(item[key].numpy() for key in ("boxes", "scores", "labels"))) for item in results]


def as_tensor(picture: npt.NDArray[np.uint8]) -> Any:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def listed(detections: Detections) -> Listed:
    return Listed(detections.xyxy, detections.scores, detections.class_ids)


@pytest.fixture(scope="module", params=VERSIONS.values(), ids=VERSIONS.keys())
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    version, classes = request.param
    build = {"v1": detection.retinanet_resnet50_fpn, "v2": detection.retinanet_resnet50_fpn_v2}[version]
    torch.manual_seed(20)
    model = build(weights=None, weights_backbone=None, num_classes=classes).eval()
    # Some thousand candidates in a small image of 5 classes, ten thousand with 91.
    spread_heads(model, as_tensor(scene(1, 256, 320))[None] * 4 - 2, bias=-5.5)
    path = tmp_path_factory.mktemp(version) / "model.onnx"
    labels = None if classes == 91 else [f"class{index}" for index in range(classes)]
    spec = export_torchvision(model, path, labels=labels).spec
    assert spec == flavour_spec("torchvision", labels=labels)

    seen = Seen()
    model.backbone.register_forward_hook(lambda _, inputs, __: setattr(seen, "tensor", inputs[0].numpy()))
    model.head.classification_head.cls_logits.register_forward_hook(
        lambda _, __, output: seen.logits.append(output.numpy())
    )
    model.head.regression_head.bbox_reg.register_forward_hook(lambda _, __, output: seen.deltas.append(output.numpy()))
    return Pair(model, path, spec, seen)


def compare_one_image(pair: Pair, size: tuple[int, int], limits: tuple[int, int]) -> None:
    spec = pair.with_limits(limits)
    picture = scene(sum(size), *size)
    (theirs,) = pair.eager([picture])
    assert len(theirs.scores) > 100

    transform = Transform.plan(size, spec)
    tensor = preprocess([picture], [transform], spec).tensor
    assert tensor.shape == pair.seen.tensor.shape
    difference = np.abs(tensor - pair.seen.tensor)
    # Note [Fused positions] in make_golden.py: PyTorch's AVX2 kernels round another way than its portable ones.
    assert difference.max() < 3e-4
    assert (difference > 1e-5).mean() < 0.005

    raw = (pair.seen.logits, pair.seen.deltas)
    contiguous = [tuple(np.ascontiguousarray(level) for level in levels) for levels in raw]
    (ours,) = postprocess(HeadOutputs(*contiguous), spec, [transform], score_threshold=0.05)
    # PyTorch's float32 sigmoid may give two logits one score, or swap their last bit.
    assert_same_detections(listed(ours), theirs, tie=1.2e-7)

    for convolution, tolerances in TOLERANCES.items():
        with Detector(pair.onnx, spec=spec, convolution=convolution) as detector:
            assert_same_detections(listed(detector(picture)), theirs, **tolerances)


@pytest.mark.parametrize(
    "size", [(300, 300), (480, 640), (427, 640), (720, 1280)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_one_image(pair: Pair, size: tuple[int, int]) -> None:
    compare_one_image(pair, size, SMALL)


@pytest.mark.parametrize("pair", [VERSIONS["v1"]], ids=["v1"], indirect=True)
def test_one_image_in_the_default_size(pair: Pair) -> None:
    compare_one_image(pair, (480, 640), (800, 1333))


def test_a_batch_of_three(pair: Pair) -> None:
    spec = pair.with_limits(SMALL)
    pictures = [scene(30, 240, 320), image(31, 240, 320), scene(32, 480, 640)]  # all of one network-input size
    together = pair.eager(pictures)
    # Images of other sizes: torchvision pads all to the largest, retinasdk groups, so single calls are the measure.
    mixed = [pictures[0], scene(33, 300, 300), pictures[2]]
    single = [pair.eager([picture])[0] for picture in mixed]
    for convolution, tolerances in TOLERANCES.items():
        with Detector(pair.onnx, spec=spec, convolution=convolution) as detector:
            for batch, expected in ((pictures, together), (mixed, single)):
                for ours, theirs in zip(detector(batch), expected, strict=True):
                    assert_same_detections(listed(ours), theirs, **tolerances)
