"""Boxes that a framework itself computed, kept in files, and the comparison with them.

A case is two files in `tests/data/frameworks/<framework>/`: `<case>.onnx`, as the framework's own tool exported it, and
`<case>.json`, what the framework's own code returned for some pictures. The scripts in `tests/support/record/` write
them in the framework's environment, so this module needs numpy alone, and must not import retinasdk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parents[1] / "data" / "frameworks"
PIXELS = 0.1  # A box agrees if each of its coordinates is that near,
SCORE = 1e-3  # its score is that near, and its class is the same.


def picture(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """An RGB picture (height, width, 3) of smooth random colors, the same with every version of numpy.

    It is smooth, so that a resize that rounds differently by one gray level has no large effect; and it has about as
    much detail per pixel as a photo that was reduced by two.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    total = np.zeros((height, width, 3))
    for cells, share in ((5, 0.6), (17, 0.4)):
        knots = rng.random((cells, cells, 3))
        y, x = np.linspace(0, cells - 1.001, height), np.linspace(0, cells - 1.001, width)
        row, column = y.astype(int), x.astype(int)
        dy, dx = (y - row)[:, None, None], (x - column)[None, :, None]
        top = knots[row][:, column] * (1 - dx) + knots[row][:, column + 1] * dx
        bottom = knots[row + 1][:, column] * (1 - dx) + knots[row + 1][:, column + 1] * dx
        total += share * (top * (1 - dy) + bottom * dy)
    return np.asarray(np.round(total * 255), np.uint8)


@dataclass
class RecordedPicture:
    """What the framework found in one picture, best first, in pixels of the picture.

    `boxes` are as the framework returns them: xyxy of shape (n, 4), or rotated boxes (center x, center y, width,
    height, angle) of shape (n, 5), in the convention that the case states.
    """

    seed: int
    height: int
    width: int
    boxes: list[list[float]]
    scores: list[float]
    classes: list[int]

    @classmethod
    def of(cls, seed: int, height: int, width: int, boxes: Any, scores: Any, classes: Any) -> RecordedPicture:
        """Takes arrays or tensors of the framework, sorted by score or not."""
        boxes, scores, classes = (np.asarray(values) for values in (boxes, scores, classes))
        order = np.argsort(-scores, kind="stable")
        return cls(
            seed,
            height,
            width,
            np.round(boxes[order].astype(float), 4).tolist(),
            np.round(scores[order].astype(float), 7).tolist(),
            classes[order].astype(int).tolist(),
        )

    def pixels(self) -> npt.NDArray[np.uint8]:
        return picture(self.seed, self.height, self.width)


@dataclass
class RecordedCase:
    """One export of a framework, and its boxes.

    Attributes:
        framework: Its name, and `version`: its release or commit.
        setting: What is special about this case, for the table: "fixed 800 x 1000, score 0.3".
        options: Arguments of `retinasdk.import_onnx` that a user of this export would give.
        recorded_by: The script, relative to the repository.
        environment: Versions of the packages that computed the boxes.
    """

    framework: str
    version: str
    setting: str
    recorded_by: str
    pictures: list[RecordedPicture]
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str) -> Path:
        """Writes `<framework>/<name>.json`. The ONNX file is written beside it by the script."""
        path = FOLDER / self.framework / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> RecordedCase:
        content = json.loads(path.read_text())
        content["pictures"] = [RecordedPicture(**item) for item in content["pictures"]]
        return cls(**content)


