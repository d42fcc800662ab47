"""The peers of postprocess_gpu.py, where torch with CUDA is installed: torchvision's post-processing, and `amax`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_heads import cells

from retinasdk.spec import ModelSpec

LAUNCHES = 10  # of the plain pass in its graph
EQUAL_PIXELS = 0.01


def why_no_torch() -> str | None:
    """Why there is nothing to compare with; None if there is."""
    try:
        import torch
        import torchvision  # noqa: F401
    except Exception as error:  # Whatever is wrong with it, the rest can be measured.
        return f"torch and torchvision cannot be imported ({error})"
    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no GPU"


def versions() -> str:
    import torch
    import torchvision

    return f"{torch.__version__}, torchvision {torchvision.__version__}"


def plain_pass_ms(logits: Sequence[npt.NDArray[Any]], rounds: int) -> float:
    """Median in ms of `amax` over all logits, `LAUNCHES` of them in a CUDA graph."""
    import torch

    flat = torch.from_numpy(np.concatenate([level.reshape(-1) for level in logits])).cuda()
    flat.amax()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            flat.amax()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / LAUNCHES)
    return float(np.median(times))


def postprocess(
    spec: ModelSpec, size: tuple[int, int], logits: Sequence[npt.NDArray[Any]], deltas: Sequence[npt.NDArray[Any]]
) -> Callable[[], list[dict[str, Any]]]:
    """`postprocess_detections` on the same heads, on the GPU, in torchvision's layout (N, anchors, classes).

    The time it takes to bring the heads into that layout is not counted.
    """
    import torch
    from torchvision.models.detection import retinanet_resnet50_fpn
    from torchvision.models.detection.image_list import ImageList

    batch, anchors_per_cell = logits[0].shape[0], spec.anchors_per_cell
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=len(spec.labels)).eval()
    images = ImageList(torch.zeros(batch, 3, *size), [size] * batch)
    made = model.anchor_generator(images, [torch.zeros(1, 1, *level) for level in cells(size)])
    counts = [rows * columns * anchors_per_cell for rows, columns in cells(size)]
    anchors = [list(one.cuda().split(counts)) for one in made]

    def permuted(levels: Sequence[npt.NDArray[Any]], last: int) -> list[Any]:
        flat = [
            torch.from_numpy(level).cuda().unflatten(1, (-1, last)).permute(0, 3, 4, 1, 2).reshape(batch, -1, last)
            for level in levels
        ]
        return list(torch.cat(flat, dim=1).split(counts, dim=1))  # views into one tensor, as in its forward()

    outputs = {"cls_logits": permuted(logits, len(spec.labels)), "bbox_regression": permuted(deltas, 4)}

    def call() -> list[dict[str, Any]]:
        with torch.inference_mode():
            found: list[dict[str, Any]] = model.postprocess_detections(outputs, anchors, images.image_sizes)
            torch.cuda.synchronize()
        return found

    return call


def median_ms(call: Callable[[], object], rounds: int) -> float:
    """Median in ms by the host's clock: this post-processing waits for the GPU itself."""
    times = []
    for turn in range(rounds + 2):
        begin = time.perf_counter()
        call()
        if turn >= 2:
            times.append(1000 * (time.perf_counter() - begin))
    return float(np.median(times))


def agreement(ours: Sequence[Any], theirs: Sequence[dict[str, Any]]) -> tuple[float, float | None]:
    """The share of our boxes with an equal one among theirs, and the largest difference of those in pixels.

    Equal: of the same class, and within `EQUAL_PIXELS`. Boxes are not compared by rank: their scores, sigmoids
    in float32, tie where many logits are high, and then order and choice are arbitrary.
    """
    distances = []
    for our, their in zip(ours, theirs, strict=True):
        boxes, labels = their["boxes"].cpu().numpy(), their["labels"].cpu().numpy()
        for box, label in zip(our.boxes, our.class_ids, strict=True):
            rivals = boxes[labels == label]
            distances.append(float(np.abs(rivals - box).max(axis=1).min(initial=np.inf)))
    equal = [distance for distance in distances if distance <= EQUAL_PIXELS]
    return (len(equal) / len(distances), max(equal)) if equal else (float(not distances), None)
