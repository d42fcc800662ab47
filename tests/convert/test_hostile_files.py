"""Files that are damaged, foreign or made to do harm: one sentence names the real cause, and nothing is left behind."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import other_frameworks as other
from foreign.wrap import Wrapped
from onnx import TensorProto, helper, numpy_helper

from retinasdk import ModelError, import_onnx
from retinasdk.convert.importing import onnx_runner

SECONDS = 60  # Far more than any of these takes, on a busy machine, too.
MEMORY = 4 << 30


def refused(folder: Path, message: str, capfd: pytest.CaptureFixture[str], **options: Any) -> None:
    """The import of foreign.onnx ends in this sentence, in time, without other output, and leaves nothing."""
    before = sorted(folder.iterdir())
    start = time.monotonic()
    with pytest.raises(ModelError, match=message) as caught:
        import_onnx(folder / "foreign.onnx", folder / "heads.onnx", **{"flavour": "torchvision", **options})
    assert str(caught.value).startswith(str(folder / "foreign.onnx"))
    assert time.monotonic() - start < SECONDS
    assert capfd.readouterr() == ("", "")
    assert sorted(folder.iterdir()) == before


def with_input(shape: tuple[int | str, ...]) -> onnx.ModelProto:
    return Wrapped(3).model([("images", TensorProto.FLOAT, shape)])


def with_type(number: int) -> onnx.ModelProto:
    model = with_input((1, 3, 96, 96))
    model.graph.input[0].type.tensor_type.elem_type = number
    return model


def with_outputs(wanted: Callable[[str], bool]) -> onnx.ModelProto:
    w = Wrapped(3)
    return w.model(outputs=[name for name in w.logits + w.deltas if wanted(name)])


def custom_layer(kind: str, domain: str) -> onnx.ModelProto:
    """The last convolutions of the class head are an operator that nobody knows."""
    w = Wrapped(3)
    for node in w.nodes:
        if node.output[0] in w.logits:
            node.op_type, node.domain = kind, domain
    return w.model(domains=[domain] if domain else [])


def with_version(*, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    model = other.raw_heads()[0]
    model.opset_import[0].version, model.ir_version = opset, ir
    return model


def with_other_opset(version: int) -> onnx.ModelProto:
    model = other.raw_heads()[0]
    model.opset_import.append(helper.make_opsetid("com.acme", version))
    return model


def without_outputs() -> onnx.ModelProto:
    model = other.raw_heads()[0]
    del model.graph.output[:]
    return model


def with_cycle() -> onnx.ModelProto:
    model = other.raw_heads()[0]
    model.graph.node[4].input[0] = model.graph.node[4].output[0]
    return model


def with_two_writers() -> onnx.ModelProto:
    model = other.raw_heads()[0]
    model.graph.node[5].output[0] = model.graph.node[4].output[0]
    return model


def with_dimension(size: int) -> onnx.ModelProto:
    model = other.raw_heads()[0]
    model.graph.initializer[0].dims[0] = size
    return model


def with_convolution(name: str, values: list[int]) -> onnx.ModelProto:
    w = Wrapped(3)
    first = next(node for node in w.nodes if node.op_type == "Conv")
    next(item for item in first.attribute if item.name == name).ints[:] = values
    return w.model()


def many_heads(count: int) -> onnx.ModelProto:
    w = Wrapped(3)
    node = next(item for item in w.nodes if item.output[0] == w.logits[0])
    for index in range(count):
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.output[0] = copy.name = f"copy_{index}"
        w.nodes.append(copy)
    return w.model(outputs=[*w.logits, *w.deltas, *(f"copy_{index}" for index in range(count))])


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "no outputs": (without_outputs, "has no outputs, so nothing in it leads to a result"),
    "no box head on p5": (
        lambda: with_outputs(lambda name: name != "deltas_p5"),
        "the box head is missing on level p5: the class head leads to outputs on p3, p4, p5, p6, p7, and the box head",
    ),
    "no class head on p3 and p7": (
        lambda: with_outputs(lambda name: name not in ("logits_p3", "logits_p7")),
        "the class head is missing on level p3, p7: the box head leads to outputs on p3, .* the class head on p4, p5",
    ),
    "no class head": (
        lambda: with_outputs(lambda name: name.startswith("deltas")),
        r"only one head leads to an output: 5 convolutions with 36 channels\. .* Export the network with both",
    ),
    "no box head": (
        lambda: with_outputs(lambda name: name.startswith("logits")),
        "only one head leads to an output: 5 convolutions with 27 channels",
    ),
    "a custom layer": (
        lambda: custom_layer("FancyConv", "com.acme"),
        "node 'logits_p3' uses the operator com.acme.FancyConv, .* has weights, so it is a layer of the network",
    ),
    "an unknown layer": (
        lambda: custom_layer("SuperConv", ""),
        "uses the operator SuperConv, which is not part of ONNX opset 17 and has weights",
    ),
    "a side of 2^40": (
        lambda: with_input((1, 3, 1 << 40, 64)),
        r"the input 'images' has the fixed size 1 x 3 x 1099511627776 x 64, more than",
    ),
    "a million images": (lambda: with_input((10**6, 3, 64, 64)), "the input 'images' takes 1000000 images at once"),
    "three axes": (lambda: with_input((3, 96, 96)), r"has 3 axes, and not \(batch, 3, height, width\)"),
    "a thousand images of any size": (
        lambda: with_input((1000, 3, "H", "W")),
        "the input 'images' takes 1000 images at once, and at most 256 are supported",
    ),
    "a large image and a large mask": (
        lambda: Wrapped(3).model(
            [("images", TensorProto.FLOAT, (1, 3, 4096, 4096)), ("mask", TensorProto.FLOAT, (4096, 4096, 2))]
        ),
        "the input 'mask' has the fixed size 4096 x 4096 x 2, more than 67108864 values in all inputs",
    ),
    "an unknown type": (lambda: with_type(99), "the input 'images' has the unknown type 99"),
    "a negative side": (lambda: with_input((1, 3, -5, 64)), "'images' has a negative size: 1 x 3 x -5 x 64"),
    "negative weights": (lambda: with_dimension(-8), r"tensor 'c0' is damaged \(Negative dimension"),
    "huge weights": (lambda: with_dimension(1 << 40), r"tensor 'c0' is damaged \(.*too small for the declared shape"),
    "opset 7": (lambda: with_version(opset=7), "has ONNX opset 7; supported are 11 to 25"),
    "an opset beyond 32 bits": (lambda: with_other_opset(1 << 40), "it names version 1099511627776 of the operators"),
    "opset 99": (lambda: with_version(opset=99), "has ONNX opset 99; supported are 11 to 25"),
    "IR version 99": (lambda: with_version(ir=99), "has ONNX IR version 99; supported are 3 to 14"),
    "IR version 0": (lambda: with_version(ir=0), "has ONNX IR version 0; supported are 3 to 14"),
    "a cycle": (with_cycle, "its graph has a cycle through node 't4'"),
    "two writers": (with_two_writers, "two nodes compute the tensor 't4'"),
    "10,000 heads": (lambda: many_heads(10_000), "10005 with 27 channels, .* One head is used more often than"),
    "strides of 0": (
        lambda: with_convolution("strides", [0, 0]),
        # ONNX Runtime 1.23, the last for Python 3.10, notices it when the network runs.
        "ONNX Runtime cannot (load the network .* strides must only contain positive|run the network .* Conv node)",
    ),
    "padding of 2^40": (
        lambda: with_convolution("pads", [1 << 40] * 4),
        "ONNX Runtime cannot run the network at 256 x 384: .* Integer overflow",
    ),
}


@pytest.mark.parametrize(("make", "message"), CASES.values(), ids=CASES.keys())
def test_networks(
    make: Callable[[], onnx.ModelProto], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "foreign.onnx").write_bytes(make().SerializeToString())
    refused(tmp_path, message, capfd)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_custom_operator_behind_the_heads_is_removed(
    declared: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    w = Wrapped(3)
    first = w.op("FancyNMS", *w.logits, *w.deltas, outputs=3, domain="com.acme")
    model = w.model(outputs=[f"{first[:-1]}{index}" for index in range(3)], domains=["com.acme"] if declared else [])
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    report = import_onnx(tmp_path / "foreign.onnx", tmp_path / "heads.onnx", flavour="torchvision")
    assert report.removed_operators["FancyNMS"] == 1
    assert any("ONNX Runtime cannot run com.acme.FancyNMS" in text for text in report.unchecked)
    assert capfd.readouterr() == ("", "")
    onnx.checker.check_model(onnx.load(str(tmp_path / "heads.onnx")))


def test_thousands_of_outputs(tmp_path: Path) -> None:
    w = Wrapped(3)
    copies = [w.op("Identity", w.logits[index % 5]) for index in range(10_000)]
    (tmp_path / "foreign.onnx").write_bytes(w.model(outputs=[*w.logits, *w.deltas, *copies]).SerializeToString())
    report = import_onnx(tmp_path / "foreign.onnx", tmp_path / "heads.onnx", flavour="torchvision")
    assert report.removed_operators == {"Identity": 10_000}


@pytest.mark.parametrize("name", ["t3", "images"])
def test_names_that_are_not_utf8(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = other.raw_heads()[0].SerializeToString()
    changed = content.replace(name.encode(), b"\xff" + name[1:].encode())
    assert changed != content
    (tmp_path / "foreign.onnx").write_bytes(changed)
    refused(tmp_path, r"is damaged \(its names are not UTF-8\)", capfd)


def test_a_loop_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    w = Wrapped(3)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    go_on = w.op("Cast", w.constant(1), to=TensorProto.BOOL)
    last = w.op("Loop", w.constant(1 << 60), go_on, w.logits[0], body=body)
    model = w.model(outputs=[last, *w.logits[1:], *w.deltas])
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setattr(onnx_runner, "_LIMIT_S", 1.0)
    report = import_onnx(tmp_path / "foreign.onnx", tmp_path / "heads.onnx", flavour="torchvision")
    assert "all 10 outputs equal the heads of the original graph up to its heads" in "".join(report.checks)
    assert capfd.readouterr() == ("", "")


# -- external weights --------------------------------------------------------------------------------------------------


def with_external(folder: Path, **entries: str | None) -> None:
    """Writes foreign.onnx, the weights of its first tensor into weights.bin, and changes where they are said to be."""
    model = other.raw_heads()[0]
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(numpy_helper.to_array(tensor).tobytes())
    length = str(4 * int(np.prod(tensor.dims)))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "0", "length": length, **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    (folder / "foreign.onnx").write_bytes(model.SerializeToString())


EXTERNAL = {
    "offset is a word": ({"offset": "abc"}, "at byte 'abc' with the length '864', which are no numbers from 0 on"),
    "offset is negative": ({"offset": "-1"}, "at byte '-1' with the length '864', which are no numbers"),
    "offset is huge": ({"offset": str(1 << 70)}, r"from byte \d+ on, but that file has 864 bytes"),
    "offset is Arabic": ({"offset": "٣"}, "which are no numbers from 0 on"),
    "length is negative": ({"length": "-7"}, "with the length '-7', which are no numbers"),
    "length is short": ({"length": "12"}, r"tensor 'c0' is damaged \(.*too small for the declared shape"),
    "location is above": ({"location": "../weights.bin"}, "outside the folder of the model"),
    "location is nothing": ({"location": None}, "outside the folder of the model"),
    "location is the folder": ({"location": "."}, "which does not exist"),
    "location has a zero byte": ({"location": "a\0b"}, "which cannot be read"),
    "location is the pipe": ({"location": "pipe"}, "which does not exist"),
}


@pytest.mark.parametrize(("entries", "message"), EXTERNAL.values(), ids=EXTERNAL.keys())
def test_external_weights(
    entries: dict[str, str | None], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with_external(tmp_path, **entries)
    refused(tmp_path, message, capfd)


def test_external_weights_are_found_where_nothing_is_changed(tmp_path: Path) -> None:
    with_external(tmp_path)
    import_onnx(tmp_path / "foreign.onnx", tmp_path / "heads.onnx", flavour="torchvision")


def test_external_weights_that_are_a_hard_link(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with_external(tmp_path)
    os.link(tmp_path / "weights.bin", tmp_path / "other.bin")
    refused(tmp_path, r"which cannot be read \(.*hard link.*or copy that file \(cp\) in place of a link", capfd)


# -- what is no file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/dev/zero", "pipe.onnx", "."], ids=["device", "pipe", "folder"])
def test_what_is_no_file(path: str, tmp_path: Path) -> None:
    """In a process of its own: a mistake here reads without end."""
    os.mkfifo(tmp_path / "pipe.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "retinasdk", "import", path, "-o", "model.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"retinasdk: error: \S+ is (a folder|a device or a pipe), and not a file\. .*\n", done.stderr)
    assert [item.name for item in tmp_path.iterdir()] == ["pipe.onnx"]
