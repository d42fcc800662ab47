"""Seeded inputs and hand-written edges for the native core. NumPy only, so the torch-side scripts can use it too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import reference

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

INF, NAN = float("inf"), float("nan")
CLAMP_MAX = 4.135166556742356  # ln(1000 / 16)
# torchvision's three ratios at one size, P3
BASE = np.array([[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]], dtype=np.float32)


# -- decode ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodeCase:
    """Arguments of decode(), one entry per level in the lists: logits (N, A * K, H, W), deltas (N, A * 4, H, W)."""

    name: str
    logits: list[Floats]
    deltas: list[Floats]
    base_anchors: list[Floats]
    strides: list[tuple[float, float]]
    clip_sizes: Floats
    logit_threshold: float = -2.0
    top_k: int = 1000
    coder_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    coder_clamp_max: float = CLAMP_MAX
    class_ids: list[int] = field(default_factory=list)
    coder_kind: str = "center"
    coder_means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    coder_clamp_min: float = -INF
    inclusive_pixels: bool = False
    or_equal: bool = False
    drop_empty: bool = False
    class_thresholds: Floats | None = None
    ignored: Floats | None = None
    level_clips: list[tuple[float, float]] = field(default_factory=list)
    top_k_anchors: bool = False

    @property
    def batch(self) -> int:
        return len(self.clip_sizes)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of _native.decode."""
        positional = ("name", "logits", "deltas", "base_anchors")
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in positional}

    def expected(self, image: int) -> reference.Found:
        levels = [
            reference.Level(logits[image], deltas[image], base, stride)
            for logits, deltas, base, stride in zip(
                self.logits, self.deltas, self.base_anchors, self.strides, strict=True
            )
        ]
        return reference.decode(
            levels,
            clip_size=tuple(self.clip_sizes[image]),
            top_k=self.top_k,
            logit_threshold=self.logit_threshold,
            coder=reference.Coder(
                self.coder_weights,
                self.coder_clamp_max,
                self.coder_clamp_min,
                self.coder_means,
                self.coder_kind,
                self.inclusive_pixels,
            ),
            class_ids=self.class_ids,
            or_equal=self.or_equal,
            drop_empty=self.drop_empty,
            class_thresholds=self.class_thresholds,
            ignored=None if self.ignored is None else self.ignored[image],
            level_clips=self.level_clips,
            top_k_anchors=self.top_k_anchors,
        )


def random_heads(
    seed: int,
    *,
    batch: int = 1,
    anchors: int = 3,
    classes: int = 4,
    sizes: Sequence[tuple[int, int]] = ((6, 5), (3, 3)),
    strides: Sequence[tuple[float, float]] | None = None,
    name: str = "random",
    **options: Any,
) -> DecodeCase:
    """Normal logits and small deltas; sizes are (rows, columns) per level."""
    random = np.random.default_rng(seed)
    strides = strides or [(8.0 * 2**i, 8.0 * 2**i) for i in range(len(sizes))]
    extent = (sizes[0][0] * strides[0][0], sizes[0][1] * strides[0][1])
    half = 4.0 + 20.0 * random.random((anchors, 2))
    base = np.concatenate([-half, half], axis=1).astype(np.float32)
    arguments: dict[str, Any] = {
        "name": name,
        "logits": [random.normal(-1.0, 2.0, (batch, anchors * classes, *size)).astype(np.float32) for size in sizes],
        "deltas": [random.normal(0.0, 0.5, (batch, anchors * 4, *size)).astype(np.float32) for size in sizes],
        "base_anchors": [base * np.float32(2**i) for i in range(len(sizes))],
        "strides": list(strides),
        "clip_sizes": np.array([[extent[0] - 3 * i, extent[1] - i] for i in range(batch)], dtype=np.float32),
    }
    return DecodeCase(**{**arguments, **options})


