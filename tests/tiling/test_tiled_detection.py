"""`Detector(..., tiles=...)` on the tiny network, against crops and the oracle's merge."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import reference
from pictures import Image, blocks
from PIL import Image as PillowImage
from two_tiles import TWO

from retinasdk import Detections, Detector, ImageError, ModelSpec, Resize, Suppression, Tiles
from retinasdk.pipeline.rules import suppression_op

TILES = Tiles(100, 0.3)
REGION = [(60, 40, 260, 210)]


@pytest.fixture(scope="module")
def image() -> Image:
    return blocks(300, 430, seed=5)


def assembled(
    detector: Detector, image: Image, tiles: Tiles, *, ignore: Sequence[Sequence[float]] = (), **options: Any
) -> Detections:
    """By crops of the image, one call for each, with the regions where the crop has them, and the oracle's merge."""
    grid = tiles.plan(*image.shape[:2])
    parts, numbers = [], []
    corners = [(top, left) for top in grid.tops.tolist() for left in grid.lefts.tolist()]
    for top, left in corners:
        crop = image[top : top + grid.tile[0], left : left + grid.tile[1]].copy()
        regions = [(x1 - left, y1 - top, x2 - left, y2 - top) for x1, y1, x2, y2 in ignore]
        found = detector(crop, ignore=regions, **options)
        parts.append((found.xyxy + np.float32([left, top, left, top]), found.scores, found.class_ids))
    if tiles.whole_image:
        found = detector(image, ignore=ignore, **options)
        parts.append((found.xyxy, found.scores, found.class_ids))
    numbers = np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])
    boxes, scores, class_ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    ratio = [side / resized for side, resized in zip(grid.tile, detector.spec.resize.target(*grid.tile), strict=True)]
    kept, joined = reference.merge_tiles(
        boxes,
        scores,
        np.zeros_like(class_ids) if detector.suppression.across_classes else class_ids,
        numbers,
        **{
            **TWO,
            "tops": grid.tops,
            "lefts": grid.lefts,
            "tile_size": grid.tile,
            "image_size": grid.image,
            "iou_threshold": detector.spec.nms_iou_threshold,
            "cut_slack": (4 * ratio[0], 4 * ratio[1]),
        },
    )
    if detector.suppression.rule == "fusion":
        boxes, scores = (values.astype(np.float32) for values in reference.fuse_tiles(boxes, scores, kept, joined))
        class_ids = class_ids[kept]
        kept = np.argsort(-scores, kind="stable")
    return Detections(boxes[kept], scores[kept], class_ids[kept], detector.labels)


@pytest.mark.parametrize("tiles", [TILES, Tiles((120, 90), 20, whole_image=True), Tiles((300, 200), 0)])
def test_is_what_crops_and_the_oracle_give(detector: Detector, image: Image, tiles: Tiles) -> None:
    found = detector(image, tiles=tiles, score_threshold=0.3)
    assert found == assembled(detector, image, tiles, score_threshold=0.3)
    assert len(found) > 10
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("whole_image", [False, True])
def test_regions_lie_where_they_lie_in_the_image(detector: Detector, image: Image, whole_image: bool) -> None:
    tiles = Tiles(100, 0.3, whole_image=whole_image)
    options: dict[str, Any] = {"score_threshold": {"dog": 0.35, "person": 0.3}, "ignore": REGION}
    found = detector(image, tiles=tiles, **options)
    assert found == assembled(detector, image, tiles, **options)
    assert 0 < len(found) < len(detector(image, tiles=tiles, score_threshold=options["score_threshold"]))


@pytest.mark.parametrize(
    "suppression",
    [
        Suppression(across_classes=True, iou_threshold=0.3),
        Suppression("soft_gaussian"),
        Suppression("fusion"),
    ],
    ids=lambda suppression: suppression.rule,
)
def test_other_rules_hold_inside_a_tile_and_fusion_between_tiles_too(
    model_path: Path, image: Image, suppression: Suppression
) -> None:
    detector = Detector(model_path, suppression=suppression)
    merging = detector.spec.replace(nms_iou_threshold=suppression_op(suppression, detector.spec)[1]["iou_threshold"])
    found = detector(image, tiles=TILES, score_threshold=0.3)
    detector.spec = merging
    wanted = assembled(detector, image, TILES, score_threshold=0.3)
    np.testing.assert_array_equal(found.class_ids, wanted.class_ids)
    np.testing.assert_allclose(found.xyxy, wanted.xyxy, rtol=0, atol=0 if suppression.rule != "fusion" else 1e-4)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=0 if suppression.rule != "fusion" else 1e-6)
    assert len(found) > 10


