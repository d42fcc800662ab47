"""`verify` and its command: what is right passes, and what is wrong fails with numbers that name the place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from fakes import fake_gpu
from fakes.tensorrt import save_engine
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from pictures import LABELS, Image, blocks
from PIL import Image as PillowImage

from retinasdk import Detections, Detector, DeviceError, ModelError, ModelSpec, Resize
from retinasdk.cli.main import main
from retinasdk.pipeline.postprocess import decode, suppress
from retinasdk.pipeline.preprocess import preprocess
from retinasdk.pipeline.types import HeadOutputs, Kept
from retinasdk.verification.compare import TensorTally, pair_boxes
from retinasdk.verification.verify import TOLERANCES, Verification, verify

Change = Callable[[HeadOutputs], HeadOutputs]


@pytest.fixture
def images() -> list[Image]:
    return [blocks(90, 120, seed=0), blocks(120, 90, seed=1), blocks(61, 147, seed=2)]


class OtherBackend:
    """The CPU's backend with other head outputs; detect() is right for them unless `spoil` changes what it gives."""

    device = "cpu"
    convolution = None
    fixed_batch = max_batch = None

    def __init__(
        self,
        detector: Detector,
        change: Change = lambda heads: heads,
        spoil: Callable[[Kept], Kept] = lambda kept: kept,
    ) -> None:
        self._backend, self._change, self._spoil = detector._backend, change, spoil
        self.spec = detector.spec

    def read(self, image: Any) -> Any:
        return self._backend.read(image)

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        return self._change(self._backend.infer(tensor))

    def detect(
        self, images: Sequence[Any], transforms: Any, *, score_threshold: float, class_ids: Sequence[int]
    ) -> list[Kept]:
        heads = self.infer(preprocess(images, transforms, self.spec).tensor)
        candidates = decode(heads, self.spec, transforms, score_threshold=score_threshold, class_ids=class_ids)
        return [self._spoil(kept) for kept in suppress(candidates, self.spec)]

    def close(self) -> None:
        raise AssertionError("verify must leave a backend open that it did not open")


def changed(head: str, level: int, change: Callable[[Any], Any]) -> Change:
    def apply(heads: HeadOutputs) -> HeadOutputs:
        arrays = list(getattr(heads, head))
        arrays[level] = np.ascontiguousarray(change(arrays[level]), dtype=np.float32)
        return dataclasses.replace(heads, **{head: tuple(arrays)})

    return apply


def failing(result: Verification) -> list[tuple[int, str]]:
    return [(item.level, item.head) for item in result.tensors if not result.is_within(item)]


def total_failure(result: Verification, words: str) -> str:
    return next(failure for failure in result.failures if failure.startswith(words))


# -- what is right passes ----------------------------------------------------------------------------------------------


@pytest.fixture
def gpu() -> Iterator[Any]:
    with fake_gpu() as gpu:
        yield gpu


@pytest.mark.usefixtures("gpu")
def test_an_equal_engine_passes_with_zeros(
    model_path: Path, spec: ModelSpec, images: list[Image], detector: Detector, tmp_path: Path
) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    result = verify(model_path, images, against=engine, score_threshold=0.1)
    assert (result.passed, result.failures, result.precision) == (True, (), "fp32")  # as the engine says of itself
    assert (result.reference, result.tested) == ("tiny.onnx on cpu", "tiny.engine on cuda")
    assert result.tolerance == TOLERANCES["fp32"]
    assert [(item.level, item.head, item.name) for item in result.tensors] == [
        *((level, "logits", f"logits_p{level + 3}") for level in range(5)),
        *((level, "deltas", f"deltas_p{level + 3}") for level in range(5)),
    ]
    # On the GPU, too, ONNX Runtime computes; so nothing at all may differ.
    assert {item.max_abs for item in result.tensors} == {0.0}
    assert {item.share_beyond for item in result.tensors} == {0.0}
    for item, image in zip(result.images, images, strict=True):
        count = len(detector(image, score_threshold=0.1))
        assert (item.reference, item.tested, item.missing, item.extra, item.suppressed_in_one) == (
            count,
            count,
            0,
            0,
            0,
        )
        assert (item.max_score, item.max_pixels, item.postprocess) == (0.0, 0.0, "equal")
    assert result.total("reference") > 20