def with_rules(case: DecodeCase, seed: int) -> DecodeCase:
    """`case` with the rules of some flavour or other: each option as likely as not."""
    random = np.random.default_rng(seed)

    def one_of(*values: Any) -> Any:
        return values[random.integers(len(values))]

    return replace(
        case,
        coder_kind=one_of("center", "corner"),
        coder_weights=one_of((1.0, 1.0, 1.0, 1.0), (5.0, 5.0, 5.0, 5.0), (10.0, 7.5, 5.0, 3.0)),
        coder_means=one_of((0.0, 0.0, 0.0, 0.0), (0.25, -0.5, 0.125, 0.1)),
        coder_clamp_max=one_of(CLAMP_MAX, 0.5, INF),
        coder_clamp_min=one_of(-CLAMP_MAX, -0.25, -INF),
        inclusive_pixels=one_of(False, True),
        or_equal=one_of(False, True),
        drop_empty=one_of(False, True),
        clip_sizes=one_of(case.clip_sizes, np.full_like(case.clip_sizes, -1), np.floor(case.clip_sizes / 2)),
        level_clips=one_of([], [], [(20.0 + 7 * i, 25.0 - i) for i in range(len(case.logits))]),
        top_k_anchors=one_of(False, False, True),
    )


def with_overlap_rules(case: DecodeCase, seed: int) -> DecodeCase:
    """`case` with thresholds by class, of which some let nothing through, and regions to ignore, of which some end."""
    random = np.random.default_rng(seed)
    classes = case.logits[0].shape[1] // len(case.base_anchors[0])
    thresholds = random.choice(np.array([-INF, -1.5, 0.0, 1.0, NAN], np.float32), classes)
    corners = random.integers(0, 40, (case.batch, random.integers(0, 4), 2)).astype(np.float32)
    ignored = np.concatenate([corners, corners + random.integers(0, 60, corners.shape)], axis=2)
    return replace(case, class_thresholds=thresholds, ignored=ignored.astype(np.float32))


def with_logits(case: DecodeCase, values: Floats | float, **changes: Any) -> DecodeCase:
    """`case` with every logit replaced: one value, or the entries of an array over and over."""
    logits = [np.resize(np.asarray(values, dtype=np.float32), old.shape) for old in case.logits]
    return replace(case, logits=logits, **changes)


def sprinkled(case: DecodeCase, seed: int) -> DecodeCase:
    """`case` with NaN and infinities in one logit and one delta of seven."""
    random = np.random.default_rng(seed)
    odd = np.array([NAN, INF, -INF, 1e30, -1e30, 88.0, 3e38], dtype=np.float32)

    def spoil(values: Floats) -> Floats:
        hit = random.random(values.shape) < 1 / 7
        return np.where(hit, random.choice(odd, values.shape), values).astype(np.float32)

    return replace(case, logits=[spoil(a) for a in case.logits], deltas=[spoil(a) for a in case.deltas])