def record_cases(
    framework: str, cases: Mapping[str, Sequence[Any]], run_case: Callable[[str, Path], Any], script: str, **about: Any
) -> None:
    """Records the cases that the command line names, or all.

    Args:
        framework: Name of the framework, and of its folder.
        cases: By name: the setting first, the options of the import and the sizes of the pictures last.
        run_case: Exports a case to a path, and returns the function from pixels to boxes, scores and classes.
        script: Name of the script in `tests/support/record/`.
        **about: `version` and `environment` of `RecordedCase`.
    """
    for name in sys.argv[1:] or cases:
        setting, *_, options, sizes = cases[name]
        found = run_case(name, FOLDER / framework / f"{name}.onnx")
        pictures = []
        for seed, (height, width) in enumerate(sizes, 1):
            pictures.append(RecordedPicture.of(seed, height, width, *found(picture(seed, height, width))))
            scores = pictures[-1].scores
            print(f"{name}: {len(scores)} boxes, scores {min(scores):.2f} to {max(scores):.2f}")
        recorded_by = f"tests/support/record/{script}"
        RecordedCase(
            framework=framework, setting=setting, recorded_by=recorded_by, pictures=pictures, options=options, **about
        ).write(name)


def recorded_cases() -> list[Path]:
    """The JSON files of all cases that are kept in the repository."""
    return sorted(FOLDER.glob("*/*.json"))


@dataclass(frozen=True)
class Comparison:
    """How two lists of boxes agree, one to one.

    Attributes:
        expected, found: How many there are.
        agreeing: How many of the expected boxes have a partner of their class within `PIXELS` and `SCORE`.
        worst_pixels, worst_score: The largest difference among those that agree.
        missing: The expected boxes without a partner, as (class, score, box).
    """

    expected: int
    found: int
    agreeing: int
    worst_pixels: float
    worst_score: float
    missing: tuple[tuple[int, float, tuple[float, ...]], ...]

    @property
    def is_equal(self) -> bool:
        return self.expected == self.found == self.agreeing


def compare(
    expected: RecordedPicture, boxes: npt.ArrayLike, scores: npt.ArrayLike, classes: npt.ArrayLike
) -> Comparison:
    """Pairs each recorded box with the nearest box of its class that is not taken yet."""
    found = np.asarray(boxes, float).reshape(-1, len(expected.boxes[0]) if expected.boxes else 4)
    found_scores, found_classes = np.asarray(scores, float), np.asarray(classes, int)
    is_free = np.ones(len(found), bool)
    agreeing, missing, worst_pixels, worst_score = 0, [], 0.0, 0.0
    for box, score, class_id in zip(expected.boxes, expected.scores, expected.classes, strict=True):
        pixels = _distances(found, np.asarray(box))
        difference = np.abs(found_scores - score)
        fits = is_free & (found_classes == class_id) & (pixels <= PIXELS) & (difference <= SCORE)
        if not fits.any():
            missing.append((class_id, score, tuple(box)))
            continue
        best = int(np.argmin(np.where(fits, pixels / PIXELS + difference / SCORE, np.inf)))
        is_free[best] = False
        agreeing += 1
        worst_pixels, worst_score = max(worst_pixels, pixels[best]), max(worst_score, difference[best])
    return Comparison(len(expected.boxes), len(found), agreeing, worst_pixels, worst_score, tuple(missing))


def _distances(found: npt.NDArray[Any], box: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """How far each found box is from one box, in pixels: the largest difference of a coordinate.

    A difference of the angle counts as the way of the box's corners. Whole turns do not count.
    """
    difference = np.abs(found - box)
    if len(box) == 5:
        turned = np.abs((found[:, 4] - box[4] + np.pi) % (2 * np.pi) - np.pi)
        difference[:, 4] = turned * np.hypot(box[2], box[3]) / 2
    return difference.max(axis=1, initial=0.0)  # type: ignore[no-any-return]


def summary(results: Sequence[tuple[RecordedCase, Mapping[str, Any]]]) -> str:
    """Returns a Markdown table, a row for each case."""
    head = "| Framework | Version | Setting | Boxes compared | Worst, px | Worst, score |\n|---|---|---|---:|---:|---:|"
    rows = [
        f"| {case.framework} | {case.version} | {case.setting} | {row['boxes']} | {row['pixels']:.4f} "
        f"| {row['score']:.1e} |"
        for case, row in results
    ]
    return "\n".join([head, *rows])
