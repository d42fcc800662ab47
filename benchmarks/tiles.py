"""AP and time with and without tiles, and against SAHI's slicing around the same network.

    python benchmarks/tiles.py --images DIR --annotations COCO.json [--model NAME] [--tile 640] [--rounds 5]

AP counts 1,000 detections of an image, with scores above 0.05. SAHI (pip install sahi) gets a detection model that
calls a `Detector` with all cores, image by image as it asks: the same as ours, and one whose convolutions are ONNX
Runtime's own, as SAHI would have them without us. Its slices have the same size and overlap. Times
are of the first image, A B A B, already decoded. Without SAHI its rows are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from timing import interleave, print_machine, print_ratio, print_times

from retinasdk import Detections, Detector, Resize, Tiles
from retinasdk.evaluation.annotations import read_annotations
from retinasdk.evaluation.categories import scored_classes
from retinasdk.evaluation.coco import CocoScorer
from retinasdk.images import as_rgb
from retinasdk.pipeline.stage_timing import collect

Image = npt.NDArray[np.uint8]
COUNTED = 1000
LOW, OVERLAP = 0.05, 0.2


class Truth:
    """The annotated images, and how good detections in them are."""

    def __init__(self, images: Path, annotations: Path, labels: tuple[str, ...]) -> None:
        truth = read_annotations(annotations)
        scored = scored_classes(truth, labels, rename={}, classes=None)
        self.labels = scored.labels
        self.images = [as_rgb(path) for path in truth.paths(images)]
        self.boxes = [
            [box._replace(category=scored.class_of_category[box.category]) for box in boxes] for boxes in truth.boxes
        ]

    def print_row(self, name: str, detect: Callable[[Image], Detections]) -> None:
        scorer = CocoScorer(self.labels, COUNTED)
        with collect() as seconds:
            for boxes, image in zip(self.boxes, self.images, strict=True):
                found = detect(image)
                scorer.add(boxes, found[:COUNTED])
        metrics = scorer.numbers().metrics
        print(
            f"  {name:44} AP {metrics['AP']:.3f}  AP50 {metrics['AP50']:.3f}  AR {metrics[f'AR{COUNTED}']:.3f}  "
            f"network {seconds['inference']:.2f} s",
            flush=True,
        )


def sahi_caller(detector: Detector, tile: int, threshold: float, **options: Any) -> Callable[[Image], Detections]:
    """SAHI's get_sliced_prediction around the detector's untiled call."""
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    logging.getLogger("sahi").setLevel(logging.ERROR)

    class Model(DetectionModel):
        def set_device(self, device: str | None = None) -> None:
            self.device = "cpu"

        def set_model(self, model: Any, **_: Any) -> None:
            self.model = model
            self.category_mapping = {str(index): label for index, label in enumerate(model.labels)}

        def perform_inference(self, image: Image) -> None:
            self._original_predictions = self.model(image, score_threshold=self.confidence_threshold)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=list(item.xyxy),
                        score=item.score,
                        category_id=item.class_id,
                        category_name=item.label,
                        shift_amount=shift_amount_list[0],
                        full_shape=full_shape_list and full_shape_list[0],
                    )
                    for item in self._original_predictions
                ]
            ]

    model = Model(model=detector, confidence_threshold=threshold)

    def call(image: Image) -> Detections:
        with contextlib.redirect_stdout(io.StringIO()):
            result = get_sliced_prediction(
                image,
                model,
                slice_height=tile,
                slice_width=tile,
                overlap_height_ratio=OVERLAP,
                overlap_width_ratio=OVERLAP,
                perform_standard_pred=False,
                verbose=0,
                **options,
            )
        items = sorted(result.object_prediction_list, key=lambda item: -item.score.value)
        return Detections(
            np.array([item.bbox.to_xyxy() for item in items], np.float32).reshape(-1, 4),
            np.array([item.score.value for item in items], np.float32),
            np.array([item.category.id for item in items], np.int32),
            detector.labels,
        )

    return call


def print_quality(truth: Truth, detector: Detector, tile: int) -> None:
    """AP of the network as it is, of the same fixed to the tile's size, and of tiles."""
    fixed = Detector(detector.model_path, spec=detector.spec.replace(resize=Resize("longest", (tile,), antialias=True)))
    print(f"\nAP, {COUNTED} detections counted, scores above {LOW}; network seconds are summed over threads")
    for name, one in ((f"longest side {tile}", fixed), (f"as the spec says ({detector.spec.resize.rule})", detector)):
        truth.print_row(f"no tiles, {name}", partial(one, score_threshold=LOW))
    for side in (tile, 2 * tile):
        for whole in (False, True):
            tiles = Tiles(side, OVERLAP, whole_image=whole)
            name = f"tiles of {side}, longest side {tile}{', and the whole' if whole else ''}"
            truth.print_row(name, partial(fixed, score_threshold=LOW, tiles=tiles))
    for side in (384, 512, 1024):
        tiles = Tiles(side, OVERLAP)
        call = partial(detector, score_threshold=LOW, tiles=tiles)
        truth.print_row(f"tiles of {side}, as the spec says", call)


