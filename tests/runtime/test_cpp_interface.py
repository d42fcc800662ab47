"""The C interface itself: errors, model files and their specs, threads, forks, versions, and programs that link it."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libretinasdk
import numpy as np
import onnx
import pytest
from libretinasdk import CDetector, LibraryError, assert_same, build_folder, described, library, onnxruntime_library
from paths import CSRC, EXAMPLES, PHOTOS, ROOT
from PIL import Image as Picture

from retinasdk import Detector, ModelError, ModelSpec, list_models

pytestmark = pytest.mark.heavy  # compiles the library

HEADERS = CSRC / "include" / "retinasdk"


@pytest.fixture
def tiny(network: onnx.ModelProto) -> onnx.ModelProto:
    """The tiny network, to be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    return copy


def refused(path: Path | str, **options: Any) -> tuple[int, str]:
    with pytest.raises(LibraryError) as caught:
        CDetector(path, **options)
    return caught.value.status, str(caught.value)


def in_python(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Detector(path, device="cpu", convolution="direct")
    return str(caught.value)


def no_spec(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.save(network, str(path))


def other_network(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.save(network, str(path))
    spec.save(path.with_suffix(".json"), onnx=path)
    network.producer_name = "another"
    onnx.save(network, str(path))


def other_network_with_a_spec(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.helper.set_model_props(network, {"retinasdk.spec": spec.to_json()})
    other_network(path, network, spec)


def contradicting_specs(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.helper.set_model_props(network, {"retinasdk.spec": spec.replace(input="pictures", top_k=5).to_json()})
    onnx.save(network, str(path))
    spec.save(path.with_suffix(".json"))


def broken_spec_inside(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.helper.set_model_props(network, {"retinasdk.spec": spec.to_json().replace('"top_k": 1000', '"top_k": 0')})
    onnx.save(network, str(path))


def broken_spec_beside(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.save(network, str(path))
    path.with_suffix(".json").write_text(spec.to_json().replace('"clip": "resized"', '"clip": "all"'))


def other_input(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.save(network, str(path))
    spec.replace(input="pictures").save(path.with_suffix(".json"))


def other_classes(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.save(network, str(path))
    spec.replace(labels=("a", "b")).save(path.with_suffix(".json"))


def other_outputs(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    onnx.save(network, str(path))
    path.with_suffix(".json").write_text(spec.to_json().replace("deltas_p3", "deltas_p33"))


def fixed_sides(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    network.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128
    onnx.save(network, str(path))
    spec.save(path.with_suffix(".json"))


def no_onnx(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    path.write_bytes(b"no model")
    spec.save(path.with_suffix(".json"))


def cut_off(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    path.write_bytes(network.SerializeToString()[:-100])
    spec.save(path.with_suffix(".json"))


def endless_function(path: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    call = onnx.helper.make_node("again", ["x"], ["y"], domain="mine")
    function = onnx.helper.make_function("mine", "again", ["x"], ["y"], [call], [onnx.helper.make_opsetid("mine", 1)])
    network.functions.append(function)
    network.graph.node.append(onnx.helper.make_node("again", ["images"], ["twice"], domain="mine"))
    onnx.save(network, str(path))
    spec.save(path.with_suffix(".json"))


@pytest.mark.parametrize(
    "make",
    [
        no_spec,
        other_network,
        other_network_with_a_spec,
        contradicting_specs,
        broken_spec_inside,
        broken_spec_beside,
        other_input,
        other_classes,
        other_outputs,
        fixed_sides,
        no_onnx,
        cut_off,
        endless_function,
    ],
)
def test_model_files_are_refused_with_the_same_words(
    make: Callable[..., None], tiny: onnx.ModelProto, spec: ModelSpec, tmp_path: Path
) -> None:
    path = tmp_path / "my model's.onnx"
    make(path, tiny, spec)
    status, message = refused(path)
    assert status == libretinasdk.MODEL
    # Only the last step differs: a spec is passed in another way.
    assert message == in_python(path).removesuffix(": Detector(..., spec=retinasdk.ModelSpec(...))")


def test_a_spec_that_was_edited_causes_a_warning(
    tiny: onnx.ModelProto, spec: ModelSpec, tmp_path: Path, caplog: Any
) -> None:
    onnx.helper.set_model_props(tiny, {"retinasdk.spec": spec.to_json()})
    path = tmp_path / "edited.onnx"
    onnx.save(tiny, str(path))
    assert CDetector(path).warning == ""
    spec.replace(top_k=7, score_threshold=0.3).save(path.with_suffix(".json"))
    Detector(path, device="cpu", convolution="direct")
    assert CDetector(path).warning in caplog.messages


def test_an_interrupted_update_is_read(tiny: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    other_network(path, tiny, spec)
    spec.replace(labels=("x", "y", "z")).save(tmp_path / ".model.json.new", onnx=path)
    assert CDetector(path).labels == ("x", "y", "z")


def test_external_data_counts_for_the_hash(tiny: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny, str(path), save_as_external_data=True, location="weights.bin", size_threshold=100)
    spec.save(path.with_suffix(".json"), onnx=path)
    CDetector(path)
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert refused(path)[1] == in_python(path)


def test_wrong_options(model_path: Path, picture: Any) -> None:
    for options, message in (
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda; got 'gpu'"),
        ({"threads": 2000}, "threads must be an integer from 1 to 1024, got 2000"),
        ({"score_threshold": 1.5}, "score_threshold must be a number from 0 to 1, got 1.5"),
        ({"iou_threshold": -0.1}, "iou_threshold must be a number from 0 to 1"),
        ({"suppression": 9}, "suppression must be an rsdk_suppression_rule"),
        ({"max_detections": -1}, "max_detections must be an integer from 1 to 1048576"),
        ({"sigma": 0.0}, "sigma must be a number above 0"),
        ({"struct_size": 3}, "rsdk_options.struct_size must be sizeof(rsdk_options), got 3"),
    ):
        assert refused(model_path, **options)[0] == libretinasdk.ARGUMENT
        assert refused(model_path, **options)[1].startswith(message)
    assert refused(model_path, device="cuda")[0] == libretinasdk.DEVICE
    detector = CDetector(model_path)
    image = described(picture(60, 80, 0))
    for call, message in (
        ({"class_ids": [3]}, "class index must be 0 to 2, got 3"),
        ({"classes": ["cat"]}, "unknown class 'cat'; the model knows chair, dog, person"),
        ({"ignore": [(5, 5, 5, 9)]}, "ignore has a region without area, got (5.0, 5.0, 5.0, 9.0)"),
        ({"ignore": [(0, 0, 1, 1)] * 65}, "ignore may name 64 regions, got 65"),
        ({"score_threshold": [0.1, 0.2]}, "score_thresholds must have one entry, or one for each of the 3 classes"),
        ({"score_threshold": -0.5}, "score_threshold must be a number from 0 to 1, got -0.5"),
    ):
        with pytest.raises(LibraryError, match=re.escape(message)) as caught:
            detector([image], **call)
        assert caught.value.status == libretinasdk.ARGUMENT
    for changes, status, message in (
        ({"width": 0}, libretinasdk.IMAGE, "image must have at least 1 x 1 pixels, got 0 x 60"),
        ({"width": 70_000}, libretinasdk.IMAGE, "at most 178,956,970 pixels and at most 65,536 on each side"),
        ({"format": 6}, libretinasdk.ARGUMENT, "format must be an rsdk_pixel_format"),
        ({"format": libretinasdk.NV12}, libretinasdk.ARGUMENT, "plane 1 of the image must not be null"),
        ({"width": 81}, libretinasdk.ARGUMENT, "row_bytes of plane 0 of the image must be at least 243"),
    ):
        wrong = described(picture(60, 80, 0))
        for name, value in changes.items():
            setattr(wrong, name, value)
        with pytest.raises(LibraryError, match=message) as caught:
            detector([wrong])
        assert caught.value.status == status
    assert len(detector([image], score_threshold=0.0)[0]) > 0  # Still works.


def test_null_pointers_are_errors() -> None:
    assert library().rsdk_detector_open(None, None, None) == libretinasdk.ARGUMENT
    assert library().rsdk_detect(None, None, ctypes.c_size_t(0), None, None) == libretinasdk.ARGUMENT
    assert library().rsdk_results_get(None, ctypes.c_size_t(0), None) == libretinasdk.ARGUMENT
    library().rsdk_detector_close(None)
    library().rsdk_results_free(None)


def test_programs_of_earlier_headers(model_path: Path, picture: Any) -> None:
    # Only the fields up to `height` and the first plane: the rest of the struct belongs to something else.
    size = libretinasdk.Image.row_bytes.offset
    image = picture(60, 80, 1)
    whole = described(image)
    whole.struct_size = size
    whole.row_bytes[0] = 12345
    detector = CDetector(model_path, struct_size=libretinasdk.Options.suppression.offset, suppression=99)
    assert_same(
        detector([whole], score_threshold=0.1)[0], CDetector(model_path)([described(image)], score_threshold=0.1)[0]
    )


def test_without_onnxruntime(model_path: Path, tmp_path: Path) -> None:
    status, message = refused(model_path, onnxruntime=str(tmp_path / "libonnxruntime.so"))
    assert status == libretinasdk.MISSING_DEPENDENCY
    assert "RETINASDK_ONNXRUNTIME" in message
    assert "cannot open shared object file" in message
    status, message = refused(model_path, onnxruntime="libm.so.6")
    assert (status, "it has no function OrtGetApiBase" in message) == (libretinasdk.MISSING_DEPENDENCY, True)


def test_many_threads_share_a_detector(model_path: Path, picture: Any) -> None:
    detector = CDetector(model_path, threads=1)
    images = [picture(90 + 10 * i, 130, i) for i in range(4)]
    expected = [detector([described(image)], score_threshold=0.05)[0] for image in images]
    errors: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for i in range(20):
                at = (start + i) % len(images)
                assert_same(detector([described(images[at])], score_threshold=0.05)[0], expected[at])
                with pytest.raises(LibraryError, match=f"got {100 + start}"):  # Errors belong to their thread.
                    detector([described(images[at])], class_ids=[100 + start])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_forked_process_gets_an_error(model_path: Path, run_python: Callable[..., Any]) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "tests/support")!r})
import numpy as np
from libretinasdk import CDetector, LibraryError, described
detector = CDetector({str(model_path)!r})
image = described(np.zeros((60, 80, 3), np.uint8))
detector([image])
child = os.fork()
if child == 0:
    try:
        detector([image])
    except LibraryError as error:
        print(error.status, error, flush=True)
    detector.close()
    os._exit(0)
print(os.waitpid(child, 0)[1], len(detector([image])))
"""
    os.environ["RETINASDK_RUNTIME_BUILD"] = str(build_folder())
    result = run_python(["-W", "ignore", "-c", script])
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "4 The Detector was created before this process was forked, and its threads do not work across a fork. "
        "Create it after the fork",
        "0 1",
    ]


def test_versions() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version is not None
    assert library().rsdk_version().decode() == version[1]
    header = (HEADERS / "retinasdk.h").read_text("utf-8")
    numbers = [re.search(rf"RSDK_VERSION_{part} (\d+)", header) for part in ("MAJOR", "MINOR", "PATCH")]
    assert ".".join(number[1] for number in numbers if number) == version[1]


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_only_the_c_interface_is_exported() -> None:
    path = build_folder() / "csrc/runtime/libretinasdk_runtime.so"
    listed = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[-1] for line in listed.splitlines()}
    declared = set(re.findall(r"RSDK_API [^;]*?\b(rsdk_\w+)\(", (HEADERS / "retinasdk.h").read_text("utf-8")))
    assert exported == declared
    assert len(declared) > 10


@pytest.mark.parametrize("example", ["embed_c", "embed_cpp"])
def test_example_programs(example: str, tmp_path: Path) -> None:
    source = EXAMPLES / example / ("main.c" if example == "embed_c" else "main.cpp")
    build = build_folder() / "csrc/runtime"
    program = tmp_path / example
    compiler, standard = ("cc", "-std=c11") if example == "embed_c" else ("c++", "-std=c++17")
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-pedantic", "-Werror"]
    place = [f"-L{build}", "-lretinasdk_runtime", f"-Wl,-rpath,{build}", "-o", program]
    subprocess.run([compiler, standard, *warnings, f"-I{CSRC / 'include'}", source, *place], check=True)
    photo = PHOTOS / "people" / "astronaut.jpg"
    picture = tmp_path / "photo.ppm"
    Picture.open(photo).convert("RGB").save(picture)
    (model,) = (model.path for model in list_models() if model.name == "people")
    score = ["0.3"] if example == "embed_c" else ["--score", "0.3"]
    environment = {**os.environ, "RETINASDK_ONNXRUNTIME": str(onnxruntime_library())}
    result = subprocess.run(
        [program, model, picture, *score], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    expected = Detector(model, device="cpu", convolution="direct")(
        np.asarray(Picture.open(picture)), score_threshold=0.3
    )
    assert len(lines) == len(expected) > 1
    assert [line["label"] for line in lines] == list(expected.names)
    np.testing.assert_array_equal(np.float32([line["xyxy"] for line in lines]), expected.xyxy)
    np.testing.assert_array_equal(np.float32([line["score"] for line in lines]), expected.scores)
    failed = subprocess.run([program, tmp_path / "none.onnx", picture], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr) == (1, f"{tmp_path / 'none.onnx'} is not the path of a file\n")
    broken = subprocess.run([program, model, model], env=environment, capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert "must be a binary PPM" in broken.stderr
