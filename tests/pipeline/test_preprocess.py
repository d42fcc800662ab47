"""preprocess(): against the oracle, against literals, against Pillow, and the sizes of known frames."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
from cases import image, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retinasdk import Normalise, Resize, _native
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.preprocess import Transform, preprocess

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
IDENTITY: dict[str, Any] = {
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "reverse_channels": False,
    "antialias": False,
}


def run(
    picture: npt.NDArray[np.uint8], resized: tuple[int, int], padded: tuple[int, int] | None = None, **options: Any
) -> npt.NDArray[np.float32]:
    """Whatever was in the canvas before must be gone afterwards, hence the NaN."""
    canvas = np.full((3, *(padded or resized)), np.nan, dtype=np.float32)
    _native.preprocess_into(picture, canvas, resized=resized, **{**IDENTITY, **options})
    return canvas


def assert_as_expected(
    picture: npt.NDArray[np.uint8], resized: tuple[int, int], padded: tuple[int, int], **options: Any
) -> None:
    options = {**IDENTITY, **options}
    expected = reference.preprocess(picture, resized=resized, padded=padded, **options)
    # A float32 position is off by up to 1e-7 of the side; noise then changes by up to 255 from pixel to pixel.
    positions = 255 * 2e-7 * sum(picture.shape[:2])
    np.testing.assert_allclose(
        run(picture, resized, padded, **options), expected, rtol=1e-6, atol=(positions + 1e-4) / min(options["std"])
    )


SIZES = [
    # image, resized, padded
    ((1, 1), (1, 1), (1, 1)),
    ((1, 1), (5, 3), (8, 4)),
    ((2, 2), (4, 4), (4, 4)),
    ((7, 1), (3, 9), (3, 32)),
    ((1, 64), (1, 7), (32, 32)),
    ((33, 31), (33, 31), (64, 32)),
    ((48, 64), (80, 106), (96, 128)),
    ((96, 72), (40, 30), (64, 32)),
    ((95, 71), (31, 40), (32, 64)),
    ((64, 64), (1, 1), (1, 1)),
    ((1000, 3), (1, 1), (2, 2)),
    ((3, 1000), (2, 9), (32, 32)),
    ((101, 103), (100, 102), (128, 128)),
]


@pytest.mark.parametrize("antialias", [False, True], ids=["bilinear", "antialias"])
@pytest.mark.parametrize(("size", "resized", "padded"), SIZES)
def test_is_what_the_oracle_says(
    size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int], antialias: bool
) -> None:
    picture = image(sum(size), *size)
    assert_as_expected(picture, resized, padded, antialias=antialias)
    assert_as_expected(picture, resized, padded, antialias=antialias, mean=MEAN, std=STD, reverse_channels=True)


@pytest.mark.parametrize(
    ("pixels", "width", "antialias", "row"),
    [
        # Centres of four output pixels in two: at -0.25 (held at 0), 0.25, 0.75 and 1.25 (held at 1).
        ([0, 100], 4, False, [0, 25, 75, 100]),
        ([0, 100], 4, True, [0, 25, 75, 100]),
        # Plain bilinear to half looks at two of the pixels, halfway between them,
        ([0, 40, 80, 200], 2, False, [20, 140]),
        # the widened triangle at all within two: weights 3, 3, 1 of 7.
        ([0, 40, 80, 200], 2, True, [200 / 7, 880 / 7]),
        # To a quarter, plain bilinear misses the outer pixels: the middle of 1 2 3 4.
        ([0, 40, 80, 200], 1, False, [60]),
        # weights 5/8, 7/8, 7/8, 5/8 over 3
        ([0, 40, 80, 200], 1, True, [(40 * 7 + 80 * 7 + 200 * 5) / 24]),
        ([7], 3, False, [7, 7, 7]),
        ([1, 2, 3], 3, True, [1, 2, 3]),
    ],
)
def test_rows_computed_by_hand(pixels: list[int], width: int, antialias: bool, row: list[float]) -> None:
    for axis in (0, 1):
        picture = np.repeat(np.array(pixels, dtype=np.uint8)[None, :, None], 3, axis=2)
        resized = (1, width)
        if axis == 0:
            picture, resized = picture.transpose(1, 0, 2).copy(), (width, 1)
        for channel in run(picture, resized, antialias=antialias):
            np.testing.assert_allclose(channel.reshape(-1), row, rtol=1e-6, atol=1e-5)


def test_normalise_pad_and_channel_order() -> None:
    picture = np.array([[[10, 20, 30]]], dtype=np.uint8)
    options: dict[str, Any] = {"mean": (1.0, 2.0, 3.0), "std": (2.0, 4.0, 5.0)}
    rgb = run(picture, (1, 1), (2, 2), **options)
    bgr = run(picture, (1, 1), (2, 2), reverse_channels=True, **options)
    # mean and std are in the order of the output's channels; padding is 0 after normalisation.
    np.testing.assert_allclose(rgb[:, 0, 0], [4.5, 4.5, 5.4], rtol=1e-6)
    np.testing.assert_allclose(bgr[:, 0, 0], [14.5, 4.5, 1.4], rtol=1e-6)
    for canvas in (rgb, bgr):
        assert np.count_nonzero(canvas) == 3


@pytest.mark.parametrize(("size", "resized"), [((480, 640), (96, 131)), ((100, 37), (33, 36)), ((64, 48), (90, 100))])
def test_antialias_is_pillows(size: tuple[int, int], resized: tuple[int, int]) -> None:
    picture = scene(5, *size)
    pillow = Image.fromarray(picture).resize(resized[::-1], Image.Resampling.BILINEAR)
    ours = run(picture, resized, antialias=True).transpose(1, 2, 0)
    # Pillow rounds to whole numbers after each of its two passes.
    assert np.abs(ours - np.asarray(pillow, dtype=np.float32)).max() <= 1.01


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("way", [{"antialias": False}, {"antialias": True}, {"source_step": 1.0}], ids=str)
def test_same_size_is_the_same_image(way: dict[str, Any], eight_bit: bool) -> None:
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    gain, bias = np.float32(1) / std, -mean / std
    for width in range(1, 43):
        picture = image(width, 5, width + 2)[:, 1:-1]  # Its rows do not follow each other.
        run_it = partial(run, picture, (5, width), (6, width + 3), eight_bit=eight_bit, **way)
        for reverse in (False, True):
            wanted = np.zeros((3, 6, width + 3), np.float32)
            wanted[:, :5, :width] = picture[..., :: -1 if reverse else 1].transpose(2, 0, 1)
            np.testing.assert_array_equal(run_it(reverse_channels=reverse), wanted)
            wanted[:, :5, :width] = wanted[:, :5, :width] * gain[:, None, None] + bias[:, None, None]
            np.testing.assert_array_equal(run_it(reverse_channels=reverse, mean=MEAN, std=STD), wanted)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_another_step_moves_the_pixels_of_the_same_size(eight_bit: bool) -> None:
    picture = image(6, 29, 43)
    moved = run(picture, (29, 43), source_step=0.97, eight_bit=eight_bit)
    assert np.abs(moved - picture.transpose(2, 0, 1)).max() > 20


@pytest.mark.parametrize("antialias", [False, True])
def test_rows_may_lie_anywhere(antialias: bool) -> None:
    whole = image(7, 60, 80)
    for view in (whole[5:47, 9:73], whole[::-1], whole[::3, 1:], np.broadcast_to(whole[:1], (40, 80, 3))):
        copy = np.ascontiguousarray(view)
        assert run(view, (31, 50), antialias=antialias).tobytes() == run(copy, (31, 50), antialias=antialias).tobytes()


@pytest.mark.parametrize("reverse_channels", [False, True])
@pytest.mark.parametrize("way", [{}, {"antialias": True}, {"eight_bit": True}, {"antialias": True, "eight_bit": True}])
@pytest.mark.parametrize("resized", [(31, 50), (40, 71)], ids=["resized", "same size"])
def test_views_of_bgr_are_not_copied(way: dict[str, Any], reverse_channels: bool, resized: tuple[int, int]) -> None:
    whole = image(7, 44, 80)
    for view in (whole[2:42, 9:, ::-1], whole[41:1:-1, :71, ::-1], whole[:40, 4:75, ::-1]):
        assert view.shape == (40, 71, 3)
        options = {"mean": MEAN, "std": STD, "reverse_channels": reverse_channels, **way}
        assert run(view, resized, **options).tobytes() == run(view.copy(order="C"), resized, **options).tobytes()


def test_one_pixel_wide_views() -> None:
    """NumPy lets an axis of length 1 have any stride, and calls the array contiguous all the same."""
    view = image(12, 1, 9).transpose(1, 0, 2)
    assert view.shape == (9, 1, 3)
    assert run(view, (5, 2)).tobytes() == run(view.copy(), (5, 2)).tobytes()


def test_padding_does_not_touch_the_image() -> None:
    picture = image(8, 40, 30)
    tight, loose = run(picture, (21, 17), mean=MEAN, std=STD), run(picture, (21, 17), (64, 32), mean=MEAN, std=STD)
    assert loose[:, :21, :17].tobytes() == tight.tobytes()
    assert np.count_nonzero(loose[:, 21:]) + np.count_nonzero(loose[:, :, 17:]) == 0


def test_flat_images_stay_flat() -> None:
    for antialias in (False, True):
        for value in (0, 1, 254, 255):
            flat = run(np.full((53, 67, 3), value, dtype=np.uint8), (19, 81), antialias=antialias)
            np.testing.assert_allclose(flat, value, rtol=1e-6)


sides = st.integers(1, 40)


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(sides, sides),
    resized=st.tuples(sides, sides),
    padding=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    options=st.fixed_dictionaries({"antialias": st.booleans(), "reverse_channels": st.booleans()}),
)
def test_any_size(
    seed: int, size: tuple[int, int], resized: tuple[int, int], padding: tuple[int, int], options: dict[str, bool]
) -> None:
    padded = (resized[0] + padding[0], resized[1] + padding[1])
    assert_as_expected(image(seed, *size), resized, padded, mean=MEAN, std=STD, **options)


@pytest.mark.parametrize(
    ("frame", "floor", "half_up"),
    # Sizes that torchvision (floor) and detectron2 (half_up) give for shorter side 800, longer at most 1333.
    [
        ((480, 640), (800, 1066), (800, 1067)),
        ((720, 1280), (749, 1333), (750, 1333)),
        ((1080, 1920), (749, 1333), (750, 1333)),
        ((375, 500), (800, 1066), (800, 1067)),
        ((427, 640), (800, 1199), (800, 1199)),
        ((426, 640), (800, 1201), (800, 1202)),
        ((640, 427), (1199, 800), (1199, 800)),
        ((1, 10_000), (1, 1333), (1, 1333)),
    ],
)
def test_sizes_of_known_frames(frame: tuple[int, int], floor: tuple[int, int], half_up: tuple[int, int]) -> None:
    assert Resize("shortest", (800, 1333)).target(*frame) == floor
    assert Resize("shortest", (800, 1333), rounding="half_up").target(*frame) == half_up


def test_other_resize_rules() -> None:
    assert Resize("longest", (640,)).target(480, 1280) == (240, 640)
    assert Resize("longest", (640,)).target(320, 100) == (640, 200)
    assert Resize("squash", (800, 600)).target(13, 7) == (800, 600)


def test_a_batch_is_its_images() -> None:
    spec = flavour_spec("torchvision").replace(
        resize=Resize("shortest", (64, 90)), normalise=Normalise(MEAN, STD, channels="BGR")
    )
    pictures = [image(9, 48, 60), image(10, 50, 61), image(11, 30, 36)]
    transforms = [Transform.plan(picture.shape[:2], spec) for picture in pictures]
    assert {transform.padded for transform in transforms} == {(64, 96)}
    batch = preprocess(pictures, transforms, spec)
    assert batch.tensor.shape == (3, 3, 64, 96)
    assert batch.tensor.dtype == np.float32
    for canvas, picture, transform in zip(batch.tensor, pictures, transforms, strict=True):
        assert canvas.tobytes() == preprocess([picture], [transform], spec).tensor.tobytes()
        assert (
            canvas.tobytes()
            == run(picture, transform.resized, (64, 96), mean=MEAN, std=STD, reverse_channels=True).tobytes()
        )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_threads_do_not_change_the_pixels(antialias: bool, eight_bit: bool) -> None:
    frame = image(5, 1080, 1920)
    sizes: dict[str, Any] = {
        "resized": (503, 894),
        "mean": (123.7, 116.3, 103.5),
        "std": (58.4, 57.1, 57.4),
        "reverse_channels": True,
    }
    made = []
    for threads in (1, 2, 3, 16):
        canvas = np.full((3, 512, 928), np.nan, np.float32)
        _native.preprocess_into(frame, canvas, **sizes, antialias=antialias, eight_bit=eight_bit, threads=threads)
        made.append(canvas)
    assert np.isfinite(made[0]).all()
    for canvas in made[1:]:
        np.testing.assert_array_equal(canvas, made[0])


def test_the_way_back() -> None:
    transform = Transform((720, 1280), (749, 1333), (768, 1344))
    boxes = np.array([[0, 0, 1333, 749], [133.3, 74.9, 266.6, 149.8]], dtype=np.float32)
    np.testing.assert_allclose(
        transform.to_original(boxes), [[0, 0, 1280, 720], [128, 72, 256, 144]], rtol=1e-6, atol=1e-4
    )
    assert transform.to_original(np.zeros((0, 4), dtype=np.float32)).shape == (0, 4)


@pytest.mark.parametrize(
    ("picture", "resized", "options", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), (4, 4), {}, r"image must be \(H, W, 3\) uint8 .*got \(4, 4, 4\) uint8"),
        (np.zeros((4, 4, 3), np.float32), (4, 4), {}, r"image must be .*got \(4, 4, 3\) float32"),
        (np.zeros((4, 4), np.uint8), (4, 4), {}, r"image must be .*got \(4, 4\) uint8"),
        (np.zeros((4, 8, 3), np.uint8)[:, ::2], (4, 4), {}, r"image must be .* contiguous rows"),
        (np.zeros((0, 4, 3), np.uint8), (4, 4), {}, r"image must be .*got \(0, 4, 3\)"),
        (np.zeros((4, 0, 3), np.uint8), (4, 4), {}, r"image must be .*got \(4, 0, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), (0, 4), {}, "resized height must be 1 to 65536, got 0"),
        (np.zeros((4, 4, 3), np.uint8), (9, 4), {}, "padded height must be 9 to 65536, got 8"),
        (np.zeros((4, 4, 3), np.uint8), (4, 9), {}, "padded width must be 9 to 65536, got 8"),
        (np.zeros((4, 4, 3), np.uint8), (4, 4), {"std": (1.0, 0.0, 1.0)}, "std must be above 0 in each channel"),
        (np.zeros((4, 4, 3), np.uint8), (4, 4), {"threads": 0}, "threads must be 1 to 1024, got 0"),
    ],
)
def test_bad_arguments(
    picture: npt.NDArray[Any], resized: tuple[int, int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(picture, resized, (8, 8), **options)


def test_canvas_must_be_writeable() -> None:
    canvas = np.zeros((3, 4, 4), dtype=np.float32)
    canvas.flags.writeable = False
    with pytest.raises(ValueError, match=r"canvas must be .* float32 and writeable"):
        _native.preprocess_into(np.zeros((4, 4, 3), np.uint8), canvas, resized=(4, 4), **IDENTITY)


@pytest.mark.parametrize(("size", "scale"), [((33, 47), 1.37), ((64, 50), 0.31), ((5, 7), 9.9), ((301, 203), 0.9973)])
def test_positions_step_by_the_scale(size: tuple[int, int], scale: float) -> None:
    """As OpenCV's resize does if it is given fx and fy, after which the sides are rounded."""
    cv2 = pytest.importorskip("cv2")
    picture = image(sum(size), *size)
    expected = cv2.resize(picture.astype(np.float32), None, fx=scale, fy=scale)
    resized = expected.shape[:2]
    ours = run(picture, resized, source_step=1 / scale).transpose(1, 2, 0)
    np.testing.assert_allclose(ours, expected, atol=0.05)
    assert_as_expected(picture, resized, resized, source_step=1 / scale)


