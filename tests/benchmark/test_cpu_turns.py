"""The programs behind the tables of CPU speeds: processes that take turns, and the work of layers."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from paths import ROOT
from random_retinanet import save_random_retinanet

from retinasdk.onnx_graph.model_file import find_spec


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def folder(tmp_path: Path, benchmark: Any) -> Path:
    path = save_random_retinanet(tmp_path / "model.onnx")
    photo = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    benchmark("cpu_cases").write_inputs(tmp_path, photo, find_spec(path, {}))
    return tmp_path


def test_contestants_take_turns_in_processes_of_their_own(folder: Path, benchmark: Any) -> None:
    turns = benchmark("cpu_turns")
    with ExitStack() as opened:
        names = ["retinasdk", "ONNX Runtime", "no such contestant"]
        running, failed = turns.start_all(names, folder, 1, {"RETINASDK_CACHE": str(folder / "cache")}, opened)
        assert list(failed) == ["no such contestant"]
        assert "KeyError" in failed["no such contestant"]
        times = turns.take_turns(running, 2)
        assert list(times) == ["retinasdk", "ONNX Runtime"]
        assert all(len(values) == 2 and min(values) > 0 for values in times.values())
        assert turns.heads_difference(*running.values(), folder) < 1e-3
        assert running["retinasdk"].ask("memory") > 10
        with pytest.raises(turns.ContestantError, match="unknown command 'dance'"):
            running["retinasdk"].ask("dance")


def test_own_work_is_not_the_work_of_others(benchmark: Any) -> None:
    others = benchmark("cpu_turns").OtherWork()
    share = others.share()
    assert share is None or 0 <= share <= 1


@pytest.fixture
def model(benchmark: Any) -> Any:
    """A first layer, a depthwise block, and a head that two levels share."""
    nodes = [
        helper.make_node("Conv", ["x", "w_stem"], ["a"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w_expand"], ["c"]),
        helper.make_node("Conv", ["c", "w_depthwise"], ["d"], pads=[1] * 4, group=32),
        helper.make_node("Conv", ["d", "w_project"], ["e"]),
        helper.make_node("Add", ["b", "e"], ["f"]),
        helper.make_node("Conv", ["f", "w_head"], ["y"], pads=[1] * 4),
        helper.make_node("MaxPool", ["f"], ["g"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["g", "w_head"], ["z"], pads=[1] * 4),
    ]
    shapes = {
        "w_stem": (16, 3, 3, 3),
        "w_expand": (32, 16, 1, 1),
        "w_depthwise": (32, 1, 3, 3),
        "w_project": (16, 32, 1, 1),
        "w_head": (8, 16, 3, 3),
    }
    weights = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    floats = onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", floats, ["n", 3, "h", "w"])]
    outputs = [helper.make_tensor_value_info(name, floats, ["n", 8, "h2", "w2"]) for name in "yz"]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    return benchmark("layer_work").Model(helper.make_model(graph), (1, 3, 20, 28))


@pytest.mark.parametrize(
    ("node", "kind", "direct", "computed", "moved"),
    [
        (("BlockedConv", ["x"], "b/blocked"), "first layer", 432 * 140, 432 * 140, 3 * 560 + 16 * 140 + 432),
        (
            ("DepthwiseBlock", ["b/blocked", "b/blocked"], "f/blocked"),
            "depthwise blocks",
            (512 + 288 + 512) * 140,
            (512 + 288 + 512) * 140,
            2 * 16 * 140 + 512 + 288 + 512,
        ),
        # 10 x 14 pixels are 2 x 3 patches of 6 x 6, and 3 x 4 of 4 x 4.
        (("WinogradConv", ["f/blocked"], "y", 6), "heads", 1152 * 140, 128 * 64 * 6, 24 * 140 + 128 * 64),
        (("WinogradConv", ["f/blocked"], "y", 4), "heads", 1152 * 140, 128 * 36 * 12, 24 * 140 + 128 * 36),
        # And 5 x 7 pixels are 1 x 2 patches of 6 x 6.
        (
            ("WinogradLevels", ["f/blocked", "g/blocked"], ["y", "z"], 6),
            "heads",
            1152 * 175,
            128 * 64 * 8,
            24 * 175 + 128 * 64,
        ),
        (("BlockedMaxPool", ["f/blocked"], "g/blocked"), "other operators", 0, 0, 16 * 140 + 16 * 35),
        (("ToBlocked", ["f"], "f/blocked"), "conversions of layout", 0, 0, 2 * 16 * 140),
    ],
)
def test_the_work_of_operators(node: Any, kind: str, direct: int, computed: int, moved: int, model: Any) -> None:
    operator, inputs, output, *patch = node
    outputs = output if isinstance(output, list) else [output]
    work = model.work(helper.make_node(operator, inputs, outputs, **({"patch": patch[0]} if patch else {})))
    assert (work.kind, work.direct, work.computed, work.bytes) == (kind, direct, computed, 4 * moved)


def test_a_small_working_set_is_moved_at_the_rate_of_the_cache(benchmark: Any) -> None:
    roofline, work = benchmark("roofline"), benchmark("layer_work").Work
    peak = {
        "threads": 2,
        "multiply_adds_per_core": {"avx2": 1e9},
        "bytes_per_second": {"1": 8e9, "16": 4e9, "256": 1e9},
    }
    assert [roofline.bandwidth(peak, size) for size in (1000, 17 << 20, 1 << 30)] == [8e9, 4e9, 1e9]
    assert roofline.best_ms(work("1x1", (), 9, 4_000_000, 8_000_000), peak, "avx2") == (2.0, 1.0)