def test_fusion_moves_boxes_and_keeps_their_number(model_path: Path, image: Image) -> None:
    means, best = (
        Detector(model_path, suppression=Suppression("fusion", fused_score=score))(
            image, tiles=TILES, score_threshold=0.3
        )
        for score in ("mean", "best")
    )
    assert len(means) == len(best) > 10
    assert sorted(map(tuple, means.xyxy.tolist())) == sorted(map(tuple, best.xyxy.tolist()))
    assert means.scores.sum() < best.scores.sum()
    assert (np.diff(means.scores) <= 0).all()
    assert (np.diff(best.scores) <= 0).all()


@pytest.mark.parametrize(
    "limits", [{"max_per_class": 3}, {"max_detections": 4}, {"max_per_class": 2, "max_detections": 3}]
)
def test_limits_of_a_suppression_are_the_images(model_path: Path, image: Image, limits: dict[str, int]) -> None:
    found = Detector(model_path, suppression=Suppression(**limits))(image, tiles=TILES, score_threshold=0.3)
    plain = Detector(model_path)(image, tiles=TILES, score_threshold=0.3)
    most = limits.get("max_per_class", 1000)
    assert np.bincount(plain.class_ids).max() > most or len(plain) > limits["max_detections"]
    wanted = [i for i, k in enumerate(plain.class_ids) if (plain.class_ids[:i] == k).sum() < most]
    assert found == plain[wanted[: limits.get("max_detections")]]


@pytest.mark.parametrize("size", [500, (300, 430), (1000, 1000)])
@pytest.mark.parametrize("whole_image", [False, True])
def test_one_tile_is_the_image_itself(
    detector: Detector, image: Image, size: int | tuple[int, int], whole_image: bool
) -> None:
    for options in ({}, {"score_threshold": 0.05}, {"classes": ["dog"]}):
        assert detector(image, tiles=Tiles(size, whole_image=whole_image), **options) == detector(image, **options)


@pytest.mark.parametrize("changes", [{"clip": "original"}, {"inclusive_pixels": True, "drop_empty": "after_nms"}])
def test_one_tile_under_other_rules(model_path: Path, spec: ModelSpec, image: Image, changes: dict[str, Any]) -> None:
    detector = Detector(model_path, spec=spec.replace(**changes), threads=1)
    assert detector(image, tiles=Tiles(500)) == detector(image)


def test_every_tile_reports_up_to_the_limit(model_path: Path, spec: ModelSpec, image: Image) -> None:
    detector = Detector(model_path, spec=spec.replace(max_detections=7), threads=1)
    assert len(detector(image, score_threshold=0.05)) == 7
    assert len(detector(image, score_threshold=0.05, tiles=TILES)) > 7


def test_batches_and_threads_change_nothing(
    model_path: Path, network: onnx.ModelProto, spec: ModelSpec, image: Image, tmp_path: Path, monkeypatch: Any
) -> None:
    wanted = Detector(model_path, threads=1)(image, tiles=TILES)
    without_region = Detector(model_path, threads=1)(image, tiles=TILES, ignore=REGION)
    assert Detector(model_path, threads=3)(image, tiles=TILES) == wanted
    on_gpu = Detector(model_path)
    monkeypatch.setattr(type(on_gpu), "device", "not the cpu")  # batches as on a GPU
    shapes, backend = [], on_gpu._backend.for_workers()[0]
    infer = backend.infer
    monkeypatch.setattr(backend, "infer", lambda tensor: shapes.append(len(tensor)) or infer(tensor))
    assert on_gpu(image, tiles=TILES) == wanted
    assert max(shapes) > 1
    assert on_gpu(image, tiles=TILES, ignore=REGION) == without_region
    fixed = onnx.ModelProto()
    fixed.CopyFrom(network)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, str(tmp_path / "fixed.onnx"))
    assert Detector(tmp_path / "fixed.onnx", spec=spec)(image, tiles=TILES) == wanted


