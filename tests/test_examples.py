"""Every example is run as a user would run it, and what it says is compared with the library's own answer."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from paths import EXAMPLES, ROOT
from pictures import blocks
from PIL import Image as PillowImage

from retinasdk import Detector, Tiles

SIZES = ((90, 120), (60, 160), (160, 60), (90, 121), (61, 47))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, size in enumerate(SIZES):
        PillowImage.fromarray(blocks(*size, seed=index)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def run(run_python: Any, model_path: Path) -> Callable[..., str]:
    """run(example, arguments...) gives what it prints; stderr must be empty unless `complaint` is in it."""

    def call(example: str, *arguments: str | Path, complaint: str | None = None) -> str:
        result = run_python([EXAMPLES / example, *arguments, "--model", model_path])
        assert result.returncode == 0, result.stderr
        if complaint is None:
            assert result.stderr == ""
        else:
            assert complaint in result.stderr
            assert result.stderr.count("\n") == 1
        return str(result.stdout)

    return call


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """load(name) imports an example without running it, as a spawned process does."""

    def call(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return call


def test_none_is_forgotten() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    tested = {
        "count_people.py",
        "detect_large.py",
        "detect_opencv.py",
        "detect_photo.py",
        "embed_in_product.py",
        "filter_classes.py",
    }
    elsewhere = {"export_other_frameworks.py": "convert/test_export_torch.py"}  # wants torch
    elsewhere |= dict.fromkeys(("bag_in_bag_out.py", "count_in_video.py"), "live/test_examples.py")
    elsewhere["triton_client.py"] = "serving/test_triton_server.py"  # wants a Triton server
    assert names == tested | set(elsewhere)
    for name, test in elsewhere.items():
        assert name.removesuffix(".py") in (ROOT / "tests" / test).read_text("utf-8")
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    for name in (*names, "embed_core/", "embed_cpp/", "embed_c/"):
        assert f"[{name}](" in readme


def test_detect_photo(run: Any, photos: Path, tmp_path: Path, detector: Detector) -> None:
    out = run("detect_photo.py", photos / "0.png", "--out", "marked.png")
    wanted = detector(photos / "0.png")
    *rows, last = out.splitlines()
    assert [row.split()[:2] for row in rows] == [[item.label, f"{item.score:.3f}"] for item in wanted]
    assert last == f"{len(wanted)} found, marked in marked.png"
    marked = np.asarray(PillowImage.open(tmp_path / "marked.png"))
    np.testing.assert_array_equal(marked, np.asarray(wanted.draw(photos / "0.png")))
    assert len(wanted) > 0


def test_count_people(run: Any, photos: Path, tmp_path: Path, detector: Detector) -> None:
    (photos / "3.png").write_bytes(b"broken")
    run("count_people.py", photos, "counts.csv", "--score", "0.3", complaint="3.png: cannot be read as an image")
    with open(tmp_path / "counts.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{index}.png" for index in range(len(SIZES))]
    assert (rows[3]["people"], rows[3]["best_score"]) == ("", "")
    for index in (0, 1, 2, 4):
        people = detector(photos / f"{index}.png", classes=["person"], score_threshold=0.3)
        assert int(rows[index]["people"]) == len(people)
        assert rows[index]["best_score"] == (f"{people.scores[0]:.6f}" if len(people) else "")
    assert max(int(row["people"]) for row in rows if row["people"]) > 0


def test_detect_large(run: Any, tmp_path: Path, detector: Detector) -> None:
    PillowImage.fromarray(blocks(300, 430, seed=5)).save(tmp_path / "large.tif")
    out = run("detect_large.py", tmp_path / "large.tif", "--tile", "100", "--overlap", "0.3")
    wanted = detector(tmp_path / "large.tif", tiles=Tiles(100, 0.3))
    assert out == f"{len(wanted)} found by tiles of 100 pixels, written to found.csv\n"
    with open(tmp_path / "found.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["score"]) for row in rows] == [(item.label, f"{item.score:.4f}") for item in wanted]
    boxes = [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in rows]
    np.testing.assert_allclose(boxes, wanted.xyxy, atol=0.051)
    assert len(wanted) > 10


def test_filter_classes(run: Any, photos: Path, detector: Detector) -> None:
    def numbers(score: str) -> list[int]:
        out = run("filter_classes.py", photos / "0.png", "dog", "chair", "--score", score)
        return [int(line.split(": ")[1].split()[0]) for line in out.splitlines()]

    def wanted(score: float) -> list[int]:
        everything = detector(photos / "0.png", score_threshold=score)
        at_the_call = detector(photos / "0.png", score_threshold=score, classes=["dog", "chair"])
        afterwards = everything.filter(classes=["dog", "chair"])
        return [len(everything), len(at_the_call), len(afterwards), len(at_the_call) - len(afterwards)]

    no_limit, limited = numbers("0.25"), numbers("0")
    assert (no_limit, limited) == (wanted(0.25), wanted(0))
    assert no_limit[1] > 0
    assert no_limit[3] == 0  # as the example says: where no limit was reached, both give the same
    assert limited[3] > 0


def test_embed_in_product(run: Any, photos: Path, tmp_path: Path, detector: Detector) -> None:
    images = [photos / f"{index}.png" for index in range(len(SIZES))]
    answers = [json.loads(line) for line in run("embed_in_product.py", *images, "none.png").splitlines()]
    for image, answer in zip(images, answers, strict=False):
        assert answer == {"image": str(image), "detections": detector(image, score_threshold=0.5).to_dicts()}
    assert list(answers[-1]) == ["image", "error"]
    assert answers[-1]["error"].startswith("none.png: no such file")
    assert len(answers) == len(images) + 1


def test_the_service_makes_one_detector(
    load: Any, photos: Path, model_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("embed_in_product")
    made: list[Detector] = []

    def counted(*arguments: Any, **options: Any) -> Detector:
        made.append(Detector(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(example.retinasdk, "Detector", counted)
    service = example.DetectionService(str(model_path), score_threshold=0.3)
    assert made == []  # nothing is loaded before the first request
    images = [str(photos / f"{index}.png") for index in range(len(SIZES))] * 8
    barrier = threading.Barrier(4)
    first = threading.local()
    detect = service.detect

    def together(image: str) -> Any:
        if not hasattr(first, "passed"):
            first.passed = True
            barrier.wait(30)  # so that the first requests come at once
        return detect(image)

    service.detect = together
    answers = example.serve(service, images, 4)
    assert len(made) == 1
    wanted = {image: detector(image, score_threshold=0.3).to_dicts() for image in set(images)}
    assert answers == [{"image": image, "detections": wanted[image]} for image in images]
    service.close()
    service.close()
    assert detect(images[0]) == answers[0]  # loads again
    assert len(made) == 2


@pytest.mark.parametrize("name", ["count_people", "detect_large", "detect_photo", "embed_in_product", "filter_classes"])
def test_examples_can_be_imported(load: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Spawned processes import the main program: it must not start again, nor keep anything at module level."""
    module = load(name)
    assert capsys.readouterr() == ("", "")
    state = [key for key, value in vars(module).items() if isinstance(value, (Detector, list, set)) and key[0] != "_"]
    assert state == []


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not on the PATH")
def test_embed_core(tmp_path: Path) -> None:
    build = tmp_path / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    # A compiler cache has the objects of wheels, which are optimized. Without one, compiling those takes twice as long.
    kind = "Release" if "CMAKE_CXX_COMPILER_LAUNCHER" in os.environ else "Debug"
    options = [f"-DCMAKE_BUILD_TYPE={kind}", "-DRETINASDK_WERROR=ON", *generator]
    commands = [
        ["cmake", "-S", EXAMPLES / "embed_core", "-B", build, *options],
        ["cmake", "--build", build, "--config", "Release"],
    ]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    program = next(path for path in build.rglob("embed_core*") if path.is_file() and path.suffix in ("", ".exe"))
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")

    def score(logit: float) -> str:
        return f"{1 / (1 + math.exp(-logit)):.3f}"

    # 1.6 network pixels for each of the image's: cells of 16 and 32, half sides of 16 and 32 pixels.
    assert result.stdout.splitlines() == [
        f"input 320 x 192, first value {(128 - 123.675) / 58.395:.4f}",
        "4 candidates, 3 detections",
        f"cat {score(3.0)} 40.0 20.0 60.0 40.0",  # centre (80, 48)
        f"dog {score(1.5)} 140.0 80.0 200.0 120.0",  # centre (288, 160), 128 x 64, clipped at 320
        f"dog {score(1.0)} 40.0 20.0 60.0 40.0",
    ]