def decode_cases() -> Iterator[DecodeCase]:
    """Everything that test_decode.py holds against the oracle."""
    yield random_heads(1, name="one level, one cell", sizes=[(1, 1)], anchors=1, classes=1, logit_threshold=-9.0)
    for seed, (batch, anchors, classes) in enumerate([(1, 1, 91), (3, 9, 1), (1, 4, 7), (3, 2, 80), (1, 9, 91)]):
        yield random_heads(seed, name=f"N{batch} A{anchors} K{classes}", batch=batch, anchors=anchors, classes=classes)
    ragged = [(13, 17), (7, 9), (4, 5), (2, 3), (1, 2)]
    yield random_heads(11, name="ragged levels", sizes=ragged, top_k=50)
    yield random_heads(
        12, name="strides by axis", sizes=[(7, 11), (4, 6)], strides=[(61.0, 64.0), (114.0, 122.0)], top_k=40
    )
    yield random_heads(13, name="fractional strides", sizes=[(5, 3)], strides=[(7.5, 3.25)])
    unclipped = np.array([[-1, -1], [40, -1], [-1, 30]], dtype=np.float32)
    yield random_heads(14, name="clip none, rows, columns", batch=3, clip_sizes=unclipped)
    by_level = [(30.0, 25.5), (-1.0, 20.0)]
    yield random_heads(42, name="clip by level", batch=2, level_clips=by_level, drop_empty=True)
    for top_k in (1, 7, 90):
        yield random_heads(43, name=f"top {top_k} anchors", batch=2, classes=7, top_k=top_k, top_k_anchors=True)
    some = {"top_k_anchors": True, "class_ids": [3, 1], "top_k": 20, "or_equal": True}
    yield with_logits(random_heads(44, name="ties of anchors, some classes", **some), np.array([0.0, 1, 2, 1, 2, -0.0]))
    yield sprinkled(random_heads(45, name="anchors, NaN and infinity", batch=2, top_k=9, top_k_anchors=True), 46)
    many = random_heads(47, name="many anchors", anchors=9, classes=5, sizes=[(40, 50), (3, 2)], logit_threshold=-9.0)
    yield replace(many, top_k_anchors=True, top_k=1000)
    yield random_heads(15, name="coder weights", coder_weights=(10.0, 5.0, 2.0, 4.0))
    yield random_heads(16, name="tight clamp", coder_clamp_max=0.25)
    yield random_heads(17, name="no clamp", coder_clamp_max=INF)
    mmdetection = {"coder_clamp_min": -CLAMP_MAX, "drop_empty": True}
    yield random_heads(25, name="clamped on both sides", coder_clamp_max=0.25, coder_clamp_min=-0.25)
    yield sprinkled(random_heads(26, name="clamped on both sides, NaN and infinity", **mmdetection), 27)
    yield random_heads(28, name="means", coder_means=(0.5, -0.5, 0.1, -0.1), coder_weights=(10.0, 5.0, 2.0, 4.0))
    keras = {"coder_kind": "corner", "coder_weights": (5.0, 5.0, 5.0, 5.0), "coder_clamp_max": INF}
    yield random_heads(29, name="corners", batch=2, **keras)
    yield sprinkled(random_heads(30, name="corners, NaN and infinity", batch=2, **keras), 31)
    odtk = {"inclusive_pixels": True, "coder_clamp_max": INF}
    yield random_heads(32, name="plus one", batch=2, **odtk)
    yield sprinkled(random_heads(33, name="plus one, NaN and infinity", batch=2, **odtk), 34)
    # Half of the cells lie beyond the limit, so that many boxes have no area left.
    half = np.array([[20, 20], [0, 20]], dtype=np.float32)
    for inclusive_pixels in (False, True):
        options = {"drop_empty": True, "inclusive_pixels": inclusive_pixels, "clip_sizes": half, "top_k": 60}
        yield random_heads(35, name=f"empty boxes dropped, plus one {inclusive_pixels}", batch=2, **options)
    for threshold in (-INF, -1.5, 0.0, 3.0, INF):
        coarse = np.array([-INF, -1.5, -0.0, 0.0, 3.0, INF, NAN, 1.0], dtype=np.float32)
        equal = random_heads(36, name=f"at the threshold of {threshold}", or_equal=True, logit_threshold=threshold)
        yield with_logits(equal, coarse)
    for seed in range(12):
        yield with_rules(random_heads(seed, name=f"rules {seed}", batch=2, top_k=40), seed)
        yield with_overlap_rules(random_heads(seed, name=f"overlap rules {seed}", batch=2, top_k=40), seed)
        both = with_rules(
            random_heads(seed, name=f"rules and overlap rules {seed}", batch=2, class_ids=[0, 2, 3]), seed
        )
        yield with_overlap_rules(both, seed + 100)
    for class_ids in ([0], [3], [1, 3], [3, 0], [0, 1, 2, 3]):
        yield random_heads(18, name=f"only classes {class_ids}", class_ids=class_ids, top_k=30)
    for top_k in (1, 2, 31, 32, 33):
        yield random_heads(19, name=f"top {top_k}", top_k=top_k)
    yield sprinkled(random_heads(20, name="NaN and infinity", batch=3), 21)
    yield sprinkled(random_heads(22, name="NaN and infinity, no clamp", coder_clamp_max=INF, logit_threshold=-INF), 23)
    small = random_heads(24, batch=3)
    yield with_logits(small, NAN, name="all NaN")
    yield with_logits(small, -INF, name="all -infinity, threshold -infinity", logit_threshold=-INF)
    yield with_logits(small, INF, name="all infinity", top_k=9)
    yield with_logits(small, 3.0, name="equal to the threshold", logit_threshold=3.0)
    yield with_logits(small, 3.0, name="threshold infinity", logit_threshold=INF)
    signed_zeros = np.array([-0.0, 0.0, 0.0, -0.0, -0.0], dtype=np.float32)
    yield with_logits(small, signed_zeros, name="-0 ties with +0", top_k=11)
    # Scores of all of these round to 1 in float32, yet their order stands.
    saturated = np.array([20.0, 30.0, 88.0, 1e4, 17.5, 25.0, 3e38], dtype=np.float32)
    yield with_logits(small, saturated, name="saturated scores", top_k=13)
    yield from selection_cases()