@pytest.mark.usefixtures("gpu")
def test_float16_heads_need_the_tolerance_of_fp16(
    model_path: Path, spec: ModelSpec, images: list[Image], tmp_path: Path
) -> None:
    dtypes = {"heads": "float16", "images": "float16"}
    engine = save_engine(tmp_path / "half.engine", model_path, spec, dtypes=dtypes)
    strict = verify(model_path, images, against=engine)
    assert not strict.passed
    assert failing(strict)
    assert {item.postprocess for item in strict.images} == {"equal"}
    kind = verify(model_path, images, against=engine, precision="fp16")
    assert kind.passed, kind.failures
    assert [item.max_abs for item in kind.tensors] == [item.max_abs for item in strict.tensors]
    assert min(item.max_abs for item in kind.tensors) > 0


def test_the_seeded_pictures(model_path: Path, detector: Detector) -> None:
    result = verify(model_path, against=OtherBackend(detector))
    again = verify(model_path, against=OtherBackend(detector))
    assert result == again
    assert result.passed
    assert result.score_threshold == 0.05
    assert [item.image for item in result.images] == ["picture 0", "picture 1", "picture 2"]
    assert all(item.reference > 0 for item in result.images)
    assert len({item.reference for item in result.images}) > 1


def test_networks_of_a_fixed_batch(
    network: onnx.ModelProto, model_path: Path, spec: ModelSpec, images: list[Image], tmp_path: Path
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(network)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, str(tmp_path / "two.onnx"))
    for first, second in ((model_path, tmp_path / "two.onnx"), (tmp_path / "two.onnx", model_path)):
        result = verify(first, images, against=second, device="cpu", spec=spec)
        assert result.passed, result.failures
        assert result.total("reference") > 0


def test_ignored_labels_stay_out(model_path: Path, spec: ModelSpec, images: list[Image]) -> None:
    detector = Detector(model_path, device="cpu", spec=spec.replace(ignore_labels=("person",)), threads=1)
    result = verify(model_path, images, against=OtherBackend(detector), spec=detector.spec)
    assert result.total("reference") == sum(len(detector(image)) for image in images) > 0
    assert result.passed


# -- what is wrong fails, and the numbers say where --------------------------------------------------------------------


def test_a_shifted_level(model_path: Path, detector: Detector, images: list[Image]) -> None:
    shift = np.float32(0.5)
    wrong = OtherBackend(detector, changed("deltas", 0, lambda deltas: deltas + shift))
    result = verify(model_path, images, against=wrong, precision="fp16", score_threshold=0.1)
    assert failing(result) == [(0, "deltas")]
    (shifted,) = (item for item in result.tensors if (item.level, item.head) == (0, "deltas"))
    spreads = [float(deltas.std(dtype=np.float64)) for deltas in of_network(detector, images, "deltas", 0)]
    assert shifted.share_beyond == 1.0
    assert shifted.max_abs == pytest.approx(0.5, rel=1e-5)
    assert shifted.max_relative == pytest.approx(0.5 / min(spreads), rel=1e-4)
    assert "level 0, deltas (deltas_p3): 100.00% of the elements differ by more than 5.0%" in result.failures[0]
    assert result.total("missing") > 0
    assert result.total("extra") > 0
    assert "without a counterpart, 5 allowed" in total_failure(result, "boxes:")
    assert {item.postprocess for item in result.images} == {"equal"}


def test_a_scaled_head(model_path: Path, detector: Detector, images: list[Image]) -> None:
    wrong = OtherBackend(detector, changed("logits", 2, lambda logits: logits * np.float32(1.1)))
    result = verify(model_path, images, against=wrong, precision="fp16")
    assert failing(result) == [(2, "logits")]
    wanted = of_network(detector, images, "logits", 2)
    beyond = [np.abs(item) * 0.1 > 0.05 * item.std() for item in wanted]
    share = sum(int(item.sum()) for item in beyond) / sum(item.size for item in beyond)
    (scaled,) = (item for item in result.tensors if (item.level, item.head) == (2, "logits"))
    assert scaled.share_beyond == pytest.approx(share, abs=0.002)
    assert scaled.max_abs == pytest.approx(0.1 * max(float(np.abs(item).max()) for item in wanted), rel=1e-3)


def test_swapped_classes(model_path: Path, detector: Detector, images: list[Image]) -> None:
    def swap(heads: HeadOutputs) -> HeadOutputs:
        order = [anchor * 3 + index for anchor in range(9) for index in (1, 0, 2)]
        return dataclasses.replace(heads, logits=tuple(np.ascontiguousarray(item[:, order]) for item in heads.logits))

    result = verify(model_path, images, against=OtherBackend(detector, swap), precision="int8")
    found = [detector(image) for image in images]
    moved = sum(int((item.class_ids < 2).sum()) for item in found)
    assert moved > 0
    assert not result.passed
    assert result.total("missing") + result.total("extra") == 2 * moved


