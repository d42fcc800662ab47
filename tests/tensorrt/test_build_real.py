"""Engines built by a real TensorRT. TensorRT for RTX parses and builds without a GPU; it cannot run them here.

Marked `tensorrt`: .ci/run has an environment with the package; elsewhere these are skipped.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import engine_report
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pictures import blocks
from random_retinanet import save_random_retinanet

from retinasdk import ModelError, ModelSpec, Progress, Resize, list_models
from retinasdk.errors import MissingDependencyError
from retinasdk.tensorrt.build import build_engine
from retinasdk.tensorrt.builder import BuildOptions, build_plan
from retinasdk.tensorrt.engine_info import EngineInfo, Profile
from retinasdk.tensorrt.installed import import_tensorrt
from retinasdk.tensorrt.versions import plan_header, shared_logger

pytestmark = pytest.mark.tensorrt

try:
    TRT: Any = import_tensorrt("these tests")
except MissingDependencyError:
    pytest.skip("needs a TensorRT that builds; .ci/run installs TensorRT for RTX", allow_module_level=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINASDK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "out.engine"


# -- what has to build -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-50 FPN with 91 classes, for network inputs of 800 x 1344."""
    path = save_random_retinanet(tmp_path_factory.mktemp("r50") / "r50.onnx", "resnet50", classes=91)
    spec = ModelSpec.load(path.with_suffix(".json"))
    spec.replace(resize=Resize("squash", (800, 1344))).save(path.with_suffix(".json"))
    return path