def selection_cases() -> Iterator[DecodeCase]:
    """More candidates than the selection's buffer holds: max(4 * top_k, 8192) keys, filtered 4096 at a time."""
    random = np.random.default_rng(40)
    big = random_heads(41, anchors=9, classes=5, sizes=[(21, 20), (3, 2)])  # 18 900 pairs on the first level
    pairs = big.logits[0].size
    for top_k in (1, 7, 2048, 2049, 4000, 18_900):
        yield with_logits(big, 1.0, name=f"all equal, top {top_k}", top_k=top_k)
    yield with_logits(big, np.arange(pairs) / pairs, name="each better than the last", top_k=100)
    yield with_logits(big, -np.arange(pairs) / pairs, name="each worse than the last", top_k=100)
    few = random.integers(-3, 4, pairs).astype(np.float32)
    for top_k in (10, 3000):
        yield with_logits(big, few, name=f"seven different logits, top {top_k}", top_k=top_k, logit_threshold=-4.0)
    yield with_logits(big, few, name="ties, some classes", top_k=300, class_ids=[4, 1, 2], logit_threshold=-4.0)
    yield with_logits(big, INF, name="all infinity, many", top_k=5)
    zeros = np.where(random.random(pairs) < 0.5, -0.0, 0.0)
    yield with_logits(big, zeros, name="-0 ties with +0, many", top_k=77)
    lowest = np.finfo(np.float32).min
    yield with_logits(big, lowest, name="all lowest, threshold -infinity", top_k=3, logit_threshold=-INF)
    # One better pair after each buffer of ties: whether the raised threshold still lets it in.
    late = np.zeros(pairs, dtype=np.float32)
    late[4095::4096] = 1.0
    late[-1] = 2.0
    yield with_logits(big, late, name="late winners", top_k=12, logit_threshold=-1.0)


# -- NMS ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NmsCase:
    """Candidates of one image: boxes (n, 4), logits (n,), class_ids (n,)."""

    name: str
    boxes: Floats
    logits: Floats
    class_ids: Ints
    iou_threshold: float = 0.5
    max_detections: int = 300
    or_equal: bool = False
    inclusive_pixels: bool = False
    across_classes: bool = False
    max_per_class: int = 1 << 20

    def options(self) -> dict[str, Any]:
        """The keyword arguments of _native.nms."""
        names = ("iou_threshold", "max_detections", "or_equal", "inclusive_pixels", "across_classes", "max_per_class")
        return {name: getattr(self, name) for name in names}


def nms_case(name: str, boxes: Any, logits: Any = None, class_ids: Any = None, **options: Any) -> NmsCase:
    """Fills in falling logits and class 0."""
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    count = len(boxes)
    logits = np.arange(count, 0, -1) if logits is None else logits
    class_ids = np.zeros(count) if class_ids is None else class_ids
    return NmsCase(name, boxes, np.asarray(logits, dtype=np.float32), np.asarray(class_ids, dtype=np.int32), **options)


def crowd(
    seed: int, count: int, *, classes: int = 1, extent: int = 200, largest: int = 60
) -> tuple[Floats, Floats, Ints]:
    """Boxes with whole coordinates, so that float32 computes areas exactly; logits of which some are equal."""
    random = np.random.default_rng(seed)
    corner = random.integers(0, extent, (count, 2))
    boxes = np.concatenate([corner, corner + random.integers(1, largest, (count, 2))], axis=1)
    logits = random.integers(-50, 50, count) / 16
    return boxes.astype(np.float32), logits.astype(np.float32), random.integers(0, classes, count).astype(np.int32)


