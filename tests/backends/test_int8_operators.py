"""Tests of the 8-bit operators in sessions of ONNX Runtime: what they refuse, empty images, and shared weights."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from retinasdk.backends import blocked_graph
from retinasdk.backends.lent_weights import lent

pytestmark = pytest.mark.skipif(blocked_graph.library() is None, reason="retinasdk was built without its operators")

POINT = {"stride_y": 1, "stride_x": 1, "top": 0, "left": 0, "bottom": 0, "right": 0}
LIMITS = {"zero": 3, "low": 0, "high": 255}
CONV = {**POINT, **LIMITS, "in_zero": 7}
ADD = {**LIMITS, "scale": 0.1, "x_scale": 0.1, "x_zero": 0, "z_scale": 0.1, "z_zero": 0, "addition": 1, "z_first": 0}


def session(
    kind: str, attributes: dict[str, Any], tensors: dict[str, Any], *, floats: bool = False, inputs: int = 1
) -> Any:
    """Opens a session of one operator. Biases that are missing have the key 0."""
    library = blocked_graph.library()
    assert library is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(str(library))
    made = TensorProto.FLOAT if kind == "ConvOfCodes" else TensorProto.UINT8
    read = TensorProto.FLOAT if floats else TensorProto.UINT8
    names = ["x", "z"][:inputs]
    with lent(library, {name: np.asarray(values, np.float32) for name, values in tensors.items()}) as keys:
        node = helper.make_node(kind, names, ["y"], domain="retinasdk", **{"bias": 0, **attributes, **keys})
        graph = helper.make_graph(
            [node],
            "test",
            [helper.make_tensor_value_info(name, read, None) for name in names],
            [helper.make_tensor_value_info("y", made, None)],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("retinasdk", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def conv_tensors(out: int = 4, channels: int = 5, side: int = 1) -> dict[str, Any]:
    return {"weights": np.ones((out, channels, side, side)), "multipliers": np.full(out, 0.01)}


@pytest.mark.parametrize(
    ("kind", "attributes", "tensors", "message"),
    [
        ("QuantizedConv", {**CONV, "low": 9, "high": 8}, {}, "low must be at most high, got 9 and 8"),
        ("QuantizedConv", {**CONV, "zero": 256}, {}, "zero must be 0 to 255, got 256"),
        ("QuantizedConv", {**CONV, "in_zero": -1}, {}, "in_zero must be 0 to 255, got -1"),
        ("QuantizedConv", CONV, {"weights": np.full((4, 5, 1, 1), 0.5)}, "whole numbers from -128 to 127, got 0.5"),
        ("QuantizedConv", CONV, {"weights": np.full((4, 5, 1, 1), 128)}, "whole numbers from -128 to 127, got 128"),
        ("QuantizedConv", CONV, {"weights": np.ones((4, 32769, 1, 1))}, "at most 32768 weights"),
        ("QuantizedConv", CONV, {"multipliers": np.ones(3)}, r"multipliers must be \(4,\), got \(3,\)"),
        ("QuantizedConv", CONV, {"multipliers": np.full(4, np.inf)}, "multipliers must be finite"),
        ("QuantizedConv", CONV, {"bias": np.full(4, 1 << 31).astype(np.uint32).view(np.float32)}, "must be within"),
        ("QuantizedConv", {**CONV, "top": 1}, {}, "larger than the padding"),
        ("QuantizedDepthwise", CONV, {"weights": np.ones((4, 2, 3, 3))}, "weights must be"),
        ("QuantizedDepthwise", CONV, {"weights": np.ones((4, 1, 7, 7))}, "3x3 or 5x5"),
        ("ConvOfCodes", {**CONV, "in_scale": 0.0}, {}, "in_scale must be positive and finite"),
        (
            "ConvOfCodes",
            {**CONV, "in_scale": 0.1},
            {"weights": np.full((4, 5, 1, 1), np.nan)},
            "weights must be finite",
        ),
        ("QuantizedAdd", {**ADD, "scale": -1.0}, {}, "scale must be positive and finite"),
        ("QuantizedAdd", {**ADD, "addition": 0}, {}, "addition must be 1 to 2, got 0"),
        (
            "QuantizedMaxPool",
            {"kernel_y": 1, "kernel_x": 1, **POINT, "left": 1},
            {},
            "padding must be smaller than the kernel",
        ),
        ("QuantizeBlocked", {"scale": float("inf"), "zero": 0, "planar_input": 1}, {}, "scale must be positive"),
    ],
)
def test_attributes_that_are_not_allowed(kind: str, attributes: dict[str, Any], tensors: Any, message: str) -> None:
    given = {**conv_tensors(), **tensors} if "stride_y" in attributes else {}
    with pytest.raises(Exception, match=f"retinasdk {kind}: .*{message}"):
        session(kind, attributes, given, floats=kind == "QuantizeBlocked", inputs=2 if kind == "QuantizedAdd" else 1)


def test_unknown_keys_are_named() -> None:
    with pytest.raises(Exception, match="weights"):
        session("QuantizedConv", {**CONV, "weights": 12345, "multipliers": 67}, {})


def test_images_that_do_not_fit() -> None:
    conv = session("QuantizedConv", CONV, conv_tensors(side=3))
    with pytest.raises(Exception, match="at least as large as the kernel"):
        conv.run(None, {"x": np.zeros((1, 1, 2, 2, 16), np.uint8)})
    with pytest.raises(Exception, match=r"the input must be \(N, 1, H, W, 16\)"):
        conv.run(None, {"x": np.zeros((1, 2, 4, 4, 16), np.uint8)})
    added = session("QuantizedAdd", ADD, {}, inputs=2)
    with pytest.raises(Exception, match="the added tensor must have the shape of the output"):
        added.run(None, {"x": np.zeros((1, 2, 4, 4, 16), np.uint8), "z": np.zeros((1, 2, 2, 4, 16), np.uint8)})


@pytest.mark.parametrize("shape", [(0, 1, 4, 4, 16), (2, 1, 0, 4, 16), (2, 1, 4, 0, 16)])
def test_empty_images(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.uint8)
    for kind, tensors in (
        ("QuantizedConv", conv_tensors()),
        ("QuantizedDepthwise", conv_tensors(5, 1, 3)),
        ("ConvOfCodes", conv_tensors()),
    ):
        attributes = {**CONV, "in_scale": 0.5}
        (made,) = session(kind, attributes, tensors).run(None, {"x": empty})
        assert made.size == 0
    (made,) = session("QuantizedAdd", ADD, {}, inputs=2).run(None, {"x": empty, "z": empty})
    assert made.shape == shape


ADDED_SCALARS = ("as", "az", "bs", "bz", "cs", "cz")


def qlinear_add() -> Any:
    """Opens a session of ONNX Runtime's own addition of codes."""
    scalars = [(name, TensorProto.FLOAT if name[1] == "s" else TensorProto.UINT8) for name in ADDED_SCALARS]
    graph = helper.make_graph(
        [helper.make_node("QLinearAdd", ["a", "as", "az", "b", "bs", "bz", "cs", "cz"], ["c"], domain="com.microsoft")],
        "test",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 1, 64, 64, 16]) for name in "ab"]
        + [helper.make_tensor_value_info(name, kind, []) for name, kind in scalars],
        [helper.make_tensor_value_info("c", TensorProto.UINT8, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the order of ONNX Runtime on x86-64")
@pytest.mark.parametrize("seed", range(8))
def test_sums_are_those_of_onnxruntime_to_the_last_bit(seed: int) -> None:
    """All pairs of codes, also halfway between two codes, which the last bit of a sum decides."""
    random = np.random.default_rng(seed)
    every = np.arange(256, dtype=np.uint8)
    x, z = (codes.reshape(1, 1, 64, 64, 16) for codes in np.meshgrid(every, every))
    theirs = qlinear_add()
    for case in range(8):
        # Scales that are fractions of small numbers have the most sums halfway between two codes.
        fractions = random.integers(1, 40, 3) / random.integers(8, 64, 3)
        scales = (fractions if case % 2 else random.uniform(0.01, 0.1, 3)).astype(np.float32)
        zeros = random.integers(0, 256, 3).astype(np.uint8)
        values = [value for pair in zip(scales, zeros, strict=True) for value in pair]
        (expected,) = theirs.run(None, {"a": x, "b": z, **dict(zip(ADDED_SCALARS, map(np.array, values), strict=True))})
        sums = {"scale": float(scales[2]), "zero": int(zeros[2]), "addition": 1, "low": 0, "high": 255}
        for z_first in (0, 1):
            names = "zx" if z_first else "xz"
            attributes = {**sums, "z_first": z_first}
            for name, scale, zero in zip(names, scales, zeros, strict=False):
                attributes |= {f"{name}_scale": float(scale), f"{name}_zero": int(zero)}
            feeds = dict(zip(names, (x, z), strict=True))
            (found,) = session("QuantizedAdd", attributes, {}, inputs=2).run(None, feeds)
            np.testing.assert_array_equal(found, expected)


def test_layouts() -> None:
    random = np.random.default_rng(0)
    image = random.normal(size=(2, 21, 5, 7)).astype(np.float32)
    attributes = {"scale": 0.02, "zero": 100, "planar_input": 1}
    (blocked,) = session("QuantizeBlocked", attributes, {}, floats=True).run(None, {"x": image})
    assert blocked.shape == (2, 2, 5, 7, 16)
    (planar,) = session("PlanarCodes", {"channels": 21}, {}).run(None, {"x": blocked})
    steps = np.rint(image / np.float32(0.02))
    np.testing.assert_array_equal(planar, np.clip(steps + 100, 0, 255).astype(np.uint8))


def test_weights_that_differ_in_scale_only_are_not_shared() -> None:
    x = np.full((1, 1, 3, 3, 16), 50, np.uint8)
    attributes = {**POINT, "in_zero": 7, "in_scale": 0.5}
    results = [
        session("ConvOfCodes", attributes, {"weights": np.full((2, 4, 1, 1), scale)}).run(None, {"x": x})[0]
        for scale in (1.0, 2.0)
    ]
    np.testing.assert_allclose(results[0], 4 * 43 * 0.5, rtol=1e-4)
    np.testing.assert_allclose(results[1], 2 * results[0], rtol=1e-6)
