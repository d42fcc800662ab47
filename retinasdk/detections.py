"""`Detections`: what was found in one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.labels import class_ids_of
from retinasdk._util.lazy import require

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from retinasdk.images import ImageInput


@dataclass(frozen=True)
class Detection:
    """One object: xyxy in pixels of the original image, score 0 to 1, class index and its name."""

    xyxy: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """n objects of one image as parallel arrays, best first, on the host. Empty is a value.

    xyxy: (n, 4) float32, pixels of the original image, x to the right, y down, continuous edges (width = x2 - x1).
    scores: (n,) float32, 0 to 1. class_ids: (n,) int32, indices into labels.
    labels: the model's class names, all of them. The arrays are read-only.

    Raises `ValueError` when made of arrays that do not fit together.
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, dtype in (("xyxy", np.float32), ("scores", np.float32), ("class_ids", np.int32)):
            array = np.array(getattr(self, name), dtype=dtype)  # a copy: nobody else may change it later
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "labels", tuple(self.labels))
        count = self.scores.shape[0] if self.scores.ndim else 0
        shapes = self.xyxy.shape, self.scores.shape, self.class_ids.shape
        if shapes != ((count, 4), (count,), (count,)):
            raise ValueError(f"Detections needs xyxy (n, 4), scores (n,) and class_ids (n,); got {shapes}")
        if count and not 0 <= int(self.class_ids.min()) <= int(self.class_ids.max()) < len(self.labels):
            raise ValueError(f"class_ids must be 0 to {len(self.labels) - 1}; got {np.unique(self.class_ids)}")

    @classmethod
    def empty(cls, labels: Sequence[str]) -> Detections:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), tuple(labels))

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each object."""
        return tuple(self.labels[class_id] for class_id in self.class_ids)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, class_id in zip(self.xyxy.tolist(), self.scores.tolist(), self.class_ids.tolist(), strict=True):
            yield Detection(tuple(box), score, class_id, self.labels[class_id])

    def __getitem__(self, index: Any) -> Detections:
        """The objects at a boolean mask (n,), an index array, a slice or one index; always a `Detections`."""
        if isinstance(index, (int, np.integer)):
            index = [index]
        try:
            return Detections(self.xyxy[index], self.scores[index], self.class_ids[index], self.labels)
        except IndexError as error:
            raise IndexError(f"{error}; there are {len(self)} detections") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        pairs = ((self.xyxy, other.xyxy), (self.scores, other.scores), (self.class_ids, other.class_ids))
        return self.labels == other.labels and all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.xyxy, self.scores, self.class_ids, self.labels)  # so that copies are read-only too

    def __repr__(self) -> str:
        if not len(self):
            return "Detections(empty)"
        shown = [
            f"  {item.label} {item.score:.2f} at ({item.xyxy[0]:.0f}, {item.xyxy[1]:.0f})-"
            f"({item.xyxy[2]:.0f}, {item.xyxy[3]:.0f})"
            for item in self[:10]
        ]
        rest = [f"  ... and {len(self) - 10} more"] if len(self) > 10 else []
        return "\n".join([f"Detections({len(self)}):", *shown, *rest])

    def filter(self, *, classes: Sequence[str | int] | None = None, min_score: float = 0.0) -> Detections:
        """Those of the named classes (names or indices; None: all) with a score of at least `min_score`."""
        if not 0.0 <= min_score <= 1.0:
            raise ValueError(f"min_score must be from 0 to 1, got {min_score!r}")
        keep = self.scores >= np.float32(min_score)
        if classes is not None:
            keep &= np.isin(self.class_ids, class_ids_of(classes, self.labels))
        return self[keep]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One {"label", "class_id", "score", "xyxy"} for each object, of plain Python numbers, ready for JSON."""
        return [
            {"label": item.label, "class_id": item.class_id, "score": item.score, "xyxy": list(item.xyxy)}
            for item in self
        ]

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO result entries: {"image_id", "category_id", "bbox" (x, y, width, height), "score"}.

        category_ids: the COCO category id of each class index; None: the class index itself.
        """
        results = []
        for item in self:
            x1, y1, x2, y2 = item.xyxy
            category_id = item.class_id if category_ids is None else category_ids[item.class_id]
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": item.score})
        return results

    def to_supervision(self) -> Any:
        """The same objects as `supervision.Detections`, for its trackers, zones and annotators; needs the extra
        [supervision]. Of its fields: xyxy, confidence, class_id, and data["class_name"]; all are copies.
        """
        supervision = require("supervision", "Detections.to_supervision")
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def draw(self, image: ImageInput) -> Image.Image:
        """A copy of the image with a box, name and confidence for each object. Needs Pillow."""
        from retinasdk.drawing import draw_detections

        return draw_detections(image, self)
