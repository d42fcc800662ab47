"""Tests `build_engine`, the engine cache and the first use of an ONNX file, over stand-ins for every version."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes import fake_gpu
from fakes.tensorrt_builder import BuildRecord
from onnx import helper
from pictures import blocks
from PIL import Image

from retinasdk import Detector, DeviceError, MissingDependencyError, ModelError, ModelSpec, Progress, Resize
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.tensorrt.build import build_engine
from retinasdk.tensorrt.engine_info import EngineInfo

WEAK = ("8.5.2", "8.6.1")
ONNX_RUNTIME = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
TYPED = ("10.3.0", "10.13.3.9", "11.4.0.106")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RETINASDK_CACHE", str(folder))
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "out.engine"


def last_build(gpu: Any) -> BuildRecord:
    record: BuildRecord = gpu.built[-1]
    return record


# -- every version -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", [*WEAK, *TYPED])
def test_versions(
    model_path: Path, engine: Path, spec: ModelSpec, detector: Detector, version: str, precision: str
) -> None:
    """The engine detects what the ONNX file detects. The graph has the types, if the version takes them from there."""
    images = [blocks(seed=seed) for seed in range(4)]
    with fake_gpu(tensorrt=version) as gpu:
        info = build_engine(model_path, engine, precision=precision, batch=(1, 2, 4), images=images)
        record = last_build(gpu)
        with Detector(engine) as on_gpu:
            found = [on_gpu(image) for image in images]
            assert on_gpu(images) == found
    wanted = [detector(image) for image in images]
    types = {tensor.data_type for tensor in record.model.graph.initializer}
    half, has_scales = onnx.TensorProto.FLOAT16, any(n.op_type == "QuantizeLinear" for n in record.model.graph.node)
    assert has_scales == (precision == "int8")
    assert "TF32" in record.cleared
    heads = {name for level in spec.levels for name in (level.logits, level.deltas)}
    if version in WEAK:
        assert half not in types
        assert record.flags == {"fp32": set(), "fp16": {"FP16"}, "int8": {"FP16", "INT8"}}[precision]
        given = {"fp32": set(), "fp16": {spec.input, *heads}, "int8": heads}[precision]
        assert record.dtypes == dict.fromkeys(given, "float16")
        assert record.network_flags == 1
    else:
        assert record.flags == set()
        assert (half in types) == (precision != "fp32")
        assert record.network_flags == (1 if version.startswith("11") else 2)
    if precision == "fp32":
        assert found == wanted
    elif has_scales and half in types and ONNX_RUNTIME < (1, 24):
        # Only the detections are left out: everything above was checked. Seen: 1.23.2, the last for Python 3.10, gives
        # 29 of 55 detections for graphs of float16 and Q/DQ together, optimized or not; 1.32 gives enough of them.
        pytest.skip("this ONNX Runtime, which stands in for the GPU, does not compute float16 and Q/DQ together")
    else:
        assert_near(found, wanted, *((0.02, 0.9) if precision == "fp16" else (0.1, 0.7)))
    assert info == EngineInfo.load(engine)
    assert (info.precision, info.fingerprint.tensorrt_version) == (precision, version)
    assert info.profile.min[0], info.profile.max[0] == (1, 4)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("version", ["8.5.2", "8.6.1", "10.3.0", "11.4.0.106"])
def test_float16_heads(model_path: Path, engine: Path, spec: ModelSpec, version: str, precision: str) -> None:
    """Engines of lower precision give float16 heads. The boxes are those of the CPU's post-processing of these heads.

    The engine's input may be float16 as well: the kernel rounds the preprocessed image as NumPy does.
    """
    images = [blocks(seed=seed) for seed in range(4)]
    with fake_gpu(tensorrt=version):
        info = build_engine(model_path, engine, precision=precision, batch=(1, 2, 4), images=images)
        with Detector(engine) as on_gpu:
            backend: Any = on_gpu._backend
            loaded, infer = backend._engine, backend.infer
            assert set(loaded.output_dtypes.values()) == {np.dtype(np.float16)}
            assert loaded.input_dtype == info.input_dtype
            transforms = [Transform.plan(image.shape[:2], spec) for image in images]
            heads = infer(preprocess(images, transforms, spec).tensor)
            wanted = postprocess(heads, spec, transforms, score_threshold=on_gpu.score_threshold)
            assert on_gpu(images) == wanted
    assert sum(map(len, wanted)) > 0
    assert all((level == level.astype(np.float16)).all() for level in heads.logits + heads.deltas)
    assert info.head_dtype == "float16"
    # With a scale in float32, as in opsets before 19 and in weakly typed networks, float16 would round twice.
    assert info.input_dtype == ("float32" if precision == "int8" and version in WEAK else "float16")


def test_info_without_types(model_path: Path, engine: Path) -> None:
    """Infos of engines built before the heads became float16 do not name the types. Their engines are float32."""
    with fake_gpu():
        info = build_engine(model_path, engine, precision="fp32")
        content = json.loads(info.to_json())
        assert (content.pop("input_dtype"), content.pop("head_dtype")) == ("float32", "float32")
        del content["head_formats"], content["checksum"]
        EngineInfo.path_for(engine).write_text(json.dumps(content))
        assert EngineInfo.load(engine) == replace(info, head_formats=("LINEAR",))
        with Detector(engine) as on_gpu:
            assert len(on_gpu(blocks())) > 0
    with pytest.raises(ModelError, match=r"head_dtype must be one of float32, float16, but got 'int8'"):
        EngineInfo.from_json(json.dumps({**content, "head_dtype": "int8"}))


def test_fp32_stays_float32(model_path: Path, engine: Path) -> None:
    with fake_gpu():
        info = build_engine(model_path, engine, precision="fp32")
        with Detector(engine) as on_gpu:
            backend: Any = on_gpu._backend
            types = {backend._engine.input_dtype, *backend._engine.output_dtypes.values()}
    assert types == {np.dtype(np.float32)}
    assert (info.input_dtype, info.head_dtype) == ("float32", "float32")


def assert_near(found: list[Any], wanted: list[Any], tolerance: float, share: float) -> None:
    """Returns the share of detections that have a counterpart of the same class, place and about the same score."""
    for ours, theirs in zip(found, wanted, strict=True):
        matched = 0
        for item in theirs:
            same = ours.filter(classes=[item.label])
            near = np.abs(same.xyxy - item.xyxy).max(axis=1) < 5
            matched += bool((np.abs(same.scores[near] - item.score) < tolerance).any())
        assert matched >= share * len(theirs) > 0


def test_rtx_builds_without_a_gpu(model_path: Path, engine: Path) -> None:
    """TensorRT for RTX compiles where the engine runs, so its fingerprint names no GPU."""
    with fake_gpu(devices=0, reason="no driver", tensorrt="1.7.1.116", rtx=True):
        info = build_engine(model_path, engine, precision="fp32")
    assert info.fingerprint.tensorrt == "tensorrt_rtx"
    assert info.fingerprint.gpu is info.fingerprint.compute_capability is None


# -- sizes and options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resize", "sizes", "wanted"),
    [
        (Resize("shortest", (128, 224)), None, ((32, 32), (128, 224), (224, 224))),
        (Resize("shortest", (128, 224)), [(120, 160), (160, 120)], ((128, 128), (128, 192), (192, 192))),
        (Resize("longest", (320,)), None, ((32, 32), (192, 320), (320, 320))),
        (Resize("native", (4096,)), None, ((32, 32), (1088, 1920), (1920, 1920))),
        (Resize("native", (4096,)), [(480, 640)], ((480, 640), (480, 640), (480, 640))),
        (Resize("squash", (256, 384)), None, ((256, 384), (256, 384), (256, 384))),
        (Resize("fit", (256, 384)), None, ((256, 384), (256, 384), (256, 384))),
    ],
)
def test_profiles(
    model_path: Path, engine: Path, spec: ModelSpec, resize: Resize, sizes: Any, wanted: tuple[Any, ...]
) -> None:
    with fake_gpu():
        info = build_engine(model_path, engine, precision="fp32", sizes=sizes, spec=spec.replace(resize=resize))
    profile = info.profile
    assert (profile.min[2:], profile.opt[2:], profile.max[2:]) == wanted


def test_options_reach_tensorrt(model_path: Path, engine: Path) -> None:
    steps: list[Progress] = []
    with fake_gpu() as gpu:
        build_engine(
            model_path,
            engine,
            workspace_bytes=1 << 20,
            optimization_level=5,
            progress=steps.append,
        )
        record = last_build(gpu)
    assert (record.workspace_bytes, record.optimization_level) == (1 << 20, 5)
    counted = [Progress("build", step, 6) for step in range(1, 7)]
    assert steps == [Progress("build"), *counted, counted[-1]]


def test_a_level_that_the_version_does_not_have(model_path: Path, engine: Path) -> None:
    with (
        fake_gpu(tensorrt="8.5.2"),
        pytest.raises(ValueError, match=r"needs TensorRT 8\.6 or newer, but 8\.5\.2 is .*Leave it out"),
    ):
        build_engine(model_path, engine, optimization_level=5)


def test_measurements_are_kept_and_outdated_ones_do_no_harm(model_path: Path, engine: Path, cache: Path) -> None:
    with fake_gpu() as gpu:
        for wanted in (b"", b"timings 10.3.0"):
            build_engine(model_path, engine)
            assert last_build(gpu).timing_cache == wanted
        (kept,) = cache.glob("timing-*.cache")
        kept.write_bytes(b"rubbish")
        build_engine(model_path, engine)
        assert last_build(gpu).timing_cache == b""


def test_scales_of_its_own(model_path: Path, engine: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    """A network that has int8 scales is built as it is, without calibration images."""
    from retinasdk.tensorrt.int8 import quantize

    path = engine.with_name("own.onnx")
    onnx.save(quantize(network, spec, [blocks()]), path)
    with fake_gpu() as gpu:
        build_engine(path, engine, precision="int8", spec=spec)
        scales = [node for node in last_build(gpu).model.graph.node if node.op_type == "QuantizeLinear"]
        with Detector(engine) as on_gpu:
            assert len(on_gpu(blocks())) > 0
    assert len(scales) == sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_what_is_quantized_for_the_cpu(model_path: Path, engine: Path) -> None:
    """TensorRT does not support uint8 scales. The error says what to do, when building and when running."""
    from retinasdk import quantize_onnx

    path = engine.with_name("cpu.onnx")
    quantize_onnx(model_path, path, [blocks()], sweep_images=1, min_agreement=0)
    message = (
        r"cpu\.onnx is quantized for the CPU \(uint8\).* Run it with device='cpu', or build the engine from the float"
    )
    with fake_gpu():
        with pytest.raises(ModelError, match=message):
            build_engine(path, engine)
        with pytest.raises(ModelError, match=message):
            Detector(path, device="cuda")
    assert not engine.exists()


def test_calibration_from_a_folder(model_path: Path, engine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with fake_gpu(), pytest.raises(ValueError, match="images has no images to calibrate with"):
        build_engine(model_path, engine, precision="int8", images=folder)
    Image.fromarray(blocks()).save(folder / "a.png")
    with fake_gpu():
        build_engine(model_path, engine, precision="int8", images=folder)
    assert engine.is_file()


# -- refused, and nothing written --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision must be one of fp32, fp16, int8, but got 'int4'"),
        ({"precision": "int8"}, "needs calibration images, but got none. Pass a folder"),
        ({"batch": 0}, "batch must be one number"),
        ({"batch": (2, 1, 4)}, "batch must be one number"),
        ({"batch": (1, 2)}, "batch must be one number"),
        ({"sizes": []}, "sizes must have at least one"),
        ({"sizes": [(0, 4)]}, r"sizes must be pairs \(height, width\)"),
        ({"sizes": [(4, 4, 3)]}, r"sizes must be pairs \(height, width\)"),
    ],
)
def test_wrong_options(model_path: Path, engine: Path, options: dict[str, Any], message: str) -> None:
    with fake_gpu(), pytest.raises(ValueError, match=message):
        build_engine(model_path, engine, **options)
    assert list(engine.parent.glob("*.engine*")) == []


@pytest.mark.parametrize("name", ["out.plan", "absent/out.engine"])
def test_wrong_targets(model_path: Path, tmp_path: Path, name: str) -> None:
    with fake_gpu() as gpu:
        with pytest.raises(ValueError, match=r"ends in \.engine|cannot be written to .* Create the folder"):
            build_engine(model_path, tmp_path / name)
        assert gpu.built == []


def test_a_fixed_batch_stays(model_path: Path, engine: Path, network: onnx.ModelProto, spec: ModelSpec) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    path = engine.with_name("fixed.onnx")
    onnx.save(model, path)
    with fake_gpu():
        with pytest.raises(ValueError, match="fixed batch size of 2, but got batch=1"):
            build_engine(path, engine, batch=1, spec=spec)
        assert build_engine(path, engine, spec=spec).profile.max[0] == 2


def broken(network: onnx.ModelProto, what: str) -> bytes:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    if what == "truncated":
        content: bytes = model.SerializeToString()
        return content[: len(content) // 2]
    if what == "another operator":  # ONNX Runtime knows it
        model.graph.node.insert(0, helper.make_node("Det", ["matrix"], ["unused"], name="far_away"))
        model.graph.initializer.append(helper.make_tensor("matrix", 1, [2, 2], [1.0, 0.0, 0.0, 1.0]))
        value = helper.make_tensor_value_info("unused", 1, [])
        model.graph.output.append(value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", "is not an ONNX file, or it is incomplete"),
        ("another operator", r"node (far_away \(Det\)|number 0): not supported\. Export the network with standard"),
    ],
)
def test_models_that_cannot_be_built(
    network: onnx.ModelProto, spec: ModelSpec, engine: Path, version: str, what: str, message: str
) -> None:
    path = engine.with_name("broken.onnx")
    path.write_bytes(broken(network, what))
    with fake_gpu(tensorrt=version), pytest.raises(ModelError, match=message):
        build_engine(path, engine, precision="fp32", spec=spec)
    assert list(engine.parent.glob("*.engine*")) == []


def test_no_gpu_no_builder(model_path: Path, engine: Path) -> None:
    """Some versions of TensorRT crash without a GPU. The stand-in would record it as a fault."""
    with (
        fake_gpu(devices=0, reason="no driver"),
        pytest.raises(DeviceError, match=r"building an engine needs a GPU, but there is no usable one .*no driver"),
    ):
        build_engine(model_path, engine)


def test_no_tensorrt(model_path: Path, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingDependencyError, match="building engines needs TensorRT"):
        build_engine(model_path, engine)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals go to threads on POSIX only")
def test_ctrl_c_leaves_nothing(model_path: Path, engine: Path) -> None:
    def press(progress: Progress) -> None:
        if progress.done == 1:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
            time.sleep(0.5)

    with fake_gpu(), pytest.raises(KeyboardInterrupt):
        build_engine(model_path, engine, progress=press)
    assert list(engine.parent.glob("*.engine*")) == []
    for thread in threading.enumerate():
        if thread.name == "retinasdk-build":
            thread.join(60)
            assert not thread.is_alive()


def test_both_files_or_none(model_path: Path, engine: Path) -> None:
    """If the JSON file cannot be written, the old files stay."""
    engine.write_bytes(b"before")
    EngineInfo.path_for(engine).mkdir()
    with fake_gpu(), pytest.raises(IsADirectoryError):
        build_engine(model_path, engine)
    assert engine.read_bytes() == b"before"
    assert not [path for path in engine.parent.iterdir() if path.name.startswith(".")]


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_model(model_path: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    copy = tmp_path / "own.onnx"
    copy.write_bytes(model_path.read_bytes())
    copy.with_suffix(".json").write_bytes(model_path.with_suffix(".json").read_bytes())
    return copy


def test_built_on_first_use_and_found_on_the_second(
    own_model: Path, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_gpu() as gpu:
        for _ in range(2):
            with Detector(own_model, device="cuda", precision="fp32") as on_gpu:
                assert on_gpu(blocks()) == detector(blocks())
        assert len(gpu.built) == 1
        with Detector(own_model) as on_gpu:  # "auto" is the GPU; another precision, another engine
            assert on_gpu.device == "cuda"
        assert len(gpu.built) == 2
    assert "own.onnx: building its TensorRT engine, which can take minutes. Reason: the cache has no" in caplog.text


def _newer_onnx(path: Path) -> str:
    model = onnx.load(path)
    model.doc_string = "another"
    onnx.save(model, path)
    return "it was built for the ONNX file with SHA-256 "


def _other_spec(path: Path) -> str:
    ModelSpec.load(path.with_suffix(".json")).replace(top_k=500).save(path.with_suffix(".json"))
    return "it was built with spec "


def _damage(path: Path) -> str:
    (engine,) = Path(os.environ["RETINASDK_CACHE"]).glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    return "the engine in the cache is damaged"


def _no_json(path: Path) -> str:
    (info,) = Path(os.environ["RETINASDK_CACHE"]).glob("*.engine.json")
    info.unlink()
    return "the engine in the cache is damaged"


@pytest.mark.parametrize("change", [_newer_onnx, _other_spec, _damage, _no_json])
def test_built_again_when_it_does_not_fit(own_model: Path, caplog: pytest.LogCaptureFixture, change: Any) -> None:
    with fake_gpu() as gpu:
        Detector(own_model, device="cuda").close()
        why = change(own_model)
        caplog.clear()
        for _ in range(2):
            Detector(own_model, device="cuda").close()
        assert len(gpu.built) == 2
    (line,) = [record.message for record in caplog.records if "building its TensorRT engine" in record.message]
    assert why in line


def test_built_again_for_another_tensorrt(own_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    for version in ("10.3.0", "10.13.3"):
        with fake_gpu(tensorrt=version) as gpu:
            Detector(own_model, device="cuda").close()
            assert len(gpu.built) == 1
    assert "it was built for TensorRT 10.3.0, but this is 10.13.3" in caplog.text


def test_many_ask_and_one_builds(own_model: Path) -> None:
    with fake_gpu() as gpu:
        with ThreadPoolExecutor(4) as pool:
            for made in pool.map(lambda _: Detector(own_model, device="cuda"), range(4)):
                made.close()
        assert len(gpu.built) == 1


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import tempfile

    from retinasdk._util import cache_dir as _cache_dir

    _cache_dir._fallback.cache_clear()
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    _cache_dir._fallback.cache_clear()


def test_a_cache_that_cannot_be_written(
    own_model: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("RETINASDK_CACHE", str(file / "cache"))
    with fake_gpu() as gpu:
        for _ in range(2):
            Detector(own_model, device="cuda").close()
        assert len(gpu.built) == 1
    lines = [record.message for record in caplog.records if "Caches go to" in record.message]
    assert len(lines) == 1
    assert str(temporary) in lines[0]
    assert "Set RETINASDK_CACHE to a private folder that can" in lines[0]


def test_interrupted_and_failed_builds_leave_the_cache_as_it_was(own_model: Path, cache: Path) -> None:
    model = onnx.load(own_model)
    model.graph.node.append(helper.make_node("Det", ["matrix"], ["unused"], name="far_away"))
    model.graph.initializer.append(helper.make_tensor("matrix", 1, [2, 2], [1.0, 0.0, 0.0, 1.0]))
    model.graph.output.append(helper.make_tensor_value_info("unused", 1, []))
    onnx.save(model, own_model)
    with fake_gpu(), pytest.raises(ModelError, match="far_away"):
        Detector(own_model, device="cuda")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
