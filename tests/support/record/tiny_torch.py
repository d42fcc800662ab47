"""Small networks from frameworks in PyTorch: few channels, and heads whose outputs are spread as those of trained ones.

The scripts beside this one build a framework's own network inside `narrow` and call `settle` on it. Run them in the
environment of the framework; this module needs torch and onnx.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

_WIDTHS = {64, 128, 256, 512, 1024, 2048}  # Numbers of channels that a network chooses freely.
_DETAIL = 0.05  # How much a convolution differs from an average over its window.
_OFFSET = 1.0  # Deviation of the biases, which make levels, anchors and classes differ.
_IN_SPACE = 0.2  # How much outputs of the heads differ from cell to cell, compared with those of one cell.


@contextlib.contextmanager
def narrow(channels: int = 6, divisor: int = 32) -> Iterator[None]:
    """Convolutions and batch norms that are created inside have `divisor` times fewer channels, at least `channels`."""

    def fewer(count: int) -> int:
        return max(channels, count // divisor) if count in _WIDTHS else count

    original = nn.Conv2d, nn.BatchNorm2d

    class Conv2d(original[0]):  # type: ignore[misc]
        def __init__(self, inputs: int, outputs: int, *args: Any, **options: Any) -> None:
            super().__init__(fewer(inputs), fewer(outputs), *args, **options)

    class BatchNorm2d(original[1]):  # type: ignore[misc]
        def __init__(self, count: int, *args: Any, **options: Any) -> None:
            super().__init__(fewer(count), *args, **options)

    nn.Conv2d, nn.BatchNorm2d = Conv2d, BatchNorm2d
    try:
        yield
    finally:
        nn.Conv2d, nn.BatchNorm2d = original


def settle(
    network: nn.Module,
    heads: tuple[nn.Conv2d, nn.Conv2d],
    pictures: torch.Tensor,
    *,
    seed: int,
    logits: tuple[float, float] = (-3.0, 1.7),
    deltas: Sequence[float] = (0.3, 0.3, 0.3, 0.3),
) -> None:
    """Draws random weights, and scales them so that the outputs of the heads are spread as those of a trained network.

    Convolutions are close to averages over their window, so that one gray level more or less in a pixel has no effect
    on boxes. Each one gets outputs of deviation 1 when it runs first, so all levels are spread alike.

    Args:
        network: The framework's network, which computes its heads when called. It is put into evaluation mode.
        heads: The last convolutions of class head and box head.
        pictures: Inputs of the network (n, 3, H, W), preprocessed.
        seed: Of the weights.
        logits: Mean and standard deviation of the logits.
        deltas: Standard deviation of dx, dy, dw and dh.
    """
    torch.manual_seed(seed)
    network.eval()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = []
    with torch.no_grad():
        for module in convolutions:
            average = nn.init.orthogonal_(torch.empty(module.weight.shape[:2]))[:, :, None, None]
            module.weight.normal_(std=_DETAIL).add_(average)
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros(module.out_channels))
            module.bias.zero_()
            hooks.append(module.register_forward_hook(_scale_once))
        network(pictures)
        for module, scale in zip(heads, (torch.tensor([logits[1]]), torch.tensor(deltas)), strict=True):
            each = scale.repeat(module.out_channels // len(scale))
            module.weight.mul_(each[:, None, None, None] * _IN_SPACE)
            module.bias.mul_(_IN_SPACE).add_(torch.randn(module.out_channels)).mul_(each)
        heads[0].bias.add_(logits[0])
    for hook in hooks:
        hook.remove()


def _scale_once(module: nn.Conv2d, _: object, output: torch.Tensor) -> torch.Tensor:
    """Scales the weights so that the first output has the deviation 1, with a random bias; a forward hook."""
    if getattr(module, "is_settled", False):
        return output
    module.is_settled = True
    mean = output.mean(dim=(0, 2, 3))
    spread = output.var(dim=(0, 2, 3)).mean().sqrt()
    module.weight.div_(spread)
    offset = _OFFSET * torch.randn(module.out_channels)
    module.bias.sub_(mean).div_(spread).add_(offset)
    return (output - mean[:, None, None]) / spread + offset[:, None, None]


def normalized(pixels: Any) -> torch.Tensor:
    """Returns a picture (H, W, 3) as the usual input of a network, for `settle`: the mean and deviation of ImageNet."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = (pixels / 255.0 - mean) / std
    return torch.from_numpy(values.transpose(2, 0, 1)[None]).float()
