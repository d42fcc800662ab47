"""Random graphs: with the operators of retinasdk they give what ONNX Runtime gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conv_graphs import rewritten_model, session
from random_conv_graphs import RandomGraph

from retinasdk.backends import blocked_graph

GRAPHS = 50


@pytest.mark.parametrize("block", range(5))
def test_random_graphs(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_graph, "_MIN_MULTIPLICATIONS", 0)  # Whatever can be rewritten is, as small as it is.
    kinds: Counter[str] = Counter()
    for seed in range(block * GRAPHS, (block + 1) * GRAPHS):
        graph = RandomGraph(seed)
        edited = rewritten_model(graph.model, tmp_path)
        if edited is None:
            continue
        kinds += edited.counts + Counter(rewritten=1)
        expected = session(graph.model).run(None, {"x": graph.x})
        found = session(edited).run(None, {"x": graph.x})
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape, seed
            worst = np.abs(one - other).max() / max(np.abs(other).max(), 1e-3)
            assert worst < 1e-4, f"seed {seed}: {worst:.1e} of the largest value"
    assert kinds["rewritten"] > GRAPHS * 0.8
    every = {
        "BlockedConv",
        "WinogradConv",
        "WinogradLevels",
        "DepthwiseBlock",
        "BlockedMaxPool",
        "BlockedAdd",
        "ToBlocked",
        "FromBlocked",
    }
    assert every <= set(kinds)
