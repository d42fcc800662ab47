"""A whole call, photo in and boxes out: `Detector(photo)` against torchvision's eager RetinaNet on the same weights.

    python benchmarks/whole_call.py [--image FILE | --size 480x640] [--threads N] [--rounds N]

The network is torchvision's `retinanet_resnet50_fpn` with random weights; the bias of its class head is moved until
0.3 % of this photo's scores are above the threshold. Its raw heads are exported to ONNX for retinasdk. Both sides
start from the same RGB uint8 array and use the same number of threads. Needs torch, torchvision and onnx.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from inputs import read_or_make, size
from timing import interleave, print_machine, print_ratio, print_times
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

import retinasdk
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.rules import logit
from retinasdk.spec import ModelSpec

PASSING = 0.003


class Heads(torch.nn.Module):
    """The network alone: normalised images (N, 3, h, w) to the logits, then the deltas, of each level."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.classes = torch.nn.Sequential(
            model.head.classification_head.conv, model.head.classification_head.cls_logits
        )
        self.boxes = torch.nn.Sequential(model.head.regression_head.conv, model.head.regression_head.bbox_reg)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        levels = list(self.backbone(images).values())
        return (*(self.classes(level) for level in levels), *(self.boxes(level) for level in levels))


def as_tensor(image: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def prepared_model(
    image: npt.NDArray[np.uint8], threshold: float, passing: float = PASSING
) -> tuple[RetinaNet, torch.Tensor]:
    """The network with its class bias moved until this share of scores passes, and the tensor it sees of the photo."""
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None).eval()
    tensor = model.transform([as_tensor(image)])[0].tensors
    logits = torch.cat([level.flatten() for level in Heads(model)(tensor)[:5]])
    surplus = int(passing * logits.numel())
    model.head.classification_head.cls_logits.bias += logit(threshold) - logits.topk(surplus).values[-1]
    return model, tensor


def export_heads(model: RetinaNet, tensor: torch.Tensor, spec: ModelSpec, path: Path) -> Path:
    """Writes the network without its post-processing to the ONNX file `path`, its spec beside it; returns `path`."""
    names = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
    dynamic = {spec.input: {0: "N", 2: "H", 3: "W"}} | {name: {0: "N", 2: "h", 3: "w"} for name in names}
    torch.onnx.export(
        Heads(model).eval(),
        (tensor,),
        path,
        input_names=[spec.input],
        output_names=names,
        dynamic_axes=dynamic,
        dynamo=False,
    )
    spec.save(path.with_suffix(".json"))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="an image file; it is decoded before the clock starts")
    parser.add_argument("--size", type=size, default=(480, 640), help="HEIGHTxWIDTH of a synthetic photo instead")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both sides")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print_machine("retinasdk", "onnxruntime", "torch", "torchvision", "numpy")
    print(f"threads: {arguments.threads} on both sides")

    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    image = read_or_make(arguments.image, arguments.size)
    spec = flavour_spec("torchvision")
    model, tensor = prepared_model(image, spec.score_threshold)
    print(f"shapes: photo {image.shape} uint8, network input {tuple(tensor.shape)}, {len(spec.labels)} classes")

    with TemporaryDirectory() as folder:
        path = export_heads(model, tensor, spec, Path(folder) / "retinanet.onnx")
        with retinasdk.Detector(path, threads=arguments.threads) as detector:
            ours, theirs = detector(image), model([as_tensor(image)])[0]
            print(f"detections: retinasdk {len(ours)}, torchvision {len(theirs['scores'])}")
            if len(ours) == len(theirs["scores"]):
                same_class = ours.class_ids == theirs["labels"].numpy()
                difference = np.abs(ours.xyxy - theirs["boxes"].numpy())[same_class].max(initial=0.0)
                print(
                    f"  {100 * same_class.mean():.1f} % equal in class by rank; those boxes within {difference:.2g} px"
                )
            times = interleave(
                {"torchvision eager": lambda: model([as_tensor(image)]), "Detector(photo)": lambda: detector(image)},
                rounds=arguments.rounds,
                warmup=1,
            )
    print_times(times)
    print_ratio(times, "torchvision eager", "Detector(photo)", target="at least 1.3")


if __name__ == "__main__":
    main()
