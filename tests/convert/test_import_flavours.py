"""The presets of the frameworks, against numbers from the sources of those frameworks."""

from __future__ import annotations

import itertools

import pytest
from foreign.not_retinanets import other_heads
from foreign.torchvision_graph import CORNERS
from hypothesis import assume, given
from hypothesis import strategies as st

from retinasdk import BoxCoder, ModelError, ModelSpec, Normalise, Resize
from retinasdk.convert.flavours import flavour_spec, list_flavours, load_preset
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import find_heads

LN_1000_16 = 4.135166556742356
RGB = Normalise((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

# The first four base anchors of P3, to four decimals.
P3 = {
    "torchvision": [(-23, -11, 23, 11), (-28, -14, 28, 14), (-35, -18, 35, 18), (-16, -16, 16, 16)],
    "mlperf": [(-23, -11, 23, 11), (-28, -14, 28, 14), (-35, -18, 35, 18), (-16, -16, 16, 16)],
    "detectron2": [
        (-22.6274, -11.3137, 22.6274, 11.3137),
        (-16, -16, 16, 16),
        (-11.3137, -22.6274, 11.3137, 22.6274),
        (-28.5088, -14.2544, 28.5088, 14.2544),
    ],
    "mmdet": [
        (-22.6274, -11.3137, 22.6274, 11.3137),
        (-28.5088, -14.2544, 28.5088, 14.2544),
        (-35.9188, -17.9594, 35.9188, 17.9594),
        (-16, -16, 16, 16),
    ],
    "odtk": [
        (-12, -12, 20, 20),
        (-7.3137, -18.6274, 15.3137, 26.6274),
        (-18.6274, -7.3137, 26.6274, 15.3137),
        (-16.1587, -16.1587, 24.1587, 24.1587),
    ],
    "keras-retinanet": [
        (-18.6274, -7.3137, 26.6274, 15.3137),
        (-24.5088, -10.2544, 32.5088, 18.2544),
        (-31.9188, -13.9594, 39.9188, 21.9594),
        (-12, -12, 20, 20),
    ],
}
P3["tf-models"] = [  # Width / height 0.5, 1 and 2, around (4, 4).
    (-7.3137, -18.6274, 15.3137, 26.6274),
    (-12, -12, 20, 20),
    (-18.6274, -7.3137, 26.6274, 15.3137),
    (-10.2544, -24.5088, 18.2544, 32.5088),
]
P3["mmdeploy"] = P3["mmdet"]
P3["keras-hub"] = P3["torchvision"]
P3["pytorch-retinanet"] = P3["keras-retinanet"]


def test_mlperf_has_the_names_of_its_classes() -> None:
    names = flavour_spec("mlperf").labels
    assert len(set(names)) == len(names) == 264
    assert (names[0], names[80], names[261], names[263]) == ("Airplane", "Duck", "Woman", "Zucchini")
    assert list(names) == sorted(names)  # As in the lists of MLPerf's scripts.


def test_every_framework_is_here() -> None:
    rotated = ["mmrotate-le135", "mmrotate-le90", "mmrotate-oc", "odtk-rotated"]  # See test_rotated.py.
    assert list_flavours() == sorted([*P3, *rotated])


@pytest.mark.parametrize("flavour", P3)
def test_base_anchors(flavour: str) -> None:
    levels = flavour_spec(flavour).levels
    for found, wanted in zip(levels[0].base_anchors, P3[flavour], strict=False):
        assert found == pytest.approx(wanted, abs=5e-5)
    if flavour in ("torchvision", "mlperf", "keras-hub"):  # rounded, so that a level is not twice the one below
        for level, corners in zip(levels, CORNERS, strict=True):
            assert level.base_anchors == tuple((-x, -y, x, y) for x, y in corners)
    else:
        for lower, upper in itertools.pairwise(levels):
            for small, large in zip(lower.base_anchors, upper.base_anchors, strict=True):
                assert large == pytest.approx([2 * side for side in small])


@pytest.mark.parametrize("flavour", P3)
def test_strides(flavour: str) -> None:
    strides = [level.stride for level in flavour_spec(flavour).levels]
    if flavour in ("torchvision", "mlperf", "odtk", "keras-hub"):
        assert strides == [None] * 5
    else:
        assert strides == [(8, 8), (16, 16), (32, 32), (64, 64), (128, 128)]


@pytest.mark.parametrize(
    ("flavour", "coder", "clip", "drop_empty", "most"),
    [
        ("torchvision", BoxCoder(clamp_max=LN_1000_16), ("resized", "edge"), "never", 300),
        ("mlperf", BoxCoder(clamp_max=LN_1000_16), ("resized", "edge"), "never", 300),
        ("detectron2", BoxCoder(clamp_max=LN_1000_16), ("original", "edge"), "after_nms", 100),
        ("mmdet", BoxCoder(clamp_max=LN_1000_16, clamp_min=-LN_1000_16), ("resized", "edge"), "before_nms", 100),
        ("mmdeploy", BoxCoder(clamp_max=LN_1000_16, clamp_min=-LN_1000_16), ("padded", "edge"), "never", 100),
        ("odtk", BoxCoder(clamp_max=None), ("level", "last_pixel"), "never", 100),
        (
            "keras-retinanet",
            BoxCoder((5.0, 5.0, 5.0, 5.0), clamp_max=None, kind="corner"),
            ("padded", "last_pixel"),
            "never",
            300,
        ),
        ("pytorch-retinanet", BoxCoder((10.0, 10.0, 5.0, 5.0), clamp_max=None), ("padded", "edge"), "never", 65536),
        ("tf-models", BoxCoder(clamp_max=LN_1000_16), ("padded", "edge"), "never", 100),
    ],
)
def test_boxes(flavour: str, coder: BoxCoder, clip: tuple[str, str], drop_empty: str, most: int) -> None:
    spec = flavour_spec(flavour)
    assert spec.box_coder == coder
    assert (spec.clip, spec.clip_limit) == clip
    assert (spec.drop_empty, spec.max_detections) == (drop_empty, most)
    assert spec.inclusive_pixels == (flavour == "odtk")
    assert spec.top_k == (65536 if flavour in ("keras-retinanet", "pytorch-retinanet", "tf-models") else 1000)
    assert spec.top_k_unit == ("anchor" if flavour == "mmdeploy" else "pair")
    assert (spec.score_threshold, spec.nms_iou_threshold) == (0.05, 0.5)


@pytest.mark.parametrize(
    ("flavour", "resize", "normalise", "multiple", "classes"),
    [
        ("torchvision", Resize("shortest", (800, 1333)), RGB, 32, 91),
        ("mlperf", Resize("squash", (800, 800)), RGB, 32, 264),
        (
            "detectron2",
            Resize("shortest", (800, 1333), "half_up", antialias=True, eight_bit=True),
            Normalise((103.53, 116.28, 123.675), (1, 1, 1), "BGR"),
            32,
            80,
        ),
        ("mmdet", Resize("shortest", (800, 1333), "half_up", eight_bit=True), RGB, 32, 80),
        ("mmdeploy", Resize("shortest", (800, 1333), "half_up", eight_bit=True), RGB, 32, 80),
        ("odtk", Resize("shortest", (800, 1333), antialias=True, eight_bit=True), RGB, 128, 80),
        (
            "keras-retinanet",
            Resize("shortest", (800, 1333), "half_even", source_step="scale", eight_bit=True),
            Normalise((103.939, 116.779, 123.68), (1, 1, 1), "BGR"),
            1,
            80,
        ),
        ("pytorch-retinanet", Resize("shortest", (608, 1024), "half_up", antialias=True), RGB, 32, 80),
        ("tf-models", Resize("fit", (640, 640), "half_even"), RGB, 1, 90),
    ],
)
def test_images(flavour: str, resize: Resize, normalise: Normalise, multiple: int, classes: int) -> None:
    spec = flavour_spec(flavour)
    assert spec.resize == resize
    assert spec.normalise.mean == pytest.approx(normalise.mean)
    assert spec.normalise.std == pytest.approx(normalise.std)
    assert spec.normalise.channels == normalise.channels
    assert (spec.pad_multiple, len(spec.labels)) == (multiple, classes)


@pytest.mark.parametrize("flavour", P3)
def test_presets_survive_their_files(flavour: str) -> None:
    spec = flavour_spec(flavour)
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert spec.flavour == flavour


def test_labels_of_eighty_classes_are_those_of_ninety_one_without_the_gaps() -> None:
    eighty, ninety_one = flavour_spec("detectron2").labels, flavour_spec("torchvision").labels
    assert (eighty[0], eighty[11], eighty[79]) == ("person", "stop sign", "toothbrush")
    assert (ninety_one[13], ninety_one[12]) == ("stop sign", "N/A")
    assert len(set(eighty)) == 80


def test_both_versions_of_torchvisions_model_have_its_rules() -> None:
    assert load_preset("torchvision-v1") == load_preset("torchvision-v2") == load_preset("torchvision")


# -- heads of any size -------------------------------------------------------------------------------------------------


@given(anchors=st.integers(1, 12), classes=st.integers(1, 40), levels=st.integers(3, 7), swap=st.booleans())
def test_heads_of_any_number_of_anchors_classes_and_levels(anchors: int, classes: int, levels: int, swap: bool) -> None:
    sets = [[anchors * classes] * levels, [anchors * 4] * levels]
    view = GraphView(other_heads(*(reversed(sets) if swap else sets)))
    if classes == 4:
        with pytest.raises(
            ModelError, match=r"each may be the class head or the box head|3 to 7 matching convolutions"
        ):
            find_heads(view, anchors=anchors)
        return
    heads = find_heads(view, anchors=anchors)
    assert (heads.anchors, heads.classes, len(heads.logits.tensors)) == (anchors, classes, levels)
    assert not heads.logits.shares_weights
    assert all(name.startswith(f"head_{int(swap)}_") for name in heads.logits.tensor_names)


@given(channels=st.tuples(st.integers(1, 400), st.integers(1, 400)))
def test_heads_without_a_common_number_of_anchors(channels: tuple[int, int]) -> None:
    first, second = channels
    assume(first != second)
    has_common = any(b % 4 == 0 and a % (b // 4) == 0 for a, b in ((first, second), (second, first)))
    view = GraphView(other_heads([first] * 5, [second] * 5))
    if has_common:
        heads = find_heads(view, anchors=9, values=(4,)) if not _is_open(first, second) else None
        assert heads is None or heads.anchors * 4 in channels
    else:
        with pytest.raises(ModelError, match="no number of anchors A fits these"):
            find_heads(view, anchors=9, values=(4,))


def _is_open(first: int, second: int) -> bool:
    """Either may be the box head, and neither of them has nine anchors."""
    return (
        first % 4 == second % 4 == 0
        and first % (second // 4) == second % (first // 4) == 0
        and 36
        not in (
            first,
            second,
        )
    )
