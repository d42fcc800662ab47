"""`ModelSpec` as JSON: there and back, what is refused, and the files of every released format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import DATA
from small_spec import small_spec

from retinasdk import BoxCoder, Level, ModelError, ModelSpec, Normalise, Resize

FORMAT1 = DATA / "spec_format1.json"
NAN = float("nan")


def altered(path: tuple[str | int, ...], value: Any) -> str:
    """The JSON of `small_spec` with one entry changed; the value `...` removes it."""
    content = json.loads(small_spec().to_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("topk",), 5, "unknown field topk; known are name, flavour"),
        (("resize", "fill"), 0, "unknown field resize.fill"),
        (("levels", 0, "strides"), [8, 8], "unknown field levels[0].strides"),
        (("labels",), ..., "field labels is missing"),
        (("resize",), ..., "field resize is missing"),
        (("resize", "size"), ..., "field resize.size is missing"),
        (("levels", 0, "stride"), ..., "field levels[0].stride is missing"),
        (("labels",), "person", "labels must be a list, got 'person'"),
        (("labels",), ["a", 1], "labels[1] must be of type str, got 1"),
        (("labels",), None, "labels must be a list, got None"),
        (("levels",), {}, "levels must be a list"),
        (("levels", 0), [], "levels[0] must be an object"),
        (
            ("levels", 0, "base_anchors", 0),
            [1, 2, 3],
            "a base anchor must be (x1, y1, x2, y2), finite, with x1 < x2 and y1 < y2, got (1.0, 2.0, 3.0)",
        ),
        (("levels", 0, "base_anchors", 0, 2), "8", "levels[0].base_anchors[0][2] must be of type float, got '8'"),
        (("levels", 0, "stride"), 8, "levels[0].stride must be a list, got 8"),
        (("resize",), "squash", "resize must be an object"),
        (("resize", "size"), [64.5, 96], "resize.size[0] must be of type int, got 64.5"),
        (("resize", "antialias"), 1, "resize.antialias must be of type bool, got 1"),
        (("normalise", "mean"), [0, 0, True], "normalise.mean[2] must be of type float, got True"),
        (("top_k",), True, "top_k must be of type int, got True"),
        (("top_k",), 10.0, "top_k must be of type int, got 10.0"),
        (("score_threshold",), "0.5", "score_threshold must be of type float, got '0.5'"),
        (("score_threshold",), 1.5, "score_threshold must be from 0 to 1, got 1.5"),
        (("score_threshold",), NAN, "score_threshold must be from 0 to 1, got nan"),
        (("inclusive_pixels",), 1, "inclusive_pixels must be of type bool, got 1"),
        (("nms_across_classes",), 0, "nms_across_classes must be of type bool, got 0"),
        (("nms_comparison",), "<", "nms_comparison must be one of ('>', '>='), got '<'"),
        (
            ("box_coder", "kind"),
            "edges",
            "box_coder.kind must be one of ('center', 'corner', 'center_angle', 'center_sin_cos'), got 'edges'",
        ),
        (("box_coder", "means"), [0, 0], "box_coder.means must be four finite numbers, got (0.0, 0.0)"),
        (("box_coder", "clamp_min"), "-4", "box_coder.clamp_min must be of type float, got '-4'"),
        (("source",), ["me"], "source must be an object"),
        (("source",), {"year": 2020}, "source.year must be of type str, got 2020"),
        (("format",), 2, 'a model spec must have "format": 1, got 2'),
        pytest.param(("score_threshold",), 10**400, "score_threshold", id="huge number"),
        (("format",), True, 'a model spec must have "format": 1, got True'),
        (("format",), "1", "a model spec must have \"format\": 1, got '1'"),
        (("format",), ..., 'a model spec must have "format": 1, got None'),
    ],
)
def test_broken_json_names_the_field(path: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        ModelSpec.from_json(altered(path, value), origin="model.json")
    assert str(caught.value).startswith("model.json: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not valid JSON"),
        ("{", "it is not valid JSON"),
        ("[" * 100_000, "it is not valid JSON"),
        ("[1]", "a model spec must be a JSON object, got list"),
        ("null", "a model spec must be a JSON object, got NoneType"),
        ("{}", '"format": 1, got None'),
    ],
)
def test_text_that_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(text)


def test_left_out_fields_have_their_defaults() -> None:
    content = json.loads(small_spec().to_json())
    for name in (
        "input",
        "box_coder",
        "ignore_labels",
        "top_k",
        "clip",
        "source",
        "nms_iou_threshold",
        "max_detections",
        "score_comparison",
        "nms_comparison",
        "clip_limit",
        "drop_empty",
        "inclusive_pixels",
        "nms_across_classes",
    ):
        del content[name]
    assert ModelSpec.from_json(json.dumps(content)) == small_spec()


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    spec = small_spec(labels=("Mädchen", "人", 'a "quoted" \\ one'), source={"a": "b"})
    spec.save(path)
    spec.save(path)  # over itself
    assert ModelSpec.load(path) == spec
    assert [item.name for item in tmp_path.iterdir()] == ["spec.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError, match="folder"):
        small_spec().save(target)
    assert list(tmp_path.rglob("*")) == [target]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b""], ids=["missing", "not-utf8", "empty"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json"):
        ModelSpec.load(path)


def test_format_1_stays_readable() -> None:
    spec = ModelSpec.load(FORMAT1)
    assert (spec.name, spec.flavour, spec.labels) == ("shelf 0.1", "torchvision", ("__background__", "bolt", "nut"))
    assert spec.levels[0] == Level("cls_p3", "box_p3", ((-23.0, -11.0, 23.0, 11.0), (-16.5, -16.0, 16.5, 16.0)), None)
    assert spec.levels[1].stride == (16.0, 15.5)
    assert spec.resize == Resize("longest", (640,), "half_up", True)
    assert spec.normalise == Normalise((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "BGR")
    assert (spec.input, spec.pad_multiple, spec.clip) == ("pixels", 128, "padded")
    assert spec.box_coder == BoxCoder((10.0, 10.0, 5.0, 5.0), None)
    assert (spec.score_threshold, spec.nms_iou_threshold, spec.top_k, spec.max_detections) == (0.25, 0.45, 500, 100)
    assert (spec.ignore_labels, dict(spec.source)) == (("__background__",), {"data": "made up"})
    # Fields that came later mean what was the only rule then.
    assert (spec.box_coder.kind, spec.box_coder.clamp_min, spec.box_coder.means) == ("center", None, (0, 0, 0, 0))
    assert (spec.score_comparison, spec.nms_comparison) == (">", ">")
    assert (spec.clip_limit, spec.drop_empty, spec.inclusive_pixels) == ("edge", "never", False)
    assert spec.nms_across_classes is False
    assert ModelSpec.from_json(spec.to_json()) == spec


def _spec_strategy() -> st.SearchStrategy[ModelSpec]:
    number = st.floats(-1e6, 1e6)
    above_zero = st.floats(1e-3, 1e6)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["[  ]", "[1,  2]", "{ }"])
    anchor = st.tuples(number, number, above_zero, above_zero).map(lambda a: (a[0], a[1], a[0] + a[2], a[1] + a[3]))

    def levels(count: int) -> st.SearchStrategy[tuple[Level, ...]]:
        anchors = st.lists(anchor, min_size=count, max_size=count).map(tuple)
        stride = st.none() | st.tuples(above_zero, above_zero)
        numbered = st.lists(st.tuples(anchors, stride), min_size=1, max_size=3)
        return numbered.map(lambda items: tuple(Level(f"l{i}", f"d{i}", *item) for i, item in enumerate(items)))

    side = st.integers(1, 65536)
    rounding = st.sampled_from(["floor", "half_up"])
    sizes = {"shortest": st.tuples(side, side), "longest": st.tuples(side), "squash": st.tuples(side, side)}
    sizes["fit"] = sizes["squash"]
    resize = st.one_of(
        [st.builds(Resize, st.just(rule), size, rounding, st.booleans()) for rule, size in sizes.items()]
    )
    return st.builds(
        ModelSpec,
        name=text,
        flavour=text,
        labels=st.lists(text, min_size=1, max_size=4).map(tuple),
        levels=st.integers(1, 3).flatmap(levels),
        resize=resize,
        normalise=st.builds(
            Normalise,
            st.tuples(number, number, number),
            st.tuples(above_zero, above_zero, above_zero),
            st.sampled_from(["RGB", "BGR"]),
        ),
        pad_multiple=st.integers(1, 4096),
        pad_at_least=st.integers(0, 4096),
        input=text,
        box_coder=st.builds(
            BoxCoder,
            st.tuples(*[above_zero] * 4),
            st.none() | above_zero,
            st.none() | above_zero.map(lambda bound: -bound),
            st.tuples(*[number] * 4),
        )
        | st.builds(
            BoxCoder, st.tuples(*[above_zero] * 4), st.none(), means=st.tuples(*[number] * 4), kind=st.just("corner")
        ),
        score_threshold=st.floats(0, 1),
        top_k=st.integers(1, 1 << 20),
        clip=st.sampled_from(["resized", "padded", "original", "none"]),
        nms_iou_threshold=st.floats(0, 1),
        max_detections=st.integers(1, 1 << 20),
        score_comparison=st.sampled_from([">", ">="]),
        nms_comparison=st.sampled_from([">", ">="]),
        clip_limit=st.sampled_from(["edge", "last_pixel"]),
        drop_empty=st.sampled_from(["never", "before_nms", "after_nms"]),
        inclusive_pixels=st.booleans(),
        nms_across_classes=st.booleans(),
        source=st.dictionaries(text, text, max_size=3),
    )


@settings(max_examples=60)
@given(_spec_strategy())
def test_json_round_trip_is_exact(spec: ModelSpec) -> None:
    text = spec.to_json()
    assert ModelSpec.from_json(text) == spec
    assert ModelSpec.from_json(text).to_json() == text