def test_a_wrong_score(model_path: Path, detector: Detector, images: list[Image]) -> None:
    """So few logits are wrong that the share of elements allows it; the boxes do not."""

    def raise_the_best(logits: Any) -> Any:
        logits = logits.copy()
        logits.reshape(-1)[logits.argmax()] += 1.0
        return logits

    result = verify(
        model_path, images[:1], against=OtherBackend(detector, changed("logits", 0, raise_the_best)), precision="fp16"
    )
    assert failing(result) == []
    assert not result.passed
    assert len(result.failures) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: dataclasses.replace(kept, scores=np.nextafter(kept.scores, np.float32(9))),
        lambda kept: dataclasses.replace(kept, boxes=kept.boxes + np.float32([0, 0, 0, 1e-4])),
        lambda kept: Kept(kept.boxes[:-1], kept.scores[:-1], kept.class_ids[:-1]),
        lambda kept: Kept(kept.boxes[::-1], kept.scores[::-1], kept.class_ids[::-1]),
    ],
    ids=["last bit of a logit", "an edge", "one less", "other order"],
)
def test_wrong_decode_or_nms(
    model_path: Path, detector: Detector, images: list[Image], spoil: Callable[[Kept], Kept]
) -> None:
    result = verify(model_path, images, against=OtherBackend(detector, spoil=spoil), precision="int8")
    assert len(result.failures) == 1
    assert "differ from the CPU's in 3 of 3 images, first in image 0" in total_failure(result, "decoding and NMS:")
    assert failing(result) == []


def test_a_network_that_changes_from_run_to_run_is_not_blamed_on_nms(
    model_path: Path, detector: Detector, images: list[Image]
) -> None:
    random = np.random.default_rng(0)
    noise = changed("logits", 0, lambda logits: logits + random.normal(0, 1e-5, logits.shape))
    result = verify(model_path, images, against=OtherBackend(detector, noise))
    assert result.passed, result.failures
    assert {item.postprocess for item in result.images} == {"undecided"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(model_path: Path, detector: Detector, images: list[Image], value: float) -> None:
    def poison(deltas: Any) -> Any:
        deltas = deltas.copy()
        deltas[0, 0, 0, :2] = value
        return deltas

    result = verify(model_path, images[:2], against=OtherBackend(detector, changed("deltas", 3, poison)))
    assert failing(result) == [(3, "deltas")]
    assert "level 3, deltas (deltas_p6): 4 elements are NaN or infinite in only one of the two" in result.failures[0]
    json.dumps(result.to_dict(), allow_nan=False)


def test_near_ties_are_no_faults(model_path: Path, detector: Detector, images: list[Image]) -> None:
    """Noise within the tolerance turns some suppressions round; both networks still know the same boxes."""
    random = np.random.default_rng(3)
    noises: dict[Any, Any] = {}

    def noise(heads: HeadOutputs) -> HeadOutputs:
        key = heads.logits[0].shape
        noises.setdefault(key, [(random.normal(0, 0.01, a.shape) * a.std()).astype(np.float32) for a in heads.logits])
        logits = tuple(item + other for item, other in zip(heads.logits, noises[key], strict=True))
        return dataclasses.replace(heads, logits=logits)

    result = verify(model_path, images, against=OtherBackend(detector, noise), precision="fp16", score_threshold=0.05)
    assert result.total("suppressed_in_one") > 0
    assert result.total("missing") + result.total("extra") == 0
    assert result.passed, result.failures


def of_network(detector: Detector, images: list[Image], head: str, level: int) -> list[npt.NDArray[np.float32]]:
    from retinasdk.pipeline.preprocess import Transform

    found = []
    for image in images:
        transform = Transform.plan(image.shape[:2], detector.spec)
        heads = detector._backend.infer(preprocess([image], [transform], detector.spec).tensor)
        found.append(getattr(heads, head)[level])
    return found


# -- the numbers by themselves -----------------------------------------------------------------------------------------


def test_a_tally_against_its_definition() -> None:
    random = np.random.default_rng(5)
    tally = TensorTally(0.02)
    wanted = [random.normal(3, 2, (1, 4, 5, 6)).astype(np.float32) for _ in range(3)]
    got = [item + random.normal(0, 0.05, item.shape).astype(np.float32) for item in wanted]
    beyond = total = 0
    for one, other in zip(wanted, got, strict=True):
        tally.add(one, other)
        for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
            beyond += abs(a - b) > 0.02 * float(np.std(one.astype(np.float64)))
            total += 1
    assert 0 < beyond < total
    assert tally.share_beyond == beyond / total
    assert tally.max_abs == max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(wanted, got, strict=True))


