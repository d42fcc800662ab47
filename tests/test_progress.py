"""`progress=` of the library: what each function reports, and how an exception ends the work."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from pictures import blocks

from retinasdk import Detector, Progress, Tiles, import_onnx, quantize_onnx


def test_fraction() -> None:
    assert Progress("load").fraction is None
    assert Progress("detect", 1, 4, "image").fraction == 0.25
    assert Progress("build", 5, 4).fraction == 1


@pytest.mark.parametrize("whole_image", [False, True])
def test_tiles_of_one_image_are_counted(detector: Detector, whole_image: bool) -> None:
    seen: list[Progress] = []
    threads = set()

    def show(progress: Progress) -> None:
        seen.append(progress)
        threads.add(threading.get_ident())

    image, tiles = blocks(200, 300), Tiles(100, whole_image=whole_image)
    found = detector(image, tiles=tiles, progress=show)
    total = 12 + whole_image
    assert [(item.step, item.done, item.total, item.unit) for item in seen] == [
        ("detect", done, total, "tile") for done in range(total + 1)
    ]
    assert threads == {threading.get_ident()}
    assert np.array_equal(found.xyxy, detector(image, tiles=tiles).xyxy)


def test_images_of_a_list_are_counted(detector: Detector) -> None:
    seen: list[Progress] = []
    detector([blocks(60, 80)] * 18, progress=seen.append)
    assert seen == [Progress("detect", done, 18, "image") for done in (0, 16, 18)]


def test_an_exception_ends_the_work(detector: Detector) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        detector(blocks(200, 300), tiles=100, progress=stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("retinasdk-tiles")]


def test_predict_has_no_progress(detector: Detector) -> None:
    with pytest.raises(TypeError, match=r"count the results of predict\(\)"):
        detector.predict([blocks()], progress=print)


def test_steps_of_an_import(network: onnx.ModelProto, tmp_path: Path) -> None:
    seen: list[Progress] = []
    onnx.save(network, tmp_path / "raw.onnx")
    import_onnx(tmp_path / "raw.onnx", tmp_path / "model.onnx", flavour="odtk", progress=seen.append)
    assert [item.step for item in seen] == [
        *("read the graph", "run the network", "build and check the model", "compare boxes", "write the model"),
    ]


def test_steps_of_a_quantization(model_path: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    images = [blocks(90, 120, seed=seed) for seed in range(3)]
    quantize_onnx(model_path, tmp_path / "int8.onnx", images, min_agreement=0, progress=seen.append)
    assert list(dict.fromkeys(item.step for item in seen)) == [
        *("compare, float32", "calibrate", "sweep", "compare, attempt 1", "time"),
    ]
    assert [item.done for item in seen if item.step == "calibrate"] == [0, 1, 2, 3]


def test_tiles_that_are_most_likely_a_mistake_cause_a_warning(detector: Detector) -> None:
    with pytest.warns(UserWarning, match=r"950 tiles of 10 x 10 pixels, .* to 128 x 128; .* tiles=640") as seen:
        detector(blocks(200, 300), tiles=10)
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector(blocks(200, 300), tiles=Tiles(40))
        satellite = Tiles(512).plan(20_000, 20_000)
        assert len(satellite) == 2401
