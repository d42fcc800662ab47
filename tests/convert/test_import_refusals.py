"""Files and networks that the import rejects: the error says what it is and what to do, and nothing is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign import not_retinanets as no
from foreign import other_frameworks as other
from foreign.torchvision_graph import torchvision_graph
from onnx import numpy_helper

from retinasdk import ModelError
from retinasdk.convert.importing import import_onnx, loading

KINDS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "yolo": (
        lambda: no.other_heads([255] * 3),
        r"The last convolutions are: 3 with 255 channels\. .* This looks like YOLO",
    ),
    "yolo v6": (
        lambda: no.other_heads([80] * 3, [4] * 3),
        r"1 anchor per cell on the levels p3, p4, p5, but torchvision has 9 on 5 levels",
    ),
    "yolo v8": (
        lambda: no.other_heads([80] * 3, [64] * 3),
        r"16 anchors per cell on the levels p3, p4, p5, but torchvision has 9 on 5 levels",
    ),
    "classifier": (lambda: no.other_heads([10]), r"are: 1 with 10 channels\. .* This looks like YOLO or a classifier"),
    "ssd": (
        lambda: no.other_heads([84, 126, 126, 126, 84, 84], [16, 24, 24, 24, 16, 16]),
        r"3 with 16 channels.*This looks like SSD or another detector",
    ),
    "fcos": (
        lambda: no.other_heads([80] * 5, [4] * 5, [1] * 5),
        r"A third head \(center-ness, objectness\) belongs to FCOS, ATSS or YOLOX",
    ),
    "faster r-cnn": (
        lambda: no.other_heads([3] * 5, [12] * 5, roi=True),
        r"two-stage detector such as Faster R-CNN \(it crops regions with the operator RoiAlign",
    ),
    "no common anchors": (
        lambda: no.other_heads([50] * 5, [36] * 5),
        r"its last convolutions have 50 and 36 channels.*no number of anchors A fits",
    ),
    "two networks": (no.two_networks, r"4 such sets, which looks like two networks in one file: export each one alone"),
    "two inputs": (no.two_inputs, r"the network has 2 image inputs .* Export it for one image input"),
    "grey": (no.grey, r"first convolution \(.*\) has 1 input channel; retinasdk supports images of 3 channels"),
    "custom operator": (no.custom_operator, r"uses the custom operator com.acme.FusedRelu"),
    "unknown operator": (no.unknown_operator, r"uses the operator Swishlike, which does not exist in ONNX opset 17"),
    "branch": (no.branch_inside, r"is control flow \(If\), which is not supported between the image and the heads"),
    "cycle": (no.cycle, r"is damaged: its graph has a cycle through node .* \(Add\)"),
    "nan": (lambda: no.with_weight(nan=True), r"weights 'c0' are not all finite: 1 of 216 values are NaN or infinite"),
    "empty": (
        lambda: no.with_weight(np.zeros((0, 3, 3, 3), np.float32)),
        r"weights 'c0' are empty \(shape \(0, 3, 3, 3\)\)",
    ),
    "scrambled": (
        no.scrambled_channels,
        r"channels of the logits head are ordered neither anchor by anchor nor value by value",
    ),
}


def assert_refused(folder: Path, message: str, **options: Any) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ModelError, match=message) as caught:
        import_onnx(folder / "foreign.onnx", folder / "heads.onnx", **{"flavour": "torchvision", **options})
    assert str(folder / "foreign.onnx") in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("make", "message"), KINDS.values(), ids=KINDS.keys())
def test_networks_that_cannot_be_imported(make: Callable[[], onnx.ModelProto], message: str, tmp_path: Path) -> None:
    onnx.save(make(), str(tmp_path / "foreign.onnx"))
    assert_refused(tmp_path, message)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    assert_refused(tmp_path, "cannot be read: .*No such file.* Check the path")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"PK\x03\x04 a checkpoint", "is not an ONNX file, or it is incomplete: its 17 bytes cannot be parsed"),
        (b"\x08\x08", "is an ONNX file without a network: it has no operators"),
        (bytes(range(256)), "is not an ONNX file, or it is incomplete: its 256 bytes"),
    ],
    ids=["empty", "zip", "header", "bytes"],
)
def test_what_is_not_onnx(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "foreign.onnx").write_bytes(content)
    assert_refused(tmp_path, message)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_a_truncated_file(part: float, tmp_path: Path) -> None:
    content = other.odtk()[0].SerializeToString()
    (tmp_path / "foreign.onnx").write_bytes(content[: int(len(content) * part)])
    assert_refused(tmp_path, "is not an ONNX file, or it is incomplete")


@pytest.mark.parametrize("opset", [9, 10, 26])
def test_opsets_too_old_and_too_new(opset: int, tmp_path: Path) -> None:
    model = other.odtk()[0]
    model.opset_import[0].version = opset
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    assert_refused(tmp_path, f"has ONNX opset {opset}; supported are 11 to 25. Export the network again with opset 17")


def test_a_file_too_large_for_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(other.odtk()[0], str(tmp_path / "foreign.onnx"))
    monkeypatch.setattr(loading, "MAX_BYTES", 1000)
    assert_refused(tmp_path, "can have at most 2 GiB.*save the weights as external data")


def save_external(folder: Path) -> None:
    onnx.save(
        other.odtk()[0],
        str(folder / "foreign.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,
    )


def change_location(path: Path, location: str) -> None:
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = location
    path.write_bytes(model.SerializeToString())


def test_weights_in_a_file_beside_are_taken_in(tmp_path: Path) -> None:
    save_external(tmp_path)
    import_onnx(tmp_path / "foreign.onnx", tmp_path / "heads.onnx", flavour="odtk")
    (tmp_path / "weights.bin").unlink()
    model = onnx.load(str(tmp_path / "heads.onnx"))
    network = other.odtk()[1]
    ours = {numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}
    assert {numpy_helper.to_array(tensor).tobytes() for tensor in network.graph.initializer} <= ours


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    save_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert_refused(tmp_path, "are stored in 'weights.bin', which does not exist. Copy that file")


def test_weights_that_are_cut_short(tmp_path: Path) -> None:
    save_external(tmp_path)
    content = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(content[: len(content) // 2])
    assert_refused(tmp_path, r"\d+ bytes from byte \d+ on, but that file has \d+ bytes. Check that it is complete")


@pytest.mark.parametrize("where", ["../weights.bin", "absolute", "link"])
def test_weights_outside_the_models_folder(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_external(folder)
    outside = tmp_path / "weights.bin"
    (folder / "weights.bin").rename(outside)
    if where == "link":
        (folder / "weights.bin").symlink_to(outside)
    else:
        change_location(folder / "foreign.onnx", str(outside) if where == "absolute" else where)
    assert_refused(folder, "outside the folder of the model. Copy the weights into that folder")


# -- choices left open -------------------------------------------------------------------------------------------------


def test_an_unknown_flavour_comes_with_the_known_ones(tmp_path: Path) -> None:
    onnx.save(other.odtk()[0], str(tmp_path / "foreign.onnx"))
    assert_refused(
        tmp_path,
        "flavour 'yolo' is unknown; choose one of detectron2, keras-hub, keras-retinanet, .*torchvision",
        flavour="yolo",
    )


def test_torchvision_and_detectron2_look_alike_without_anchors(tmp_path: Path) -> None:
    """Equal clamp and heads: only the anchors would tell."""
    foreign, _ = other.decoded(5, "size", bounds=(None, other.LN_1000_16))
    for tensor in foreign.graph.initializer:
        if tensor.name.startswith("base_anchors"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((9, 4), np.float32), tensor.name))
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    assert_refused(
        tmp_path,
        r"fits detectron2, tf-models, torchvision, .* --flavour NAME \(in Python: flavour='NAME'\)",
        flavour="auto",
    )


def test_names_suggest_a_framework(tmp_path: Path) -> None:
    """Names alone never decide, but the command in the error names the framework that they suggest."""
    foreign, _ = other.raw_heads(3)
    foreign.graph.node[0].name = "retina_cls.Conv"
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    message = r"\(its names suggest mmdet\).* import .*foreign.onnx -o .*heads.onnx --flavour mmdet "
    assert_refused(tmp_path, message, flavour="auto")


def test_contradicting_evidence(tmp_path: Path) -> None:
    """detectron2's order of anchors with mmdetection's lower bound."""
    foreign, _ = other.decoded(5, "size", bounds=(-other.LN_1000_16, other.LN_1000_16))
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    assert_refused(
        tmp_path,
        r"is contradictory\. Found: the graph clamps dw and dh to at least -4.1352 and at most 4.1352",
        flavour="auto",
    )


@pytest.mark.parametrize(("labels", "hint"), [(["a", "b"], ". If index 0 .* put '__background__' first"), (["a"], "")])
def test_wrong_number_of_labels(labels: list[str], hint: str, tmp_path: Path) -> None:
    onnx.save(other.odtk(3)[0], str(tmp_path / "foreign.onnx"))
    assert_refused(tmp_path, f"the network has 3 classes, but there are {len(labels)} labels{hint}$", labels=labels)


def test_anchors_of_another_shape(tmp_path: Path) -> None:
    onnx.save(other.odtk(3)[0], str(tmp_path / "foreign.onnx"))
    message = r"base_anchors has shape \(5, 1, 4\); this network needs \(5, 9, 4\)"
    assert_refused(tmp_path, message, base_anchors=[[[-4, -4, 4, 4]]] * 5)


def test_what_is_imported_already(tmp_path: Path) -> None:
    onnx.save(other.odtk(3)[0], str(tmp_path / "first.onnx"))
    import_onnx(tmp_path / "first.onnx", tmp_path / "foreign.onnx", flavour="odtk")
    (tmp_path / "foreign.json").unlink()
    assert_refused(
        tmp_path, "already contains a retinasdk model spec, so it can be used without an import", flavour="auto"
    )
    import_onnx(tmp_path / "foreign.onnx", tmp_path / "again.onnx", flavour="torchvision")


def test_output_has_to_be_onnx(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("the output 'heads.engine' must be the name of an .onnx file")):
        import_onnx(tmp_path / "foreign.onnx", "heads.engine")


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    onnx.save(other.odtk(3)[0], str(tmp_path / "foreign.onnx"))
    before = (tmp_path / "foreign.onnx").read_bytes()
    with pytest.raises(ValueError, match=r"is the input; give it another name"):
        import_onnx(tmp_path / "foreign.onnx", tmp_path / "." / "foreign.onnx", flavour="odtk")
    assert (tmp_path / "foreign.onnx").read_bytes() == before


def test_a_folder_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    onnx.save(other.odtk(3)[0], str(tmp_path / "foreign.onnx"))
    with pytest.raises(OSError, match="No such file"):
        import_onnx(tmp_path / "foreign.onnx", tmp_path / "nowhere" / "heads.onnx", flavour="odtk")
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]


def test_the_old_spec_stays_if_the_model_cannot_be_written(tmp_path: Path) -> None:
    onnx.save(torchvision_graph()[0], str(tmp_path / "foreign.onnx"))
    (tmp_path / "heads.json").write_text("before")
    (tmp_path / "heads.onnx").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - the text comes from the operating system
        import_onnx(tmp_path / "foreign.onnx", tmp_path / "heads.onnx")
    assert (tmp_path / "heads.json").read_text() == "before"


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_refused_or_does_not_matter(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    model = [other.odtk, other.keras, torchvision_graph][seed % 3]()[0]
    for _ in range(random.integers(1, 4)):
        node = model.graph.node[random.integers(len(model.graph.node))]
        another = model.graph.node[random.integers(len(model.graph.node))]
        tensor = model.graph.initializer[random.integers(len(model.graph.initializer))]
        kind = random.integers(6)
        if kind == 0:
            model.graph.node.remove(node)
        elif kind == 1 and node.input:
            node.input[random.integers(len(node.input))] = another.output[0]
        elif kind == 2:
            node.op_type = another.op_type
        elif kind == 3 and node.input:
            del node.input[random.integers(len(node.input))]
        elif kind == 4 and node.attribute:
            del node.attribute[random.integers(len(node.attribute))]
        elif tensor.dims:
            tensor.dims[0] = int(random.integers(4))
    content = bytearray(model.SerializeToString())
    if seed % 2:
        for _ in range(4):
            content[random.integers(min(len(content), 9000))] = random.integers(256)
    (tmp_path / "foreign.onnx").write_bytes(bytes(content))
    try:
        import_onnx(tmp_path / "foreign.onnx", tmp_path / "heads.onnx", flavour="torchvision")
    except ModelError:
        assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]
    else:
        onnx.checker.check_model(onnx.load(str(tmp_path / "heads.onnx")))
