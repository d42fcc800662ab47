"""Records what torchvision itself makes of seeded inputs, for test_golden.py to hold retinasdk against without torch.

    PYTHONPATH=. python tests/make_golden.py     # needs torch and torchvision 0.29.1; writes tests/data/golden/

Inputs are not stored: heads(), picture() and sampled() make them again from a seed, to the bit, wherever NumPy runs.
Of each frame torchvision's GeneralizedRCNNTransform, AnchorGenerator, postprocess_detections and transform.postprocess
are recorded. Run it again only for another version of torchvision, and say so in the commit.

Note [Fused positions]
PyTorch's AVX2 kernels fuse `scale * (i + 0.5) - 0.5` into one rounding, its portable kernels do not, so PyTorch's own
answers for one image differ: by up to 2.5e-4 in one or two of a thousand normalised pixels of pure noise, by 7e-5 at
the most in pictures (torch 2.14.1, sides to 1344). retinasdk is within 1.2e-6 of the portable ones, recorded here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cases import image, scene, uniform
from paths import DATA

GOLDEN = DATA / "golden"
TORCHVISION = "0.29.1"
ANCHORS = 9
SAMPLES = 2000


@dataclass(frozen=True)
class Frame:
    """An image size, and the model that sees it. rarity: the higher, the fewer logits are above the threshold."""

    name: str
    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    classes: int
    rarity: int = 256
    limits: tuple[int, int] = (800, 1333)

    @property
    def seed(self) -> int:
        return 1000 * self.original[0] + self.original[1]


FRAMES = (
    # Fewer than max_detections: the list goes down to the threshold.
    Frame("square", (800, 800), (800, 800), (800, 800), classes=3, rarity=1024),
    # Some 11 000 candidates on the first level alone: top_k decides.
    Frame("vga", (480, 640), (800, 1066), (800, 1088), classes=4, rarity=32),
    Frame("hd", (720, 1280), (749, 1333), (768, 1344), classes=3),
    Frame("photo", (427, 640), (800, 1199), (800, 1216), classes=5),
    Frame("upright", (640, 426), (1201, 800), (1216, 800), classes=1, rarity=64),
    Frame("small", (333, 200), (400, 240), (416, 256), classes=5, rarity=64, limits=(320, 400)),
)


def level_sizes(padded: tuple[int, int]) -> list[tuple[int, int]]:
    """(rows, columns) of P3 to P7: every convolution of stride 2 rounds up."""
    sizes = [padded]
    for _ in range(7):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes[3:]


def heads(frame: Frame) -> tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]]:
    """Per level logits (1, A * K, h, w) and deltas (1, A * 4, h, w).

    Only products and sums: unlike exp or log they round alike everywhere.
    """
    logits, deltas = [], []
    for level, size in enumerate(level_sizes(frame.padded)):
        rare = uniform(frame.seed + 10 * level, 1, ANCHORS * frame.classes, *size)
        power = 1
        while power < frame.rarity:
            rare, power = rare * rare, 2 * power
        logits.append((9.0 * rare - 7.0).astype(np.float32))
        common = uniform(frame.seed + 10 * level + 1, 1, ANCHORS * 4, *size)
        far = common * common
        far = far * far * far * far
        far = far * far * far * far  # the 32nd power: one delta in a hundred comes above the clamp of 4.135
        deltas.append((1.5 * (common - 0.5) + 5.0 * far).astype(np.float32))
    return logits, deltas


def picture(frame: Frame, kind: str) -> npt.NDArray[np.uint8]:
    """(H, W, 3) of the frame's original size, of kind "noise" or "scene"."""
    return {"noise": image, "scene": scene}[kind](frame.seed, *frame.original)


def sampled(frame: Frame, size: int) -> npt.NDArray[np.int64]:
    """Positions in a flat array of that size; the last is always among them."""
    return np.append((uniform(frame.seed + 7, SAMPLES - 1) * size).astype(np.int64), size - 1)


def weighted_sums(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A checksum of rows that notices their order: (columns,) in float64. Exact for whole numbers."""
    rows = values.astype(np.float64)
    return (rows * (1 + np.arange(len(rows)) % 1009)[:, None]).sum(axis=0)


def record(frame: Frame) -> dict[str, npt.NDArray[Any]]:
    import torch
    import torchvision
    from torchvision.models.detection import retinanet_resnet50_fpn

    if torchvision.__version__.split("+")[0] != TORCHVISION:
        raise SystemExit(f"golden files are of torchvision {TORCHVISION}, this is {torchvision.__version__}")
    model = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=frame.classes,
        min_size=frame.limits[0],
        max_size=frame.limits[1],
    ).eval()
    golden: dict[str, npt.NDArray[Any]] = {}
    for kind in ("noise", "scene"):
        tensor = torch.from_numpy(picture(frame, kind).copy()).permute(2, 0, 1).float() / 255
        images, _ = model.transform([tensor])
        flat = images.tensors.numpy().reshape(-1)
        golden[f"{kind}_pixels"] = flat[sampled(frame, flat.size)]
    if images.image_sizes != [frame.resized] or images.tensors.shape[2:] != frame.padded:
        raise SystemExit(f"{frame}: torchvision gives {images.image_sizes} in {tuple(images.tensors.shape)}")

    # The shapes of the real backbone, without its work.
    features = model.backbone.to("meta")(torch.empty((1, 3, *frame.padded), device="meta")).values()
    if [tuple(feature.shape[2:]) for feature in features] != level_sizes(frame.padded):
        raise SystemExit(f"{frame}: levels are {[tuple(feature.shape) for feature in features]}")
    logits, deltas = heads(frame)
    anchors = model.anchor_generator(images, [torch.empty(level.shape) for level in logits])
    golden["anchor_sums"] = weighted_sums(anchors[0].numpy())
    golden["anchor_samples"] = anchors[0].numpy()[sampled(frame, len(anchors[0]))[-200:]].astype(np.int16)

    def as_torchvision(level: npt.NDArray[np.float32], width: int) -> torch.Tensor:
        """What RetinaNetHead makes of a convolution's output: (1, A * width, h, w) to (1, h * w * A, width)."""
        tensor = torch.from_numpy(level).view(1, ANCHORS, width, *level.shape[2:])
        return tensor.permute(0, 3, 4, 1, 2).reshape(1, -1, width)

    outputs = {
        "cls_logits": [as_torchvision(level, frame.classes) for level in logits],
        "bbox_regression": [as_torchvision(level, 4) for level in deltas],
    }
    counts = [level.shape[1] for level in outputs["cls_logits"]]
    detections = model.postprocess_detections(outputs, [list(anchors[0].split(counts))], images.image_sizes)
    result = model.transform.postprocess(detections, images.image_sizes, [frame.original])[0]
    golden |= {
        "boxes": result["boxes"].numpy(),
        "scores": result["scores"].numpy(),
        "labels": result["labels"].numpy().astype(np.uint8),
    }
    return golden


def main() -> None:
    os.environ["ATEN_CPU_CAPABILITY"] = "default"  # Note [Fused positions]; read when torch is imported
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for frame in FRAMES:
        golden = record(frame)
        path = GOLDEN / f"{frame.name}.npz"
        np.savez_compressed(path, **golden)
        print(f"{path.name}: {len(golden['boxes'])} boxes, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