def test_a_tensor_of_one_value_has_the_spread_of_its_rounding() -> None:
    flat = np.full((1, 2, 3, 3), 2.5, np.float32)
    equal, other = TensorTally(0.05), TensorTally(0.05)
    equal.add(flat, flat.copy())
    other.add(flat, flat + np.float32(0.001))
    assert (equal.share_beyond, equal.max_relative) == (0.0, 0.0)
    assert other.share_beyond == 1.0


def test_equal_infinities_and_nans_are_equal() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1.0, 2.0], np.float32)
    tally = TensorTally(0.05)
    tally.add(values, values.copy())
    assert (tally.not_finite, tally.max_abs, tally.share_beyond) == (0, 0.0, 0.0)
    tally.add(np.full(3, np.nan, np.float32), np.array([np.nan, 0, np.inf], np.float32))
    assert tally.not_finite == 2


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """In plain Python; shares nothing with the package."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


corners = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(0, 9)] * 2).map(
    lambda box: (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
)
boxes_of_two_classes = st.lists(st.tuples(corners, st.integers(0, 1)), max_size=7)


@given(first=boxes_of_two_classes, second=boxes_of_two_classes, min_iou=st.sampled_from([0.3, 0.5, 0.9]))
def test_pairs_against_plain_python(first: list[Any], second: list[Any], min_iou: float) -> None:
    free, wanted = set(range(len(second))), []
    for index, (box, kind) in enumerate(first):
        likeness = {
            other: 1.0 if second[other][0] == box else iou(box, second[other][0])
            for other in free
            if second[other][1] == kind
        }
        good = {other: value for other, value in likeness.items() if value >= min_iou}
        if good:
            best = min(good, key=lambda other: (-good[other], other))
            wanted.append((index, best))
            free.remove(best)
    pairs = pair_boxes(as_detections(first), as_detections(second), min_iou)
    assert [tuple(pair) for pair in pairs.tolist()] == wanted


def as_detections(boxes: list[Any]) -> Detections:
    xyxy = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    kinds = np.array([kind for _, kind in boxes], np.int32)
    return Detections(xyxy, np.linspace(0.9, 0.5, len(boxes), dtype=np.float32), kinds, ("a", "b"))


def test_tiny_boxes_pair_by_place() -> None:
    first = as_detections([((10.0, 10.0, 10.4, 10.4), 0)])
    second = as_detections([((10.4, 10.4, 10.8, 10.8), 0)])
    assert len(pair_boxes(first, second, 0.9)) == 1
    assert len(pair_boxes(first, as_detections([((10.0, 10.0, 10.4, 11.0), 0)]), 0.9)) == 0


# -- what cannot be compared -------------------------------------------------------------------------------------------


def saved(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> Path:
    onnx.save(model, str(path))
    spec.save(path.with_suffix(".json"))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[::-1]}, "same labels in the same order, got person, chair, dog and dog, chair, person"),
        ({"resize": Resize("shortest", (160, 224))}, "their specs differ in resize; compare their accuracy"),
        ({"top_k": 10, "nms_iou_threshold": 0.6}, "their specs differ in top_k, nms_iou_threshold"),
    ],
)
def test_models_that_are_not_comparable(
    network: onnx.ModelProto,
    model_path: Path,
    spec: ModelSpec,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    other = saved(network, spec.replace(**changes), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=message):
        verify(model_path, [blocks()], against=other, device="cpu")


def test_names_and_thresholds_may_differ(
    network: onnx.ModelProto, model_path: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    other = saved(network, spec.replace(name="other", score_threshold=0.9, source={"a": "b"}), tmp_path / "other.onnx")
    result = verify(model_path, [blocks()], against=other, device="cpu")
    assert (result.passed, result.score_threshold) == (True, spec.score_threshold)


def test_heads_of_other_sizes(model_path: Path, detector: Detector) -> None:
    wrong = OtherBackend(detector, changed("logits", 2, lambda logits: logits[:, :, :-1]))
    with pytest.raises(
        ModelError, match=r"level 2, logits: the reference gives \(1, 27, 4, 6\), the tested model \(1, 27, 3, 6\)"
    ):
        verify(model_path, [blocks()], against=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu"}, "it is one file on one device; give another file"),
        ({"device": "auto"}, "device must be one of cpu, cuda; got 'auto'"),
        ({"reference": "tpu"}, "reference must be one of cpu, cuda; got 'tpu'"),
        ({"precision": "bf16"}, "precision must be one of fp32, fp16, int8; got 'bf16'"),
        ({"score_threshold": float("nan")}, "score_threshold must be a number from 0 to 1, got nan"),
        ({"device": "cpu", "against": "people", "images": []}, "at least one image, got none"),
    ],
)
def test_unusable_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify("people", options.pop("images", [blocks()]), **options)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, model_path: Path) -> None:
    monkeypatch.setattr("retinasdk.verification.verify.why_no_gpu", lambda: "pycuda is not installed")
    for options in ({}, {"reference": "cuda", "device": "cpu"}, {"against": "people"}):
        with pytest.raises(DeviceError, match="cannot run on the GPU here: pycuda is not installed"):
            verify(model_path, [blocks()], **options)  # type: ignore[arg-type]


# -- the command -------------------------------------------------------------------------------------------------------


def status_of(*arguments: str | Path) -> int:
    """Whether the command returns its status, or leaves by it."""
    try:
        return main([*map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def scaled(network: onnx.ModelProto, spec: ModelSpec, tmp_path: Path) -> Path:
    """The tiny network with the deltas of all levels half a percent larger."""
    model = onnx.ModelProto()
    model.CopyFrom(network)
    last = {node.input[1] for node in model.graph.node if node.output[0].startswith("deltas_")}
    for tensor in model.graph.initializer:
        if tensor.name in last:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.005), tensor.name))
    return saved(model, spec, tmp_path / "scaled.onnx")


@pytest.fixture
def photos(tmp_path: Path, images: list[Image]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(images):
        PillowImage.fromarray(image).save(folder / f"{index}.png")
    return folder


def test_command_passes_and_fails(
    model_path: Path, scaled: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "numbers.json"
    options = ("verify", model_path, "--images", photos, "--against", scaled, "--device", "cpu")
    assert status_of(*options, "--precision", "fp16", "--json", target) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scaled.onnx on cpu against tiny.onnx on cpu, 3 images, tolerance of fp16"
    assert lines[-2:] == ["passed", f"wrote {target}"]
    assert sum(line.endswith(" ok") for line in lines) == 10
    assert any("decode and NMS equal to the CPU's bit for bit" in line and line.endswith("3 of 3") for line in lines)
    wanted = verify(
        model_path, [str(photos / f"{index}.png") for index in range(3)], against=scaled, device="cpu", precision="fp16"
    )
    content = json.loads(target.read_text())
    assert content == json.loads(json.dumps(wanted.to_dict()))
    assert content["passed"] is True
    assert content["tolerance"]["share"] == 0.01
    assert [item["image"] for item in content["images"]] == [str(photos / f"{index}.png") for index in range(3)]

    assert status_of(*options, "--json", target, "--overwrite") == 1
    captured = capsys.readouterr()
    failures = [line for line in captured.out.splitlines() if line.startswith("FAILED")]
    assert [line.split(" (")[0] for line in failures[:5]] == [f"FAILED level {level}, deltas" for level in range(5)]
    assert "passed" not in captured.out
    assert captured.err == ""
    assert json.loads(target.read_text())["failures"] == [line.removeprefix("FAILED ") for line in failures]


@pytest.mark.usefixtures("gpu")
def test_command_on_a_gpu(
    model_path: Path, spec: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = save_engine(tmp_path / "tiny.engine", model_path, spec)
    assert status_of("verify", model_path, "--against", engine) == 0
    assert "tiny.engine on cuda against tiny.onnx on cpu, 3 images, tolerance of fp32" in capsys.readouterr().out


def test_command_without_a_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinasdk.verification.verify.why_no_gpu", lambda: "no usable GPU (cudaErrorNoDevice)")
    assert status_of("verify", "people") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "people cannot run on the GPU here: no usable GPU (cudaErrorNoDevice)" in captured.err


def test_command_with_bad_input(tmp_path: Path, model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    against = ("--against", model_path, "--device", "cpu")
    for arguments, message in (
        ((model_path, "--images", tmp_path / "none", *against), "none"),
        ((model_path, "--images", tmp_path / "empty", *against), "at least one image"),
        ((model_path, "--json", tmp_path / "none" / "x.json", *against), "none: no such folder to write to"),
        ((model_path, "--score", "2", *against), "from 0 to 1, got 2.0"),
        (("none.onnx", *against), "none.onnx is not the path of a file"),
    ):
        assert status_of("verify", *arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert (captured.out, captured.err.count("\n")) == ("", 1)
