"""`Suppression`, thresholds by class and regions to ignore: `Detector` on both devices, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeGpu, fake_gpu
from fakes.tensorrt import save_engine
from pictures import LABELS, Image, blocks
from PIL import Image as PillowImage
from reference import iou

from retinasdk import Detections, Detector, ModelSpec, Resize, Suppression, Tiles
from retinasdk.cli.main import main

RULES = [
    Suppression(),
    Suppression(iou_threshold=0.2),
    Suppression(across_classes=True, max_per_class=2),
    Suppression(max_detections=5),
    Suppression("soft_linear"),
    Suppression("soft_linear", iou_threshold=0.3, across_classes=True, max_per_class=3),
    Suppression("soft_gaussian", sigma=0.2, max_detections=7),
    Suppression("fusion"),
    Suppression("fusion", fused_score="best", across_classes=True, max_per_class=2),
]


def on_cpu(model_path: Path, **options: Any) -> Detector:
    return Detector(model_path, device="cpu", threads=1, **options)


@pytest.fixture(scope="module")
def engine(model_path: Path, spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_engine(tmp_path_factory.mktemp("engine") / "tiny.engine", model_path, spec)


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as gpu:
        yield gpu


# -- rules -------------------------------------------------------------------------------------------------------------


def test_the_default_is_the_plain_rule(model_path: Path, detector: Detector) -> None:
    for plain in (None, Suppression(), Suppression("greedy", sigma=9)):
        with on_cpu(model_path, suppression=plain) as other:
            assert other(blocks()) == detector(blocks())
            assert other.suppression.rule == "greedy"


def test_the_plain_rule_takes_the_specs_numbers_unless_others_are_given(model_path: Path, spec: ModelSpec) -> None:
    given = on_cpu(model_path, suppression=Suppression(iou_threshold=0.2, max_detections=4))
    with given, on_cpu(model_path, spec=spec.replace(nms_iou_threshold=0.2, max_detections=4)) as wanted:
        assert given(blocks()) == wanted(blocks())


def test_across_classes_leaves_no_two_boxes_on_one_object(model_path: Path, detector: Detector) -> None:
    def overlapping(found: Detections) -> int:
        boxes = found.xyxy.astype(np.float64)
        return sum(int((iou(box, boxes[i + 1 :]) > 0.5).sum()) for i, box in enumerate(boxes))

    assert overlapping(detector(blocks(), score_threshold=0.1)) > 0
    with on_cpu(model_path, suppression=Suppression(across_classes=True)) as other:
        assert overlapping(other(blocks(), score_threshold=0.1)) == 0


def test_the_spec_can_say_across_classes(model_path: Path, detector: Detector) -> None:
    """As KerasHub does. It holds for tiles, too, and a Suppression cannot undo it."""
    spec = detector.spec.replace(nms_across_classes=True)
    with (
        on_cpu(model_path, suppression=Suppression(across_classes=True)) as wanted,
        on_cpu(model_path, spec=spec) as found,
        on_cpu(model_path, spec=spec, suppression=Suppression()) as given,
    ):
        for options in ({}, {"tiles": Tiles(64, overlap=0.5)}):
            expected = wanted(blocks(), score_threshold=0.1, **options)
            assert expected != detector(blocks(), score_threshold=0.1, **options)
            assert found(blocks(), score_threshold=0.1, **options) == expected
            assert given(blocks(), score_threshold=0.1, **options) == expected


def test_max_per_class(model_path: Path, detector: Detector) -> None:
    everything = detector(blocks(), score_threshold=0.1)
    assert np.bincount(everything.class_ids).max() > 2
    with on_cpu(model_path, suppression=Suppression(max_per_class=2)) as other:
        few = other(blocks(), score_threshold=0.1)
    place = [int((everything.class_ids[:i] == class_id).sum()) for i, class_id in enumerate(everything.class_ids)]
    assert few == everything[np.array(place) < 2]


@pytest.mark.parametrize("rule", ["soft_linear", "soft_gaussian"])
def test_soft_rules_let_scores_fall_and_keep_the_best(model_path: Path, detector: Detector, rule: str) -> None:
    plain = detector(blocks(), score_threshold=0.1)
    with on_cpu(model_path, suppression=Suppression(rule)) as other:
        soft = other(blocks(), score_threshold=0.1)
    assert soft != plain
    assert soft[0] == plain[0]
    assert soft.scores.min() > 0.1
    assert (np.diff(soft.scores) <= 0).all()


def test_fusion_moves_boxes_and_finds_the_same_objects(model_path: Path, detector: Detector) -> None:
    plain = detector(blocks())
    with on_cpu(model_path, suppression=Suppression("fusion", fused_score="best")) as other:
        fused = other(blocks())
    assert not np.isin(plain.xyxy[0], fused.xyxy[0]).all()
    assert iou(plain.xyxy[0].astype(np.float64), fused.xyxy.astype(np.float64)).max() > 0.5
    assert fused.scores[0] == plain.scores[0]


@pytest.mark.parametrize("suppression", RULES, ids=str)
def test_gpu(
    gpu: FakeGpu, engine: Path, model_path: Path, suppression: Suppression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launched plainly, recorded, replayed, in a batch, with other thresholds and regions below the same graph."""
    calls: list[dict[str, Any]] = [
        {},
        {"score_threshold": 0.1},
        {"score_threshold": {"dog": 0.4, "chair": 0.15}, "ignore": [(0, 0, 60, 50)]},
        {"score_threshold": {"dog": 0.1}, "classes": ["dog", "person"]},
        {"ignore": [(20, 10, 70, 90), (80, 0, 120, 40)]},
    ]
    with (
        Detector(engine, device="cuda", suppression=suppression) as ours,
        on_cpu(model_path, suppression=suppression) as theirs,
    ):
        for options in calls:
            assert_same(ours(blocks(), **options), theirs(blocks(), **options))
        images = [blocks(seed=seed) for seed in range(3)]
        for mine, wanted in zip(ours(images, **calls[2]), theirs(images, **calls[2]), strict=True):
            assert_same(mine, wanted)
    assert gpu.launches["network"] == 3  # two shapes: plainly and recorded, and plainly