def scattered(seed: int, count: int, *, offset: int = 0, spread: int = 4000) -> tuple[Floats, Floats, Ints]:
    """As crowd(), with sides of 1 to 2000 pixels and corners anywhere around `offset`, of three classes."""
    random = np.random.default_rng(seed)
    corner = offset + random.integers(-spread, spread, (count, 2))
    sides = np.floor(2.0 ** random.uniform(0, 11, (count, 2))).astype(np.int64)
    boxes = np.concatenate([corner, corner + sides], axis=1).astype(np.float32)
    return (
        boxes,
        (random.integers(-50, 50, count) / 16).astype(np.float32),
        random.integers(0, 3, count).astype(np.int32),
    )


def nms_cases() -> Iterator[NmsCase]:
    """Everything that test_nms.py holds against the oracle."""
    square = [0, 0, 10, 10]
    yield nms_case("no box", [])
    yield nms_case("one box", [square])
    yield nms_case("twins", [square, square])
    yield nms_case("twins of two classes", [square, square], class_ids=[1, 0])
    yield nms_case("equal logits", [square, [1, 0, 11, 10], square], logits=[2, 2, 2])
    yield nms_case("-0 ties with +0", [square, square], logits=[-0.0, 0.0])
    yield nms_case("touching", [square, [10, 0, 20, 10], [0, 10, 10, 20], [10, 10, 20, 20]], iou_threshold=0.0)
    yield nms_case("IoU at the threshold", [square, [0, 0, 10, 5]], iou_threshold=0.5)
    yield nms_case("nested", [square, [2, 2, 4, 4], [0, 0, 9, 10]], logits=[1, 3, 2])
    # b is dropped by a, so it must not drop c.
    yield nms_case("chain", [square, [3, 0, 13, 10], [6, 0, 16, 10]], iou_threshold=0.5)
    yield nms_case("without area", [[5, 5, 5, 5], [5, 5, 5, 5], [0, 5, 10, 5]], iou_threshold=0.0)
    yield nms_case("reversed", [square, [10, 10, 0, 0], [8, 0, 2, 10]], iou_threshold=0.0)
    yield nms_case("negative", [[-20, -20, -10, -10], [-19, -20, -9, -10], [-5, -5, 5, 5]])
    odd = [square, [NAN, 0, 10, 10], [0, -INF, 10, 10], [0, 0, INF, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    yield nms_case("NaN and infinity", odd, logits=[1, 9, 9, 9, NAN, INF])
    yield nms_case("-infinity is a rank like others", [square, [20, 0, 30, 10]], logits=[-INF, 0])
    yield nms_case("threshold 1 keeps twins", [square] * 3, iou_threshold=1.0)
    yield nms_case("largest class index", [square, square], class_ids=[65_535, 0])
    # With one more pixel a side, these overlap by a row of pixels; without, they touch; the last is one pixel apart.
    neighbours = [square, [10, 0, 20, 10], [0, 10, 10, 20], [22, 0, 32, 10]]
    for inclusive_pixels in (False, True):
        yield nms_case(
            f"neighbours, plus one {inclusive_pixels}", neighbours, iou_threshold=0.0, inclusive_pixels=inclusive_pixels
        )
        for or_equal in (False, True):
            rules: dict[str, Any] = {"or_equal": or_equal, "inclusive_pixels": inclusive_pixels}
            half = [square, [0, 0, 10, 5 - inclusive_pixels * 0.5]]  # IoU 0.5 in either convention
            yield nms_case(f"at 0.5, {rules}", half, iou_threshold=0.5, **rules)
            yield nms_case(f"at 0, {rules}", neighbours, iou_threshold=0.0, **rules)
            yield nms_case(f"at 1, {rules}", [square] * 3, iou_threshold=1.0, **rules)
            yield nms_case(f"without area, {rules}", [[5, 5, 5, 5], [5, 5, 5, 5], [0, 5, 10, 5]], **rules)
            for iou_threshold in (0.0, 0.25, 0.5):
                data = crowd(9, 400, classes=2)
                yield NmsCase(f"400 boxes, {iou_threshold}, {rules}", *data, iou_threshold=iou_threshold, **rules)
    for count in (63, 64, 65, 127, 128, 129):
        yield NmsCase(f"{count} boxes", *crowd(count, count, classes=2))
    for classes in (1, 3, 91):
        for iou_threshold in (0.0, 0.25, 0.5, 0.75):
            data = crowd(classes, 500, classes=classes)
            yield NmsCase(f"500 boxes, {classes} classes, {iou_threshold}", *data, iou_threshold=iou_threshold)
    for maximum in (1, 2, 17, 499, 500, 501):
        yield NmsCase(f"at most {maximum}", *crowd(6, 500, extent=2000), max_detections=maximum)
    yield nms_case("twins of two classes, across", [square, square], class_ids=[1, 0], across_classes=True)
    # The second of class 0 is one too many, so it does not drop its neighbour of class 1.
    rivals = [square, [30, 0, 40, 10], [31, 0, 41, 10]]
    full: dict[str, Any] = {"class_ids": [0, 0, 1], "across_classes": True}
    for maximum in (1, 2):
        yield nms_case(f"at most {maximum} a class, across", rivals, max_per_class=maximum, **full)
    for across_classes in (False, True):
        for maximum in (1, 3, 20, 499):
            some: dict[str, Any] = {"across_classes": across_classes, "max_per_class": maximum}
            yield NmsCase(f"500 of 5 classes, {some}", *crowd(10, 500, classes=5, extent=600), **some)
            yield NmsCase(f"900 of 2 classes, 150 kept, {some}", *crowd(11, 900, classes=2), max_detections=150, **some)
    for spread in (400, 4000):
        for offset in (0, 1_000_000):
            some = {"iou_threshold": 0.25, "max_detections": 2000, "across_classes": offset == 0}
            yield NmsCase(
                f"2000 of all sizes, {spread} around {offset}",
                *scattered(spread, 2000, offset=offset, spread=spread),
                **some,
            )
    yield NmsCase("3000 in a heap", *crowd(7, 3000, extent=30), max_detections=3000)
    yield NmsCase("3000 of 5 classes", *crowd(8, 3000, classes=5, extent=150), max_detections=3000)
    # On the GPU, the best 1024 are found by counting logits in bins. With equal logits, all fall into one bin.
    boxes, logits, class_ids = crowd(12, 3000, classes=3, extent=1500)
    some = {"iou_threshold": 0.25, "max_detections": 3000}
    equal, few_better = np.full_like(logits, -1), np.where(np.arange(3000) % 50 == 7, logits + 4, -1).astype(np.float32)
    yield NmsCase("3000 with equal logits", boxes, equal, class_ids, **some)
    yield NmsCase("3000, of which 60 have other logits", boxes, few_better, class_ids, **some)
    yield NmsCase("3000 with logits beyond all bins", boxes, logits * 1000, class_ids, **some)
    for across_classes in (False, True):
        rules = {"across_classes": across_classes, "max_per_class": 700}
        yield NmsCase(f"3000, {rules}", boxes, logits, class_ids, **some, **rules)


# -- numbers that every platform makes alike ---------------------------------------------------------------------------


def bits(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """Raw words of PCG64: NumPy promises this stream for good, unlike those of Generator's distributions."""
    return np.random.PCG64(seed).random_raw(count)


def uniform(seed: int, *shape: int) -> npt.NDArray[np.float64]:
    """In [0, 1), exact to the bit."""
    return ((bits(seed, int(np.prod(shape))) >> np.uint64(11)) * 2.0**-53).reshape(shape)


def image(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3) noise: the hardest picture for a resize."""
    count = height * width * 3
    return bits(seed, -(-count // 8)).view(np.uint8)[:count].reshape(height, width, 3)


def scene(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3): a gradient, forty flat rectangles and a little noise."""
    values = uniform(seed, 40, 7)
    picture = np.empty((height, width, 3))
    picture[...] = np.linspace(40, 200, height)[:, None, None] + np.linspace(-30, 30, width)[None, :, None]
    for y, x, h, w, *colour in values:
        top, left = int(y * height), int(x * width)
        picture[top : top + 1 + int(h * height / 3), left : left + 1 + int(w * width / 3)] = np.array(colour) * 255
    return np.clip(picture + image(seed + 1, height, width) / 16, 0, 255).astype(np.uint8)
