"""Random weights for a PyTorch RetinaNet of any framework, such that its boxes are worth a comparison.

A network with plain random weights gives the same score everywhere, or reacts to single gray levels, on which two
correct resizes differ. `blur` makes it look at areas instead of pixels, and `spread` scales the last layers
of the heads, so that scores lie between 0 and 1 and boxes differ from their anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def blur(network: torch.nn.Module, seed: int) -> None:
    """Gives every convolution of a network seeded weights that vary little within a filter."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            rows, columns = module.kernel_size
            fan_in = module.in_channels // module.groups
            weight = torch.randn(module.weight.shape, generator=generator)
            weight = weight.mean((2, 3), keepdim=True) * (rows * columns) ** 0.5 + 0.02 * weight
            module.weight.data = weight / (rows * columns) * (2 / fan_in) ** 0.5
            if module.bias is not None:
                module.bias.data.zero_()


def spread(
    run: Callable[[], tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]],
    classify: Any,
    regress: Any,
    seed: int,
    *,
    std: float = 0.2,
    delta: float = 0.02,
    means: float = 0.3,
) -> None:
    """Scales the last convolutions of the two heads by what they give.

    Args:
        run: Computes the logits and the deltas of each level, (1, channels, h, w), for a picture.
        classify: Last convolution of the class head.
        regress: Last convolution of the box head.
        seed: For the bias of each channel, which makes classes and anchors differ.
        std: Standard deviation of the logits of one channel afterwards; its mean is between -6 and 1.
        delta: Standard deviation of the deltas of one channel afterwards.
        means: The means of the deltas are within -1 and 1 times this.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in (classify, regress):
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.data = weight.mean((2, 3), keepdim=True) + 0.1 * weight
        layer.bias.data.zero_()
    with torch.no_grad():
        outputs = run()
    for layer, levels, width, least, most in (
        (classify, outputs[0], std, -6.0, 1.0),
        (regress, outputs[1], delta, -means, means),
    ):
        values = torch.cat([level[0].flatten(1) for level in levels], dim=1)
        scale = width / values.std(dim=1)
        layer.weight.data *= scale[:, None, None, None]
        wanted = torch.linspace(least, most, len(scale))[torch.randperm(len(scale), generator=generator)]
        layer.bias.data = wanted - scale * values.mean(dim=1)