# Below scores of 0.1 SAHI itself turns from its default, which merges boxes, to NMS.
SAHI = {
    "SAHI, NMS by IoU": {"postprocess_type": "NMS", "postprocess_match_metric": "IOU"},
    "SAHI, GREEDYNMM by IoS": {"postprocess_type": "GREEDYNMM", "postprocess_match_metric": "IOS"},
}


def print_against_sahi(truth: Truth, detector: Detector, tile: int, rounds: int, thresholds: list[float]) -> None:
    one_thread = Detector(detector.model_path, threads=1)
    direct = Detector(detector.model_path, convolution="direct")
    tiles, image = Tiles(tile, OVERLAP), truth.images[0]
    for threshold in thresholds or (LOW, detector.spec.score_threshold):
        print(f"\nagainst SAHI: tiles of {tile}, overlap {OVERLAP}, scores above {threshold}")
        candidates: dict[str, Callable[[Image], Detections]] = {
            "tiles": partial(detector, score_threshold=threshold, tiles=tiles)
        }
        of_sahi = {name: options for name, options in SAHI.items() if threshold >= 0.1 or "NMS by IoU" in name}
        for name, options in of_sahi.items():
            candidates[name] = sahi_caller(detector, tile, threshold, **options)
            plain = f"{name}, the network as ONNX Runtime has it"
            candidates[plain] = sahi_caller(direct, tile, threshold, **options)
        for name, call in candidates.items():
            truth.print_row(name, call)
        calls: dict[str, Callable[[], object]] = {name: partial(call, image) for name, call in candidates.items()}
        calls["tiles, one thread"] = partial(one_thread, image, score_threshold=threshold, tiles=tiles)
        calls["the network alone, tile by tile"] = network_alone(detector, tiles, image)
        times = interleave(calls, rounds=rounds, warmup=1)
        print_times(times)
        for name in list(candidates)[1:]:
            print_ratio(times, name, "tiles", target="at least 2")
        for name in of_sahi:
            print_ratio(times, name, "the network alone, tile by tile", target="1 would be no cost of slicing at all")


def network_alone(detector: Detector, tiles: Tiles, image: Image) -> Callable[[], object]:
    """One inference a tile, one after the other on all cores, as SAHI calls it: what no slicing saves."""
    grid = tiles.plan(*image.shape[:2])
    tensor = np.zeros((1, 3, *detector.spec.padded(*detector.spec.resize.target(*grid.tile))), np.float32)
    backend = detector._backend
    return lambda: [backend.infer(tensor) for _ in range(len(grid))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tree-crowns", help="bundled name or ONNX path (default: %(default)s)")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--tile", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threshold", type=float, nargs="*", help="of the rows against SAHI (default: 0.05, the model's)"
    )
    parser.add_argument("--only", choices=("quality", "sahi"))
    arguments = parser.parse_args()
    has_sahi = find_spec("sahi") is not None
    print_machine("retinasdk", "onnxruntime", "numpy", *(["sahi"] if has_sahi else []))
    with Detector(arguments.model) as detector:
        truth = Truth(arguments.images, arguments.annotations, detector.labels)
        if arguments.only != "sahi":
            print_quality(truth, detector, arguments.tile)
        if arguments.only != "quality" and has_sahi:
            print_against_sahi(truth, detector, arguments.tile, arguments.rounds, arguments.threshold)


if __name__ == "__main__":
    main()
