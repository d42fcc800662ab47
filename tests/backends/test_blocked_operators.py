"""The operators in the blocked layout, in sessions of ONNX Runtime, against the same graphs of ONNX's operators."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import operator_cases
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_cases import PROBLEMS, Array, Case, Graph, Problem, blocked, planar, some_problems

from retinasdk import _native

DIRECT = 'open the model with convolution="direct"'
# Of the largest value: sums are taken in another order.
TOLERANCES = {"BlockedConv": 1e-5, "DepthwiseBlock": 1e-5, "WinogradConv": 2e-4}


def assert_close(found: Array, expected: Array, tolerance: float) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("kind", PROBLEMS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_agrees_with_onnx(kind: str, seed: int) -> None:
    problem = PROBLEMS[kind](Case(seed))
    expected, found = problem.expected(), problem.run()
    if not problem.planar_output:
        found = planar(found, expected.shape[1])
    assert_close(found, expected, TOLERANCES.get(kind, 0.0))


@pytest.mark.parametrize("kind", PROBLEMS)
def test_threads_change_nothing(kind: str) -> None:
    for seed in range(8):
        problem = PROBLEMS[kind](Case(seed))
        np.testing.assert_array_equal(problem.run(threads=1), problem.run(threads=2))


@pytest.mark.parametrize("kernels", ["avx2", "neon", "plain"])
def test_lower_instruction_sets_agree(kernels: str, tmp_path: Path) -> None:
    environment = {**os.environ, "RETINASDK_ISA": kernels}
    program = [sys.executable, operator_cases.__file__, str(tmp_path / "results.npz")]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    if "but this processor runs" in done.stderr:
        pytest.skip(f"this processor has no {kernels}")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "results.npz") as results:
        for name, problem in some_problems().items():
            assert_close(results[name], problem.run(), 2e-5 if problem.kind == "WinogradConv" else 1e-5)
            if (_native.convolution_isa(), kernels) == ("avx512", "avx2"):
                np.testing.assert_array_equal(results[name], problem.run())


@pytest.mark.parametrize("height", [1, 2, 7, 13, 50])
def test_way_down_of_a_pyramid(height: int) -> None:
    """Doubled, or up to one pixel less, as Resize does it."""
    case = Case(height)
    z = case.array(1, 16, height, 13)
    for size in (2 * height, 2 * height - 1):
        graph = Graph()
        x = case.array(1, 16, size, 25)
        sizes = graph.constant(np.array(x.shape, np.int64))
        way = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        graph.add("Add", ["x", graph.add("Resize", ["z", "", "", sizes], mode="nearest", **way)])
        ways = {"channels": 16, "addition": 2, "low": -np.inf, "high": np.inf}
        problem = Problem("BlockedAdd", {"x": blocked(x), "z": blocked(z)}, attributes=ways)
        np.testing.assert_array_equal(planar(problem.run(), 16), graph.run({"x": x, "z": z}))


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("axis", [0, 2, 3])
def test_empty_images(kind: str, axis: int) -> None:
    problem = PROBLEMS[kind](Case(3))
    usual = problem.run()
    for name, values in problem.feeds.items():
        problem.feeds[name] = np.take(values, [], axis)
    found = problem.run()
    assert found.size == 0
    assert found.shape[axis] == 0
    assert found.shape[1] == usual.shape[1]


def problem_of(kind: str, **attributes: float) -> Problem:
    """Returns a problem with 20 channels in and out, an image of 6 x 7 pixels and no addition."""
    case = Case(0)
    plain = {"addition": 0, "low": 0.0, "high": 6.0}
    problem = Problem(kind, {"x": blocked(case.array(1, 20, 6, 7))}, attributes={**plain, **attributes})
    if kind in ("BlockedConv", "DepthwiseBlock"):
        problem.attributes = {**operator_cases.AROUND, "planar_input": 0, **problem.attributes}
    if kind == "BlockedConv":
        problem.attributes = {"planar_output": 0, **problem.attributes}
    if kind == "DepthwiseBlock":
        problem.attributes = {"threads": 0, **problem.attributes}
    if kind == "WinogradConv":
        problem.attributes = {"patch": 6, "planar_output": 0, **problem.attributes}
    if kind in ("BlockedConv", "WinogradConv", "DepthwiseBlock"):
        problem.tensors["weights"] = case.array(20, 1 if kind == "DepthwiseBlock" else 20, 3, 3)
    return problem


def assert_refused(problem: Problem, message: str) -> None:
    with pytest.raises(Exception, match=re.escape(f"retinasdk {problem.kind}: {message}")):
        problem.run()


CONVOLUTIONS = ("BlockedConv", "WinogradConv", "DepthwiseBlock")


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_refused_inputs(kind: str) -> None:
    expected = "the input must be (N, 2, H, W, 16) with at most 2147483647 pixels, got "
    for shape in ((1, 20, 6, 7), (1, 3, 6, 7, 16), (1, 2, 6, 7, 15), (2, 6, 7, 16), (1, 2, 6, 7, 16, 1)):
        problem = replace(problem_of(kind), feeds={"x": np.zeros(shape, np.float32)})
        assert_refused(problem, f"{expected}{shape}; {DIRECT}")
    problem = replace(problem_of(kind), feeds={"x": np.zeros((1,) * 9, np.float32)})
    assert_refused(problem, f"{expected}a tensor with 9 dimensions")
    # Without memory: the image is empty, and would have too many pixels.
    problem = replace(problem_of(kind), feeds={"x": np.zeros((0, 2, 1 << 31, 1, 16), np.float32)})
    assert_refused(problem, f"{expected}(0, 2, 2147483648, 1, 16)")


def test_refused_planar_inputs() -> None:
    for shape in ((1, 21, 6, 7), (1, 2, 6, 7, 16)):
        problem = replace(problem_of("BlockedConv", planar_input=1), feeds={"x": np.zeros(shape, np.float32)})
        assert_refused(
            problem, f"the input must be (N, 20, H, W) with at most 2147483647 pixels, got {shape}; {DIRECT}"
        )
    problem = Problem("ToBlocked", {"x": np.zeros((1, 0, 6, 7), np.float32)})
    assert_refused(problem, "the input must be (N, C, H, W) with at most 2147483647 pixels, got (1, 0, 6, 7)")


@pytest.mark.parametrize("kind", [*CONVOLUTIONS, "BlockedAdd"])
def test_refused_additions(kind: str) -> None:
    problem = problem_of(kind, addition=1)
    if kind == "DepthwiseBlock":
        problem.tensors["project_weights"] = Case(1).array(20, 20, 1, 1)
        problem.attributes |= {"project_low": 0.0, "project_high": 6.0}
    if kind == "BlockedAdd":
        problem.attributes["channels"] = 20
    same = "the added tensor must have the shape of the output, (1, 2, 6, 7, 16), got "
    assert_refused(problem, f"{same}none; {DIRECT}")
    for shape in ((1, 2, 6, 1, 16), (2, 2, 6, 7, 16), (1, 1, 6, 7, 16), (1, 20, 6, 7), (1, 2, 7, 7, 16)):
        problem.feeds["z"] = np.zeros(shape, np.float32)
        assert_refused(problem, f"{same}{shape}; {DIRECT}")
    problem.attributes["addition"] = 2
    for shape in ((1, 2, 6, 8, 16), (1, 2, 0, 7, 16), (1, 2, 3, 4, 8)):
        problem.feeds["z"] = np.zeros(shape, np.float32)
        assert_refused(
            problem, f"the added tensor must be enlarged to the shape of the output, (1, 2, 6, 7, 16), got {shape}"
        )
    if kind != "BlockedAdd":
        problem.attributes["addition"] = 0
        assert_refused(problem, "the attribute addition is 0, but there is an added tensor")


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("BlockedConv", {"stride_y": 0}, "stride_y must be 1 to 31, got 0"),
        ("BlockedConv", {"left": -1}, "left must be 0 to 31, got -1"),
        ("BlockedConv", {"right": 1 << 40}, "right must be 0 to 31, got 1099511627776"),
        ("BlockedConv", {"planar_input": 2}, "planar_input must be 0 to 1, got 2"),
        ("BlockedConv", {"addition": 3}, "addition must be 0 to 2, got 3"),
        ("BlockedConv", {"low": 1.0}, "low and high must be in this order, with 0 between them, got 1.0"),
        ("BlockedConv", {"planar_output": 1, "low": 7.0}, "low and high must be in this order, got 7.0"),
        ("BlockedConv", {"high": float("nan")}, "low and high must be in this order"),
        ("WinogradConv", {"patch": 5}, "patch must be 4 or 6, got 5"),
        ("DepthwiseBlock", {"addition": 1}, "addition must be 0 without project_weights"),
        ("DepthwiseBlock", {"planar_input": 1}, "planar_input must be 0 without expand_weights"),
        ("DepthwiseBlock", {"threads": -1}, "threads must be 0 to 65536, got -1"),
        ("BlockedAdd", {"channels": 20, "addition": 0}, "addition must be 1 to 2, got 0"),
        ("FromBlocked", {"channels": 0}, "channels must be 1 to 65536, got 0"),
        ("BlockedMaxPool", {**operator_cases.AROUND, "kernel_y": 1, "kernel_x": 3}, "the padding must be smaller"),
        (
            "BlockedMaxPool",
            {**operator_cases.AROUND, "kernel_y": 32, "kernel_x": 3},
            "kernel_y must be 1 to 31, got 32",
        ),
    ],
)
def test_refused_attributes(kind: str, attributes: dict[str, float], message: str) -> None:
    assert_refused(problem_of(kind, **attributes), message)


def test_refused_weights() -> None:
    case = Case(0)
    for kind, shape, message in (
        ("BlockedConv", (20, 20, 3), "weights must be (out, in, height, width)"),
        ("BlockedConv", (20, 20, 32, 1), "weights must be (out, in, height, width)"),
        ("WinogradConv", (20, 20, 1, 3), "weights must be (0, 0, 3, 3), 0 for any, got (20, 20, 1, 3)"),
        ("DepthwiseBlock", (20, 2, 3, 3), "weights must be (0, 1, 0, 0), 0 for any, got (20, 2, 3, 3)"),
    ):
        assert_refused(replace(problem_of(kind), tensors={"weights": case.array(*shape)}), message)
    for kind in CONVOLUTIONS:
        problem = problem_of(kind)
        problem.tensors["bias"] = case.array(16)
        assert_refused(problem, "bias must be (20,), got (16,)")
    for prefix, shape, wanted in (
        ("expand", (16, 20, 1, 1), "(20, 0, 1, 1)"),
        ("project", (16, 20, 3, 1), "(0, 20, 1, 1)"),
    ):
        problem = problem_of("DepthwiseBlock")
        problem.tensors[f"{prefix}_weights"] = case.array(*shape)
        assert_refused(problem, f"{prefix}_weights must be {wanted}, 0 for any, got {shape}")


def test_window_larger_than_the_image() -> None:
    problem = problem_of("BlockedConv", top=0, bottom=0)
    problem.feeds["x"] = problem.feeds["x"][:, :, :2]
    assert_refused(problem, "an image of 2 x 7 pixels, padded, must be at least as large as the kernel, 3 x 3")
