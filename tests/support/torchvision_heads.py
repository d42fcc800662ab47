"""An untrained torchvision RetinaNet, with its last layers rescaled so that it finds many boxes. Needs torchvision."""

from __future__ import annotations

from typing import Any


def spread(last: Any, outputs: list[Any], deviation: float, bias: float) -> None:
    """Rescales a last convolution so that its outputs (N, C, h, w) have this deviation around `bias`."""
    import torch

    values = torch.cat([level.flatten(2) for level in outputs], dim=2)[0]
    scale = deviation / values.std(dim=1)
    with torch.no_grad():
        last.weight.mul_(scale[:, None, None, None])
        last.bias.copy_(bias - (values.mean(dim=1) - last.bias) * scale)


def spread_heads(model: Any, images: Any, *, bias: float) -> None:
    """Rescales both heads for normalized images (N, 3, H, W). The logits are centered at `bias`."""
    import torch

    classify, regress = model.head.classification_head, model.head.regression_head
    with torch.no_grad():
        levels = list(model.backbone(images).values())
        for head, last, deviation, around in (
            (classify, classify.cls_logits, 1.0, bias),
            (regress, regress.bbox_reg, 0.3, 0.0),
        ):
            spread(last, [last(head.conv(level)) for level in levels], deviation, around)


def small_model(classes: int = 3, **rules: Any) -> Any:
    """Returns a RetinaNet with ResNet 18, which is quicker than ResNet 50."""
    import torch
    from torchvision.models import detection

    from retinasdk.convert.torchvision_checkpoint import _build

    torch.manual_seed(5)
    backbone = _build(detection, "retinanet_resnet18_fpn", 3).backbone
    model = detection.RetinaNet(backbone, classes, **rules).eval()
    spread_heads(model, torch.randn(1, 3, 256, 320), bias=-4.5)
    return model