def assert_same(ours: Detections, theirs: Detections) -> None:
    assert len(ours) == len(theirs)
    for name in ("class_ids", "scores", "xyxy"):
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name


def test_workers_follow_the_rule(model_path: Path) -> None:
    with on_cpu(model_path, suppression=Suppression("soft_gaussian")) as detector:
        detector._backend._cores = 2  # type: ignore[attr-defined]
        (prediction,) = detector.predict([blocks()])
        assert prediction.detections == detector(blocks())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "soft"}, "rule must be one of greedy, soft_linear, soft_gaussian, fusion; got 'soft'"),
        ({"across_classes": 1}, "across_classes must be True or False; got 1"),
        (
            {"iou_threshold": 1.5},
            "iou_threshold must be a number from 0 to 1, or None for the value of the model's spec; got 1.5",
        ),
        ({"sigma": 0}, "sigma must be a number above 0, such as 0.5; got 0"),
        ({"sigma": float("nan")}, "sigma must be a number above 0"),
        ({"fused_score": "sum"}, "fused_score must be mean or best; got 'sum'"),
        ({"max_per_class": 0}, "max_per_class must be an integer from 1 to 1048576, or None; got 0"),
        ({"max_detections": True}, "max_detections must be an integer from 1 to 1048576, or None; got True"),
    ],
)
def test_bad_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Suppression(**options)


def test_a_rule_is_not_a_string(model_path: Path) -> None:
    with pytest.raises(TypeError, match=r"suppression must be a Suppression, got 'fusion'; give retinasdk.Suppression"):
        Detector(model_path, suppression="fusion")  # type: ignore[arg-type]