@pytest.mark.parametrize("batch", [1, (1, 2, 4)], ids=["static", "dynamic"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", ["people", "blood-cells", "resnet50"])
def test_builds(request: pytest.FixtureRequest, engine: Path, name: str, precision: str, batch: Any) -> None:
    model = request.getfixturevalue("resnet50") if name == "resnet50" else name
    steps: list[Progress] = []
    info = build_engine(
        model,
        engine,
        precision=precision,
        batch=batch,
        images=[blocks(300, 400, seed=seed) for seed in range(2)],
        progress=steps.append,
    )
    plan = engine.read_bytes()
    assert plan_header(plan) == f"it was written by TensorRT for RTX {info.fingerprint.tensorrt_version}"
    assert info == EngineInfo.load(engine)
    info.check_belongs(plan, engine)
    assert steps[-1].fraction == 1
    if name == "resnet50":
        assert info.profile.max[2:] == (800, 1344)
        share = info.size_bytes / Path(model).stat().st_size
        assert {"fp32": share > 0.95, "fp16": 0.45 < share < 0.6, "int8": share < 0.6}[precision]


def described(model: str, engine: Path, *options: str) -> tuple[dict[str, str], list[str]]:
    """What TensorRT says of an engine that it builds: the lines of inputs and outputs by name, and those of layers."""
    program = [sys.executable, str(Path(engine_report.__file__)), model, str(engine), *options]
    lines = subprocess.run(program, check=True, capture_output=True, text=True).stdout.splitlines()
    tensors = {line.split(",")[0].removeprefix("Name: "): line for line in lines if "IOMode: " in line}
    return tensors, [line for line in lines if "LayerType: " in line]


def writers(layers: list[str], heads: set[str]) -> dict[str, str]:
    """The layer that writes each head, from its inputs to its outputs."""
    found = {}
    for layer in layers:
        written = heads & set(re.findall(r"Name: (\w+),", layer.split("Outputs: ")[1]))
        found.update(dict.fromkeys(written, layer))
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_types_and_layout_of_the_heads(engine: Path, precision: str) -> None:
    """Heads are float16 unless the engine is "fp32", with channels last, as the last convolutions write them.

    No layer casts or reorders at the end. The builder names the strides of each tensor in the order of its axes.
    """
    tensors, layers = described("people", engine, precision)
    info = EngineInfo.load(engine)
    channels = {}
    for level in info.spec.levels:
        channels |= {level.logits: info.spec.anchors_per_cell, level.deltas: 4 * info.spec.anchors_per_cell}
    assert set(tensors) == {info.spec.input, *channels}
    name, bits, dtype = ("Float", 32, "float32") if precision == "fp32" else ("Half", 16, "float16")
    for tensor, line in tensors.items():
        layout = "Row major linear" if tensor == info.spec.input else "Non-vectorized channel-last"
        assert f"DataType: {name}," in line
        assert f"Format: {layout} FP{bits} format" in line
    assert (info.input_dtype, info.head_dtype) == (dtype, dtype)
    assert info.head_formats == ("HWC", "LINEAR")
    by_head = writers(layers, set(channels))
    assert set(by_head) == set(channels)
    for head, layer in by_head.items():
        assert "LayerType: correlation," in layer
        assert set(re.findall(r"Datatype: (\w+)", layer.split("Constants: ")[0])) == {name}
        count = channels[head]
        assert f"Name: {head}, Dimensions: [1,{count},-1,-1], Strides: [-1,1,-1,{count}]," in layer


def test_channels_first_on_request(engine: Path) -> None:
    """Then each head has a kernel of its own at the end, which only reorders it."""
    tensors, layers = described("people", engine, "fp16", "channels_first")
    info = EngineInfo.load(engine)
    heads = set(tensors) - {info.spec.input}
    assert info.head_formats == ("LINEAR",)
    assert all("Format: Row major linear FP16 format" in line for line in tensors.values())
    by_head = writers(layers, heads)
    assert set(by_head) == heads
    assert len(set(by_head.values())) == 10
    assert not any("LayerType: correlation," in layer for layer in by_head.values())


def test_formats_that_tensorrt_does_not_have(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build fails, also if row-major is allowed beside: the builder must only name formats that are there."""
    monkeypatch.setattr("retinasdk.tensorrt.builder.formats_to_allow", lambda *described: ("HWC8", "LINEAR"))
    with pytest.raises(ModelError, match="TensorRT cannot build the network"):
        build_engine("people", engine, precision="fp32")


def test_precision_is_in_the_engine(engine: Path) -> None:
    """The fp16 engine is smaller, because its weights are float16."""
    sizes = {}
    for precision in ("fp32", "fp16"):
        sizes[precision] = build_engine("blood-cells", engine, precision=precision).size_bytes
    assert sizes["fp16"] < 0.7 * sizes["fp32"]


def test_ctrl_c(engine: Path) -> None:
    """TensorRT stops the build, nothing is written, and the next build works."""

    def press(progress: Progress) -> None:
        if progress.done == 1:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
            pressed.wait(0.5)

    pressed = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        build_engine("people", engine, precision="fp32", progress=press)
    assert not list(engine.parent.glob("*.engine*"))
    build_engine("people", engine, precision="fp32")


# -- what TensorRT refuses, in our words -------------------------------------------------------------------------------


def build(content: bytes, profile: Profile, input: str = "images") -> bytes:
    return build_plan(TRT, content, "some.onnx", BuildOptions(input, profile, "fp32"), progress=None).plan


def small(*nodes: onnx.NodeProto, opset: int = 17, **initializers: Any) -> bytes:
    """Returns a serialized graph from the input `images` (n, 3, h, w) to the output `out`."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    content: bytes = helper.make_model(graph, opset_imports=opsets).SerializeToString()
    return content


PROFILE = Profile((1, 3, 8, 8), (1, 3, 16, 16), (2, 3, 32, 32))
RELU = helper.make_node("Relu", ["images"], ["out"], name="activation")


def test_what_it_refuses_is_not_the_small_graph() -> None:
    assert len(build(small(RELU), PROFILE)) > 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "some.onnx: TensorRT finds no network in the file: .*Export the network again"),
        (b"rubbish", "Check that it is a complete ONNX file"),
        (small(RELU)[:40], "some.onnx: TensorRT"),
        (
            small(helper.make_node("Special", ["images"], ["out"], domain="ours", name="mine")),
            r"node mine \(Special\): .*lugin.*\. Export the network with raw heads, without NMS and without custom",
        ),
        (
            small(helper.make_node("Det", ["images"], ["out"], name="determinant")),
            r"node determinant \(Det\): not supported\. Export the network with standard operators",
        ),
        (
            small(
                helper.make_node("Conv", ["images", "weight"], ["out"], name="narrow", kernel_shape=[1, 1]),
                weight=np.zeros((4, 5, 1, 1), np.float32),
            ),
            r"node narrow",
        ),
        (small(helper.make_node("Relu", ["nothing"], ["out"], name="dangling")), "dangling|nothing|not registered"),
    ],
    ids=["empty", "garbage", "truncated", "custom operator", "unsupported operator", "shapes", "dangling input"],
)
def test_models_that_it_cannot_read(content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build(content, PROFILE)
    assert "cudaError" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nms_in_the_graph() -> None:
    """TensorRT for RTX can parse NMS but not build it. Other versions can, but retinasdk needs raw heads anyway."""
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["top"], axes=[1], keepdims=0),
        helper.make_node("Reshape", ["top", "as_boxes"], ["boxes"]),
        helper.make_node("Reshape", ["top", "as_scores"], ["scores"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"], name="suppress"),
        helper.make_node("Cast", ["kept"], ["out"], to=TensorProto.FLOAT),
    ]
    content = small(
        *nodes,
        as_boxes=np.array([1, -1, 4], np.int64),
        as_scores=np.array([1, 1, -1], np.int64),
        most=np.array([10], np.int64),
    )
    with pytest.raises(ModelError, match="without NMS"):
        build(content, Profile((1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 16, 16)))


@pytest.mark.parametrize(
    ("profile", "input"),
    [(PROFILE, "pictures"), (Profile((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)), "images")],
    ids=["another name", "a size that the network does not take"],
)
def test_profiles_that_do_not_fit(profile: Profile, input: str) -> None:
    model = onnx.load_model_from_string(small(RELU))
    if input == "images":
        for axis, side in ((2, 16), (3, 16)):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    with pytest.raises(ModelError, match=r"some\.onnx: TensorRT"):
        build(model.SerializeToString(), profile, input)


def test_it_has_one_logger() -> None:
    assert shared_logger(TRT) is shared_logger(TRT)


def test_spec_in_the_json(engine: Path) -> None:
    build_engine("people", engine, precision="fp32")
    bundled = next(model for model in list_models() if model.name == "people")
    assert EngineInfo.load(engine).spec == bundled.spec
    assert json.loads(EngineInfo.path_for(engine).read_text())["fingerprint"]["tensorrt"] == "tensorrt_rtx"