def test_all_that_a_call_takes(detector: Detector, image: Image, tmp_path: Path) -> None:
    wanted = detector(image, tiles=TILES)
    PillowImage.fromarray(image).save(tmp_path / "image.png")
    mapped = np.memmap(tmp_path / "image.raw", np.uint8, "w+", shape=image.shape)
    mapped[:] = image
    given = [image, tmp_path / "image.png", PillowImage.fromarray(image), mapped, image[:, ::-1][:, ::-1]]
    assert detector(given, tiles=TILES) == [wanted] * len(given)
    flipped = np.asfortranarray(image)
    assert detector(flipped, tiles=TILES) == wanted
    found = list(detector.predict(given, tiles=TILES))
    assert [item.detections for item in found] == [wanted] * len(given)


def test_tiles_are_views_of_the_image(detector: Detector, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = detector._backend.for_workers()[0]
    seen: list[Image] = []
    detect = backend.detect
    monkeypatch.setattr(backend, "detect", lambda images, *a, **k: seen.extend(images) or detect(images, *a, **k))
    detector(image, tiles=TILES)
    assert len(seen) == len(TILES.plan(*image.shape[:2]))
    assert all(np.shares_memory(tile, image) for tile in seen)


def test_auto(detector: Detector, image: Image) -> None:
    """The network takes a shorter side of 128: an image of 300 would be shrunk, one of 130 nearly is not."""
    assert (
        detector(image, tiles="auto") == detector(image, tiles=Tiles((128, 128), whole_image=True)) != detector(image)
    )
    small = image[:130, :170]
    assert detector(small, tiles="auto") == detector(small)
    assert detector([], tiles="auto") == []


def test_an_error_in_a_tile_ends_the_call(detector: Detector, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = detector._backend.for_workers()[0]

    def broken(tensor: Any) -> Any:
        raise ImageError("broken")

    monkeypatch.setattr(backend, "infer", broken)
    with pytest.raises(ImageError, match="broken"):
        detector(image, tiles=TILES)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("retinasdk-tiles")]


def test_a_number_is_the_size_of_tiles(detector: Detector, image: Image) -> None:
    assert detector(image, tiles=TILES.size) == detector(image, tiles=Tiles(TILES.size))


@pytest.mark.parametrize("tiles", ["640", "Auto", (640, 640), True])
def test_what_is_no_tiles(detector: Detector, image: Image, tiles: Any) -> None:
    with pytest.raises(TypeError, match=r'tiles must be Tiles\(size=\.\.\.\), .* "auto" or None, got'):
        detector(image, tiles=tiles)


def test_images_that_are_none(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and no more")
    for given, error, message in [
        (np.zeros((10, 10, 2), np.uint8), ValueError, r"image must be \(H, W, 3\) uint8"),
        (np.zeros((10, 10, 3)), ValueError, "float64"),
        (np.zeros((0, 10, 3), np.uint8), ImageError, "at least 1 x 1 pixels"),
        ("gone.tif", ImageError, "no such file"),
        (tmp_path / "broken.tif", ImageError, "cannot be read as an image"),
        (tmp_path, ImageError, "is a folder"),
        (None, TypeError, "image must be a path"),
    ]:
        with pytest.raises(error, match=message):
            detector(given, tiles=TILES)  # type: ignore[arg-type]


def test_resize_rules_that_enlarge(model_path: Path, spec: ModelSpec, image: Image) -> None:
    """Tiles of 60 are seen at 96 x 96, boxes and slack are in pixels of the image."""
    detector = Detector(model_path, spec=spec.replace(resize=Resize("squash", (96, 96))), threads=1)
    found = detector(image, tiles=Tiles(60), score_threshold=0.4)
    assert found == assembled(detector, image, Tiles(60), score_threshold=0.4)
    assert found.xyxy.max() > 300
