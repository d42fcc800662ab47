"""Convolutions of the operators against float64 NumPy; the heads of whole networks with them; the switch."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conv_graphs import model_of, session
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from random_retinanet import save_random_retinanet

from retinasdk import Detector
from retinasdk.backends import winograd_graph
from retinasdk.backends.onnx_cpu import OnnxCpuBackend
from retinasdk.models import find_model, list_models

Array = npt.NDArray[np.float32]


def direct(x: Array, weights: Array, bias: Array | None) -> npt.NDArray[np.float64]:
    """The convolution as it is defined, in float64: (N, in, H, W) by (out, in, 3, 3), padding 1."""
    height, width = x.shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    result = np.zeros((x.shape[0], weights.shape[0], height, width))
    for dy in range(3):
        for dx in range(3):
            part = padded[:, :, dy : dy + height, dx : dx + width]
            result += np.einsum("oc,nchw->nohw", weights[:, :, dy, dx].astype(np.float64), part)
    return result if bias is None else result + bias[:, None, None]


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    relu=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_operator(
    batch: int, channels: tuple[int, int], size: tuple[int, int], relu: bool, biased: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = channels
    x = random.standard_normal((batch, inputs, *size)).astype(np.float32)
    tensors = {"w": random.standard_normal((outputs, inputs, 3, 3)).astype(np.float32)}
    if biased:
        tensors["b"] = random.standard_normal(outputs).astype(np.float32)
    node = helper.make_node("WinogradConv", ["x", *tensors], ["y"], domain="retinasdk", relu=int(relu))
    model = model_of([node], tensors)
    model.opset_import.append(helper.make_opsetid("retinasdk", 1))
    (found,) = session(model.SerializeToString()).run(None, {"x": x})
    expected = direct(x, tensors["w"], tensors.get("b"))
    if relu:
        expected = np.maximum(expected, 0.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.sqrt(9 * inputs))


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    relu=st.booleans(),
    biased=st.booleans(),
    residual=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pointwise_operator(
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    relu: bool,
    biased: bool,
    residual: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = channels
    given = {"x": random.standard_normal((batch, inputs, *size)).astype(np.float32)}
    if residual:
        given["z"] = random.standard_normal((batch, outputs, *size)).astype(np.float32)
    tensors = {"w": random.standard_normal((outputs, inputs, 1, 1)).astype(np.float32)}
    if biased:
        tensors["b"] = random.standard_normal(outputs).astype(np.float32)
    names = ["x", "w", "b" if biased else "", "z" if residual else ""]
    node = helper.make_node("PointwiseConv", names, ["y"], domain="retinasdk", relu=int(relu), residual=int(residual))
    model = model_of([node], tensors, inputs=tuple(given)[1:])
    model.opset_import.append(helper.make_opsetid("retinasdk", 1))
    (found,) = session(model.SerializeToString()).run(None, given)
    expected = np.einsum("oc,nchw->nohw", tensors["w"][:, :, 0, 0].astype(np.float64), given["x"].astype(np.float64))
    expected += tensors["b"][:, None, None] if biased else 0.0
    expected += given.get("z", 0.0)
    if relu:
        expected = np.maximum(expected, 0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.sqrt(inputs))


def test_operator_refuses() -> None:
    weights = np.zeros((8, 4, 3, 3), np.float32)
    node = helper.make_node("WinogradConv", ["x", "w"], ["y"], domain="retinasdk", relu=0)
    model = model_of([node], {"w": weights})
    model.opset_import.append(helper.make_opsetid("retinasdk", 1))
    with pytest.raises(Exception, match=r"WinogradConv: input must be \(N, 4, H, W\)"):
        session(model.SerializeToString()).run(None, {"x": np.zeros((1, 5, 6, 6), np.float32)})
    assert session(model.SerializeToString()).run(None, {"x": np.zeros((1, 4, 0, 6), np.float32)})[0].size == 0
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, None))
    with pytest.raises(Exception, match=r"weights must be constant, \(out, in, 3, 3\)"):
        session(model.SerializeToString())


@pytest.mark.parametrize("name", [model.name for model in list_models()])
def test_bundled_heads_agree(name: str) -> None:
    """Within 1e-3 of what each head varies by; the operator is in use."""
    path = find_model(name)
    edited = winograd_graph.rewritten(path)
    assert edited is not None
    assert edited[1] == 34  # 33 of 3x3, and a lateral one
    fast, plain = (OnnxCpuBackend(path, spec=None, threads=2, convolution=each) for each in ("auto", "direct"))
    assert_heads_agree(fast, plain, (320, 416))


@pytest.mark.heavy
def test_resnet50_heads_agree(tmp_path: Path) -> None:
    path = save_random_retinanet(tmp_path / "model.onnx", "resnet50", classes=20)
    fast, plain = (OnnxCpuBackend(path, spec=None, threads=2, convolution=each) for each in ("auto", "direct"))
    assert_heads_agree(fast, plain, (416, 544))


def assert_heads_agree(fast: OnnxCpuBackend, plain: OnnxCpuBackend, size: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)
    ours, theirs = fast.infer(x), plain.infer(x)
    for one, other in zip(ours.logits + ours.deltas, theirs.logits + theirs.deltas, strict=True):
        assert one.shape == other.shape
        assert 0.0 < np.abs(one - other).max() < 1e-3 * other.std()


def test_switch(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"convolution must be one of auto, direct; got 'fast'"):
        Detector("people", convolution="fast")
    caplog.set_level(logging.DEBUG, "retinasdk")
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Detector("people", device="cpu")(picture)
    assert caplog.messages == ["people.onnx: 34 convolutions use the operators of retinasdk"]
    caplog.clear()
    plain = Detector("people", device="cpu", convolution="direct")(picture)
    assert caplog.messages == []
    monkeypatch.setattr(winograd_graph, "library", lambda: None)
    assert Detector("people", device="cpu")(picture) == plain
    assert caplog.messages == [
        "people.onnx uses direct convolutions: retinasdk was built without its operators for ONNX Runtime"
    ]
    caplog.clear()
    monkeypatch.setattr(winograd_graph, "library", lambda: tmp_path / "missing.so")
    assert Detector("people", device="cpu")(picture) == plain
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "people.onnx uses direct convolutions, because Winograd convolutions are not available: "
    )


def test_workers_use_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "retinasdk")
    for convolution, messages in (("auto", 2), ("direct", 0)):
        caplog.clear()
        backend = OnnxCpuBackend(find_model("people"), spec=None, threads=2, convolution=convolution)
        backend.for_workers()
        assert len(caplog.messages) == messages
        backend.close()
