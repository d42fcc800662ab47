"""8-bit models whose sums exceed 16 bits, which ONNX Runtime limits on x86-64 without VNNI."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinasdk._util.processor import instruction_sets
from retinasdk.backends import blocked_graph, limited_sums, sessions

LARGE, SMALL = 127, 64  # Two large ones exceed 128.
HAS_LIMITED_SUMS = platform.machine() in ("x86_64", "AMD64") and not {"avx512_vnni", "avx_vnni"} & {*instruction_sets()}


def write_model(path: Path, weight: int, *, layers: int = 1, side: int = 3) -> None:
    """Writes convolutions of codes of uint8, 8 channels to 8. They share their weights, which are all the same."""
    write_weights(path, np.full((8, 8, side, side), weight), layers=layers)


def write_weights(path: Path, weights: np.ndarray, *, layers: int = 1) -> None:
    """Writes convolutions of 8 channels. weights: (out, 8 / groups, side, side)."""
    weights = weights.astype(np.int8)
    group, side = 8 // weights.shape[1], weights.shape[2]
    largest = np.abs(weights.astype(int)).sum((1, 2, 3)).max()
    scales = {"x_scale": 0.02, "weight_scale": 0.01, "y_scale": 0.02 * 0.01 * largest}
    constants = [numpy_helper.from_array(weights, "weights")]
    constants += [numpy_helper.from_array(np.float32(value), name) for name, value in scales.items()]
    constants += [
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.int8(0), "none"),
    ]
    nodes, outputs = [], []
    for i in range(layers):
        nodes += [
            helper.make_node("QuantizeLinear", [f"x{i}", "x_scale", "zero"], [f"codes{i}"]),
            helper.make_node("DequantizeLinear", [f"codes{i}", "x_scale", "zero"], [f"numbers{i}"]),
            helper.make_node("DequantizeLinear", ["weights", "weight_scale", "none"], [f"w{i}"]),
            helper.make_node("Conv", [f"numbers{i}", f"w{i}"], [f"sums{i}"], pads=[side // 2] * 4, group=group),
            helper.make_node("QuantizeLinear", [f"sums{i}", "y_scale", "zero"], [f"rounded{i}"]),
            helper.make_node("DequantizeLinear", [f"rounded{i}", "y_scale", "zero"], [f"y{i}"]),
        ]
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None))
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, 8, 12, 12]) for i in range(layers)]
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def run(session: Any) -> np.ndarray:
    bright = np.full((1, 8, 12, 12), 250 * 0.02, np.float32)
    (first, *_) = session.run(None, {item.name: bright for item in session.get_inputs()})
    return np.asarray(first)


def exact(path: Path) -> np.ndarray:
    """The result in float32: without optimizations, ONNX Runtime decodes every code."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return run(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


@pytest.fixture
def no_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_sums, "instruction_sets", lambda: ("avx2", "fma"))
    monkeypatch.setattr(limited_sums.platform, "machine", lambda: "x86_64")


def alternating(order: str) -> np.ndarray:
    """Weights of 127 and 1 in turn, along the channels or along the rows and columns."""
    weights = np.ones((8, 8, 3, 3), np.int8)
    (weights if order == "channels" else weights.reshape(8, 8, 9).transpose(0, 2, 1))[:, ::2] = LARGE
    return weights


# Weights, and whether ONNX Runtime limits their sums.
WEIGHTS = {
    "large": (np.full((8, 8, 3, 3), LARGE), True),
    "large, 1x1": (np.full((8, 8, 1, 1), LARGE), True),
    "negative": (np.full((8, 8, 1, 1), -LARGE), True),
    "small": (np.full((8, 8, 3, 3), SMALL), False),
    "large and small channels": (alternating("channels"), False),
    "large and small taps": (alternating("taps"), True),
    "two groups": (np.full((8, 4, 3, 3), LARGE), True),
    "depthwise": (np.full((8, 1, 3, 3), LARGE), False),
    "depthwise, two outputs of each channel": (np.full((16, 1, 3, 3), LARGE), True),
}


@pytest.mark.usefixtures("no_vnni")
@pytest.mark.parametrize("kind", WEIGHTS)
def test_large_weights_are_found(kind: str, tmp_path: Path) -> None:
    weights, expected = WEIGHTS[kind]
    write_weights(tmp_path / "model.onnx", weights)
    assert limited_sums.are_limited(tmp_path / "model.onnx") == expected


@pytest.mark.skipif(not HAS_LIMITED_SUMS, reason="ONNX Runtime adds in 32 bits on this processor")
@pytest.mark.parametrize("kind", [kind for kind in WEIGHTS if kind != "negative"])  # Its outputs are all 0.
def test_onnxruntime_limits_these(kind: str, tmp_path: Path) -> None:
    """The beliefs about ONNX Runtime: which weights are neighbors, and which convolutions add in 32 bits."""
    path = tmp_path / "model.onnx"
    weights, expected = WEIGHTS[kind]
    write_weights(path, weights)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert (run(session).max() < 0.9 * exact(path).max()) == expected


def test_vnni_adds_in_32_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx", LARGE)
    monkeypatch.setattr(limited_sums, "instruction_sets", lambda: ("avx2", "avx_vnni"))
    assert not limited_sums.are_limited(tmp_path / "model.onnx")
    monkeypatch.setattr(limited_sums, "instruction_sets", lambda: ())
    monkeypatch.setattr(limited_sums.platform, "machine", lambda: "aarch64")
    assert not limited_sums.are_limited(tmp_path / "model.onnx")


def test_other_files_are_left_to_those_who_open_them(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    assert not limited_sums.are_limited(tmp_path / "model.onnx")
    assert not limited_sums.are_limited(tmp_path / "missing.onnx")


@pytest.mark.parametrize("kind", ["large", "two groups", "depthwise, two outputs of each channel"])
def test_the_convolutions_of_onnxruntime_are_exact(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_weights(path, WEIGHTS[kind][0])
    np.testing.assert_array_equal(run(sessions.open_direct(path, 1)), exact(path))


@pytest.mark.usefixtures("no_vnni")
def test_where_they_cannot_be_exact_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    write_model(path, LARGE, layers=2)  # ONNX Runtime fails for weights that layers share, where it would do more.
    if not HAS_LIMITED_SUMS:
        monkeypatch.setattr(sessions, "_opened_exactly", lambda *_: None)
    with caplog.at_level(logging.WARNING, "retinasdk"):
        sessions.open_direct(path, 1)
    assert "limits sums of 8-bit products to 16 bits" in caplog.text
    caplog.clear()
    write_model(path, SMALL, layers=2)
    sessions.open_direct(path, 1)
    assert not caplog.text


@pytest.mark.skipif(blocked_graph.library() is None, reason="retinasdk was built without its operators")
def test_those_of_retinasdk_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_model(path, LARGE, layers=2)
    try:
        session = sessions.open_blocked(path, 1, (12, 12))
    except sessions.NotRewrittenError:
        pytest.skip("retinasdk has no 8-bit kernels for this processor")
    np.testing.assert_array_equal(run(session), exact(path))