def test_a_step_and_an_antialiasing_filter_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="source_step must be 0 with antialias"):
        run(image(1, 8, 8), (4, 4), antialias=True, source_step=2.0)
    for step in (-1.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="source_step must be 0 to 65536"):
            run(image(1, 8, 8), (4, 4), source_step=step)
    run(image(1, 8, 8), (60, 60), source_step=65536.0)  # All positions but the first lie behind the last pixel.


EIGHT_BIT = [
    ((301, 233), (384, 297)),
    ((500, 700), (256, 358)),
    ((64, 50), (32, 25)),
    ((7, 9), (50, 41)),
    ((40, 1), (9, 3)),
]


@pytest.mark.parametrize(("size", "resized"), EIGHT_BIT)
def test_images_of_8_bits_are_resized_as_opencv_does(size: tuple[int, int], resized: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = image(3, *size)
    theirs = cv2.resize(picture, resized[::-1], interpolation=cv2.INTER_LINEAR).reshape(*resized, 3)
    np.testing.assert_array_equal(run(picture, resized, eight_bit=True).transpose(1, 2, 0), theirs)


@pytest.mark.parametrize("scale", [1.37, 0.31, 9.9, 0.5, 256 / 240])
def test_images_of_8_bits_are_scaled_as_opencv_does(scale: float) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = image(3, 64, 50)
    theirs = cv2.resize(picture, None, fx=scale, fy=scale)
    ours = run(picture, theirs.shape[:2], eight_bit=True, source_step=1 / scale)
    np.testing.assert_array_equal(ours.transpose(1, 2, 0), theirs)


def pillow_resized(picture: npt.NDArray[np.uint8], resized: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Along the rows first. Pillow 13 resizes the height first where it shrinks much more than the width."""
    height, width = resized
    along_rows = Image.fromarray(picture).resize((width, len(picture)), Image.Resampling.BILINEAR)
    return np.asarray(along_rows.resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        *EIGHT_BIT,
        pytest.param((600, 200), (300, 402), id="shrinks and widens"),
        pytest.param((4000, 7), (2, 3000), id="in strips: 4,000 source rows of an output row take 72 MB"),
    ],
)
def test_images_of_8_bits_are_resized_as_pillow_does(size: tuple[int, int], resized: tuple[int, int]) -> None:
    picture = image(3, *size)
    ours = run(picture, resized, (resized[0] + 3, resized[1] + 2), eight_bit=True, antialias=True)
    np.testing.assert_array_equal(
        ours[:, : resized[0], : resized[1]].transpose(1, 2, 0), pillow_resized(picture, resized)
    )
    assert not ours[:, resized[0] :].any()
    assert not ours[:, :, resized[1] :].any()


@pytest.mark.parametrize(("size", "resized"), EIGHT_BIT)
def test_every_pillow_gives_the_same_on_these_sizes(size: tuple[int, int], resized: tuple[int, int]) -> None:
    picture = image(3, *size)
    theirs = np.asarray(Image.fromarray(picture).resize(resized[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pillow_resized(picture, resized), theirs)


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(size=st.tuples(sides, sides), resized=st.tuples(sides, sides), antialias=st.booleans(), seed=st.integers(0, 99))
def test_images_of_8_bits_of_any_size(
    size: tuple[int, int], resized: tuple[int, int], antialias: bool, seed: int
) -> None:
    picture = image(seed, *size)
    rounded = run(picture, resized, eight_bit=True, antialias=antialias)
    np.testing.assert_array_equal(rounded, np.round(rounded))
    assert np.abs(rounded - run(picture, resized, antialias=antialias)).max() <= 1.01
    if antialias:
        np.testing.assert_array_equal(rounded.transpose(1, 2, 0), pillow_resized(picture, resized))
    options = {"eight_bit": True, "antialias": antialias, "mean": MEAN, "std": STD, "reverse_channels": True}
    again = (rounded[::-1] - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(run(picture, resized, **options), again, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_a_tall_picture_that_becomes_low_and_wide_takes_no_gigabytes(run_python: Any) -> None:
    """The rows of the only output row, resized and with room for as many again, would be 2.4 GB."""
    program = """
import resource, numpy as np
from retinasdk import _native
picture, canvas = np.full((10_000, 1, 3), 7, np.uint8), np.empty((3, 1, 10_000), np.float32)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 300_000_000, resource.RLIM_INFINITY))
_native.preprocess_into(
    picture, canvas, resized=(1, 10_000), mean=(0, 0, 0), std=(1, 1, 1), reverse_channels=False, antialias=True,
    source_step=0.0, eight_bit=True,
)
assert (canvas == 7).all()
"""
    done = run_python(["-c", program])
    assert done.returncode == 0, done.stderr