# -- thresholds by class -----------------------------------------------------------------------------------------------


def test_each_label_has_its_threshold(detector: Detector) -> None:
    low = detector(blocks(), score_threshold=0.1)
    found = detector(blocks(), score_threshold={"person": 0.1, "dog": 0.3})
    limits = np.array([0.1, 0.25, 0.3])  # the chair's is the detector's
    assert found == low[low.scores > limits[low.class_ids]]
    assert set(found.names) == set(LABELS)


def test_a_detectors_own_thresholds_hold_for_labels_that_a_call_does_not_name(
    model_path: Path, detector: Detector
) -> None:
    with on_cpu(model_path, score_threshold={"person": 0.4, "chair": 0.3}) as other:
        assert other.score_threshold == (0.4, 0.3, 0.25)
        wanted = detector(blocks(), score_threshold={"person": 0.4, "chair": 0.1})
        assert other(blocks(), score_threshold={"chair": 0.1}) == wanted
        assert other(blocks(), score_threshold=0.1) == detector(blocks(), score_threshold=0.1)
        assert other(blocks(), classes=["person"]) == detector(blocks(), classes=["person"], score_threshold=0.4)


def test_what_is_below_its_threshold_takes_no_place_of_the_best(model_path: Path, spec: ModelSpec) -> None:
    """As if the network had said nothing of it: with room for one pair a level, the other classes' best are found."""
    with on_cpu(model_path, spec=spec.replace(top_k=1)) as few:
        wanted = few(blocks(), score_threshold=0.1, classes=["chair", "dog"])
        assert len(wanted)
        assert few(blocks(), score_threshold={"person": 1.0, "chair": 0.1, "dog": 0.1}) == wanted


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ({"peron": 0.5}, r"unknown class 'peron'; did you mean 'person'\?"),
        ({"person": 1.5}, "score_threshold must be a number from 0 to 1, got 1.5"),
        ({"person": "0.5"}, "score_threshold must be a number from 0 to 1, got '0.5'"),
        ([0.5, 0.5, 0.5], "score_threshold must be a number from 0 to 1"),
    ],
)
def test_bad_thresholds(detector: Detector, threshold: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector(blocks(), score_threshold=threshold)


# -- regions to ignore -------------------------------------------------------------------------------------------------


def inside(found: Detections, region: tuple[float, float, float, float]) -> Any:
    """(n,) share of each box that lies in the region."""
    x1, y1, x2, y2 = found.xyxy.astype(np.float64).T
    width = np.minimum(x2, region[2]) - np.maximum(x1, region[0])
    height = np.minimum(y2, region[3]) - np.maximum(y1, region[1])
    return np.maximum(width, 0) * np.maximum(height, 0) / ((x2 - x1) * (y2 - y1))


def test_what_lies_more_than_half_in_a_region_is_left_out(model_path: Path, spec: ModelSpec) -> None:
    """Without suppression between boxes it is a filter; the regions are in pixels of the image, which is resized."""
    with on_cpu(model_path, suppression=Suppression(iou_threshold=1.0, max_detections=9999)) as keeping_all:
        for image in (blocks(), blocks(61, 47), blocks(200, 300)):
            height, width = image.shape[:2]
            region = (0.1 * width, 0.3 * height, 0.6 * width, 0.9 * height)
            everything = keeping_all(image)
            share = inside(everything, region)
            assert (np.abs(share - 0.5) > 1e-4).all()
            assert 0 < (share > 0.5).sum() < len(everything)
            assert keeping_all(image, ignore=[region]) == everything[share <= 0.5]
    squashed = spec.replace(resize=Resize("squash", (160, 128)))
    with on_cpu(model_path, spec=squashed, suppression=Suppression(iou_threshold=1.0, max_detections=9999)) as other:
        everything = other(blocks())
        region = (10, 20, 75, 80)
        both = (inside(everything, region) > 0.5) | (inside(everything, (80, 0, 120, 90)) > 0.5)
        assert other(blocks(), ignore=[region, (80, 0, 120, 90)]) == everything[~both]


def test_what_is_ignored_suppresses_nothing(detector: Detector) -> None:
    found = detector(blocks())
    x1, y1, x2, y2 = found.xyxy[0].tolist()
    others = detector(blocks(), ignore=[(x1, y1, x2, y2)])
    assert not (others.xyxy == found.xyxy[0]).all(axis=1).any()
    assert detector(blocks(), ignore=[(0, 0, 120, 90)]) == Detections.empty(LABELS)
    assert detector(blocks(), ignore=[]) == found


def test_a_region_that_rounding_leaves_without_area_hides_no_other_one(detector: Detector) -> None:
    """The width is the smallest number above 0; an image that is made less than half as wide leaves nothing of it."""
    tiny = (0, 0, np.finfo(np.float32).smallest_subnormal, 10)
    assert detector(blocks(900, 1200), ignore=[tiny, (0, 0, 1200, 900)]) == Detections.empty(LABELS)


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ([(0, 0, 10)], "ignore must be a list of regions of four numbers each"),
        ((0, 0, 10, 10), "ignore must be a list of regions of four numbers each"),
        ([(0, 0, 10, 10), "all"], "ignore must be a list of regions, got"),
        ([(0, 0, float("nan"), 10)], "ignore must be a list of regions of four numbers each"),
        ([(10, 0, 10, 10)], "ignore has a region without area"),
        ([(0, 0, 1, 1)] * 65, "ignore may name 64 regions, got 65; join some of them"),
    ],
)
def test_bad_regions(detector: Detector, ignore: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector(blocks(), ignore=ignore)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(picture: Callable[..., Image], tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    PillowImage.fromarray(picture()).save(path)
    return path


def test_detect_takes_every_switch(model_path: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    switches = ["--suppression", "soft_gaussian", "--sigma", "0.3", "--across-classes", "--max-per-class", "3"]
    switches += ["--max-detections", "8", "--iou", "0.4", "--score", "person=0.3, dog=0.2", "--ignore", "0,0,50,50"]
    assert main(["detect", str(photo), "--model", str(model_path), "--json", str(target), *switches]) == 0
    rule = Suppression("soft_gaussian", True, 0.4, 0.3, max_per_class=3, max_detections=8)
    with on_cpu(model_path, suppression=rule, score_threshold={"person": 0.3, "dog": 0.2}) as detector:
        assert json.loads(target.read_text())[0]["detections"] == detector(photo, ignore=[(0, 0, 50, 50)]).to_dicts()


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (["--ignore", "0,0,50,0"], "ignore has a region without area"),
        (["--score", "person=2"], "--score must be a number from 0 to 1, got 2.0"),
        (["--sigma", "0"], "sigma must be a number above 0"),
    ],
)
def test_what_the_command_says_of_bad_switches(
    model_path: Path, photo: Path, capsys: pytest.CaptureFixture[str], switches: list[str], message: str
) -> None:
    assert main(["detect", str(photo), "--model", str(model_path), *switches]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (["--ignore", "0,0,50"], "argument --ignore: expected four numbers such as 0,0,640,120, got '0,0,50'"),
        (["--ignore", "0,0,50,y"], "argument --ignore: expected four numbers"),
        (
            ["--score", "person=high"],
            "argument --score: invalid float value: 'person=high'; expected a score such as 0.5, or",
        ),
        (["--suppression", "soft"], "argument --suppression: invalid choice: 'soft'"),
    ],
)
def test_what_the_parser_says_of_bad_switches(
    photo: Path, capsys: pytest.CaptureFixture[str], switches: list[str], message: str
) -> None:
    assert main(["detect", str(photo), *switches]) == 2
    assert message in capsys.readouterr().err
