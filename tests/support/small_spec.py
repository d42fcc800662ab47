"""A spec of one level and one anchor."""

from __future__ import annotations

from typing import Any

from retinasdk import Level, ModelSpec, Normalise, Resize

ANCHOR = (-8.0, -8.0, 8.0, 8.0)


def small_spec(**changes: Any) -> ModelSpec:
    spec = ModelSpec(
        name="small",
        flavour="retinasdk",
        labels=("a", "b"),
        levels=(Level("logits_p3", "deltas_p3", (ANCHOR,), (8.0, 8.0)),),
        resize=Resize("squash", (64, 96)),
        normalise=Normalise((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
        pad_multiple=32,
    )
    return spec.replace(**changes)