@pytest.mark.parametrize("example", ["detect_photo.py", "count_people.py", "detect_large.py", "detect_opencv.py"])
def test_errors_take_one_line(run_python: Any, tmp_path: Path, example: str) -> None:
    more = [tmp_path / "out.csv"] if example == "count_people.py" else []
    result = run_python([EXAMPLES / example, tmp_path / "missing", *more])
    assert result.returncode == 1
    assert [line.partition(":")[0] for line in result.stderr.splitlines() if "WARN" not in line] == ["error"]


_PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("example", _PROGRAMS)
@pytest.mark.parametrize("words", [["--help"], [], ["detectron2", "none.yaml", "none.pth", "none.onnx"]])
def test_no_example_ends_in_a_traceback(run_python: Any, example: str, words: list[str]) -> None:
    """Whatever is missing: a file, an argument, a framework."""
    result = run_python([EXAMPLES / example, *words])
    assert "Traceback" not in result.stderr
    assert "error" in result.stderr or result.returncode == 0
    if words == ["--help"]:
        assert example in result.stdout + result.stderr


def test_opencv(run: Callable[..., str], photos: Path, detector: Detector, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    out = run("detect_opencv.py", photos / "0.png", "--out", tmp_path / "marked.png")
    assert out.startswith(f"{len(detector(photos / '0.png'))} found")
