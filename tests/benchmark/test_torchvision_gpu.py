"""The peer of the GPU benchmark, on the CPU: torchvision's own post-processing finds the boxes of retinasdk."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.types import HeadOutputs

pytestmark = pytest.mark.heavy


class Event:
    """An event of a GPU that takes 5 ms for everything."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 5.0


class Graph:
    def replay(self) -> None:
        pass


@dataclass
class Kept:
    boxes: Any
    class_ids: Any


@pytest.mark.parametrize("passing", [0.003, 0.05, 1.0])
@pytest.mark.parametrize(("classes", "batch"), [(91, 1), (5, 2), (1, 2)])
def test_the_same_boxes(classes: int, batch: int, passing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    heads, peer = importlib.import_module("gpu_heads"), importlib.import_module("torchvision_gpu")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", nullcontext)

    spec, size = heads.spec_of(classes), (256, 352)
    scores, boxes = heads.normal_heads(spec, size)
    logits = heads.batched(scores, batch, heads.shift(spec, passing), "float32")
    above = sum(int((level > -2.9444).sum()) for level in logits) / sum(level.size for level in logits)
    assert above == pytest.approx(passing, rel=0.2)
    deltas = heads.batched(boxes, batch, np.float32(0), "float32")
    theirs = peer.postprocess(spec, size, logits, deltas)
    transforms = [Transform(original=size, resized=size, padded=size)] * batch
    ours = postprocess(
        HeadOutputs(tuple(logits), tuple(deltas)), spec, transforms, score_threshold=spec.score_threshold
    )
    assert peer.plain_pass_ms(logits, rounds=3) == pytest.approx(0.5)
    found = theirs()
    assert [len(one) for one in ours] == [len(one["boxes"]) for one in found]
    share, worst = peer.agreement([Kept(one.xyxy, one.class_ids) for one in ours], found)
    assert share == 1.0
    assert worst < 0.001
    assert peer.median_ms(theirs, 1) > 0
    assert peer.agreement([Kept(one.xyxy + 1, one.class_ids) for one in ours], found)[0] < 1.0
