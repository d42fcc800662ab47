"""The objects found in one image: `Detections`, and one of them, `Detection`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from retinasdk._util.labels import Classes, class_ids_of
from retinasdk._util.lazy import require
from retinasdk.images import ChannelOrder, ImageInput, as_rgb

if TYPE_CHECKING:
    import os

    import numpy.typing as npt
    from PIL import Image


def rotated_corners(xywhr: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the corners (n, 4, 2) float32 of rotated boxes (n, 5), see `Detections.polygons`."""
    x, y, width, height, angle = xywhr.astype(np.float64).T
    right = np.stack([np.cos(angle), np.sin(angle)], axis=1) * width[:, None] / 2
    down = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * height[:, None] / 2
    center = np.stack([x, y], axis=1)
    corners = [center - right - down, center + right - down, center + right + down, center - right + down]
    return np.stack(corners, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Detection:
    """Describes one object.

    Attributes:
        xyxy: Bounding box (x1, y1, x2, y2) in pixels of the original image; around the rotated box if there is one.
        score: Confidence score, 0 to 1.
        class_id: Index of the class in the model's labels.
        label: Name of the class.
        xywhr: Rotated box (center x, center y, width, height, angle), see `Detections.xywhr`. None without rotation.
        track: Number of the object, which it keeps from frame to frame, see `Detections.tracks`. None if it has none.
    """

    xyxy: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str
    xywhr: tuple[float, float, float, float, float] | None = None
    track: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Holds the n objects of one image as parallel arrays, best first, in host memory.

    An index gives a `Detection`; a slice, a boolean mask or an index array gives `Detections`.

    Example:
        >>> import numpy as np, retinasdk
        >>> found = retinasdk.Detections(
        ...     np.array([[10, 20, 30, 60], [5, 5, 9, 9]]), np.array([0.9, 0.4]), np.array([0, 1]), ("person", "dog"))
        >>> found[0].label
        'person'
        >>> len(found[found.names == "person"])
        1

    Attributes:
        xyxy: (n, 4) float32, read-only. Bounding boxes (x1, y1, x2, y2) in pixels of the original image, x to the
            right, y down. Edges are continuous: the width is x2 - x1.
        scores: (n,) float32, read-only. Confidence scores, 0 to 1.
        class_ids: (n,) int32, read-only. Indices into `labels`.
        labels: All class names of the model.
        image: What the detector was called with: the caller's own object or path, not a copy, or None. `draw`, `crop`,
            `save` and `show` use it, so an array that was overwritten since is drawn as it is now, and a path is read
            again. It stays in memory as long as the detections do. None for a `DeviceFrame`, whose memory may belong
            to a decoder. It is left out of `==`, `repr` and pickles.
        image_size: (height, width) of the original image in pixels, or None if unknown.
        timing: Seconds spent on the image by stage: "preprocess", "inference" and "postprocess"; on the GPU also
            "queue", the wait for a free execution context. For images that
            share a batch, an equal share of the batch; for tiled images, the sum over workers. Empty if unknown.
        channel_order: Channel order of `image` if it is a NumPy array: "rgb" or "bgr".
        xywhr: (n, 5) float32, read-only: rotated boxes (center x, center y, width, height, angle) in pixels of the
            original image, or None if the model detects upright boxes. The angle is in radians and turns the width
            axis clockwise as seen on the screen, from the x axis towards the y axis, which points down. Its range is
            that of the model's framework. `xyxy` are the enclosing boxes.
        tracks: (n,) int64, read-only: the number of each object, which it keeps from frame to frame, or -1 for an
            object that has none yet. None if objects are not tracked, see `retinasdk.stream(..., tracker=...)`.

    Raises:
        ValueError: If the arrays do not fit together.
    """

    xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int32]
    labels: tuple[str, ...]
    image: ImageInput | None = None
    image_size: tuple[int, int] | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    channel_order: ChannelOrder = "rgb"
    xywhr: npt.NDArray[np.float32] | None = None
    tracks: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        arrays: list[tuple[str, Any]] = [("xyxy", np.float32), ("scores", np.float32), ("class_ids", np.int32)]
        for name, dtype in [*arrays, ("xywhr", np.float32), ("tracks", np.int64)]:
            if getattr(self, name) is None:
                continue
            array = np.array(getattr(self, name), dtype=dtype)  # a copy: nobody else may change it later
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "labels", tuple(self.labels))
        count = self.scores.shape[0] if self.scores.ndim else 0
        shapes = self.xyxy.shape, self.scores.shape, self.class_ids.shape
        if shapes != ((count, 4), (count,), (count,)):
            raise ValueError(f"Detections needs xyxy (n, 4), scores (n,) and class_ids (n,); got {shapes}")
        if self.xywhr is not None and self.xywhr.shape != (count, 5):
            raise ValueError(f"xywhr must be (n, 5) for n = {count} objects; got {self.xywhr.shape}")
        if self.tracks is not None and self.tracks.shape != (count,):
            raise ValueError(f"tracks must be (n,) for n = {count} objects; got {self.tracks.shape}")
        if count and not 0 <= int(self.class_ids.min()) <= int(self.class_ids.max()) < len(self.labels):
            raise ValueError(f"class_ids must be 0 to {len(self.labels) - 1}; got {np.unique(self.class_ids)}")

    @classmethod
    def empty(cls, labels: Sequence[str]) -> Detections:
        """Returns detections without any object, for a model with these labels."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), tuple(labels))

    @classmethod
    def rotated(
        cls, xywhr: npt.ArrayLike, scores: npt.ArrayLike, class_ids: npt.ArrayLike, labels: Sequence[str]
    ) -> Detections:
        """Returns detections of rotated boxes (n, 5), as in `xywhr`. `xyxy` are the enclosing boxes."""
        boxes = np.asarray(xywhr, np.float32).reshape(-1, 5)
        corners = rotated_corners(boxes)
        enclosing = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return cls(enclosing, np.asarray(scores), np.asarray(class_ids), tuple(labels), xywhr=boxes)

    @classmethod
    def join(cls, parts: Sequence[Detections]) -> Detections:
        """Joins detections of one image that have the same labels, best first.

        Nothing is suppressed: use `retinasdk.fuse` to merge overlapping boxes of several models.
        The result keeps the image of the first part if all parts have the same one, and the tracks if all parts have
        them.

        Raises:
            ValueError: If there is no part, or the labels differ.
        """
        if not parts:
            raise ValueError("there are no detections to join; give at least one Detections")
        first = parts[0]
        if any(part.labels != first.labels for part in parts):
            raise ValueError("detections to join must have the same labels; these come from models that differ")
        if len({part.xywhr is None for part in parts}) > 1:
            raise ValueError(
                "detections to join must be all rotated or all upright; these come from models that differ"
            )
        scores = np.concatenate([part.scores for part in parts])
        order = np.argsort(-scores, kind="stable")
        xyxy = np.concatenate([part.xyxy for part in parts])
        class_ids = np.concatenate([part.class_ids for part in parts])
        rotated = [part.xywhr for part in parts if part.xywhr is not None]
        xywhr = np.concatenate(rotated)[order] if rotated else None
        numbers = [part.tracks for part in parts if part.tracks is not None]
        tracks = np.concatenate(numbers)[order] if len(numbers) == len(parts) else None
        joined = cls(xyxy[order], scores[order], class_ids[order], first.labels, xywhr=xywhr, tracks=tracks)
        if all(part.image is first.image for part in parts):
            joined._attach(first.image, first.image_size, {}, first.channel_order)
        return joined

    def _attach(
        self,
        image: Any,
        image_size: tuple[int, int] | None,
        timing: Mapping[str, float],
        channel_order: ChannelOrder,
    ) -> Detections:
        """Sets where freshly made detections come from; returns them."""
        for name, value in (
            ("image", image),
            ("image_size", image_size),
            ("timing", timing),
            ("channel_order", channel_order),
        ):
            object.__setattr__(self, name, value)
        return self

    @property
    def names(self) -> npt.NDArray[np.str_]:
        """(n,) array of str: the class name of each object. Compare it to make a mask."""
        return np.array([self.labels[class_id] for class_id in self.class_ids], dtype=np.str_)

    @property
    def xywh(self) -> npt.NDArray[np.float32]:
        """(n, 4) float32: bounding boxes as (x1, y1, width, height) in pixels. They enclose rotated boxes."""
        return np.concatenate([self.xyxy[:, :2], self.xyxy[:, 2:] - self.xyxy[:, :2]], axis=1)

    @property
    def area(self) -> npt.NDArray[np.float32]:
        """(n,) float32: areas of the bounding boxes in square pixels; of the rotated boxes if there are any."""
        sides = self.xywh[:, 2:] if self.xywhr is None else self.xywhr[:, 2:4]
        return sides[:, 0] * sides[:, 1]

    @property
    def polygons(self) -> npt.NDArray[np.float32]:
        """(n, 4, 2) float32: corners (x, y) of each box in pixels, clockwise on the screen.

        The first corner is the upper left one of a box with angle 0. Upright boxes have corners, too.
        """
        if self.xywhr is not None:
            return rotated_corners(self.xywhr)
        x1, y1, x2, y2 = self.xyxy.T
        return np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 4, 2)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | Sequence[bool] | npt.NDArray[Any]) -> Detections: ...

    def __getitem__(self, index: Any) -> Detection | Detections:
        """Returns one `Detection` for an index, `Detections` for a slice, a mask (n,) or an index array."""
        try:
            if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
                class_id = int(self.class_ids[index])
                x1, y1, x2, y2 = self.xyxy[index].tolist()
                xywhr = None if self.xywhr is None else tuple(self.xywhr[index].tolist())
                track = None if self.tracks is None or self.tracks[index] < 0 else int(self.tracks[index])
                score, label = float(self.scores[index]), self.labels[class_id]
                return Detection((x1, y1, x2, y2), score, class_id, label, xywhr, track)
            part = Detections(
                self.xyxy[index],
                self.scores[index],
                self.class_ids[index],
                self.labels,
                xywhr=None if self.xywhr is None else self.xywhr[index],
                tracks=None if self.tracks is None else self.tracks[index],
            )
        except IndexError as error:
            raise IndexError(f"{error}; there are {len(self)} detections") from None
        return part._attach(self.image, self.image_size, self.timing, self.channel_order)

    def __add__(self, other: object) -> Detections:
        """Joins two detections of one image: see `Detections.join`."""
        if not isinstance(other, Detections):
            return NotImplemented
        return Detections.join([self, other])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        names = ("xyxy", "scores", "class_ids", "xywhr", "tracks")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return self.labels == other.labels and all(
            mine is theirs if mine is None or theirs is None else np.array_equal(mine, theirs) for mine, theirs in pairs
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor, so that copies are read-only too. The image may be large, or an open file.
        values = (self.xyxy, self.scores, self.class_ids, self.labels, None, self.image_size, dict(self.timing))
        return type(self), (*values, "rgb", self.xywhr, self.tracks)

    def __repr__(self) -> str:
        if not len(self):
            return "Detections(empty)"
        shown = [
            ("  " if item.track is None else f"  #{item.track} ")
            + f"{item.label} {item.score:.2f} at ({item.xyxy[0]:.0f}, {item.xyxy[1]:.0f})-"
            f"({item.xyxy[2]:.0f}, {item.xyxy[3]:.0f})"
            + (f", turned by {math.degrees(item.xywhr[4]):.0f} degrees" if item.xywhr is not None else "")
            for item in self[:10]
        ]
        rest = [f"  ... and {len(self) - 10} more"] if len(self) > 10 else []
        return "\n".join([f"Detections({len(self)}):", *shown, *rest])

    def filter(self, *, classes: Classes | None = None, min_score: float = 0.0) -> Detections:
        """Returns the objects of some classes that score at least `min_score`.

        Args:
            classes: A class name, or a sequence of names or indices. Defaults to all classes.
            min_score: Lowest confidence score to keep, 0 to 1.

        Raises:
            ValueError: If a class is unknown or `min_score` is out of range.
        """
        if not 0.0 <= min_score <= 1.0:
            raise ValueError(f"min_score must be from 0 to 1, got {min_score!r}")
        keep: npt.NDArray[np.bool_] = self.scores >= np.float32(min_score)
        if classes is not None:
            keep &= np.isin(self.class_ids, class_ids_of(classes, self.labels))
        return self[keep]

    def scaled(self, scale: float) -> Detections:
        """Returns the detections in pixels of the same image at another size, without the image.

        Args:
            scale: Factor of both sides of the image.
        """
        factor = np.float32(scale)
        xywhr = None if self.xywhr is None else self.xywhr * np.array([scale, scale, scale, scale, 1], np.float32)
        return Detections(self.xyxy * factor, self.scores, self.class_ids, self.labels, xywhr=xywhr, tracks=self.tracks)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns a dictionary with "label", "class_id", "score" and "xyxy" for each object, ready for JSON.

        Rotated boxes also have "xywhr", and tracked objects "track", which is None for an object without a number.
        """
        return [
            {"label": item.label, "class_id": item.class_id, "score": item.score, "xyxy": list(item.xyxy)}
            | ({} if item.xywhr is None else {"xywhr": list(item.xywhr)})
            | ({} if self.tracks is None else {"track": item.track})
            for item in self
        ]

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Returns COCO result entries: "image_id", "category_id", "bbox" (x, y, width, height) and "score".

        Of rotated boxes, "bbox" is the enclosing box. Their corners are in "segmentation", as one polygon of 8 numbers.

        Args:
            image_id: The image's id in the COCO annotations.
            category_ids: COCO category id of each class index. Defaults to the class indices themselves.
        """
        results: list[dict[str, Any]] = []
        polygons = self.polygons.reshape(-1, 8).tolist()
        for item, polygon in zip(self, polygons, strict=True):
            x1, y1, x2, y2 = item.xyxy
            category_id = item.class_id if category_ids is None else category_ids[item.class_id]
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": item.score})
            if item.xywhr is not None:
                results[-1]["segmentation"] = [polygon]
        return results

    def to_supervision(self) -> Any:
        """Returns the objects as `supervision.Detections`, for its trackers, zones and annotators.

        Sets copies as xyxy, confidence, class_id and data["class_name"]; of rotated boxes also data["xyxyxyxy"], the
        corners (n, 4, 2), which its annotators and its rotated IoU use; of tracked objects also tracker_id.

        Raises:
            MissingDependencyError: If supervision is not installed (`pip install 'retinasdk[supervision]'`).
        """
        supervision = require("supervision", "Detections.to_supervision")
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.astype(int),
            tracker_id=None if self.tracks is None else self.tracks.copy(),
            data={"class_name": self.names} | ({} if self.xywhr is None else {"xyxyxyxy": self.polygons}),
        )

    def to_json(self) -> str:
        """Returns `to_dicts()` as JSON text."""
        return json.dumps(self.to_dicts())

    def to_pandas(self) -> Any:
        """Returns a `pandas.DataFrame` with the columns label, class_id, score, x1, y1, x2, y2; one row per object.

        Rotated boxes have further columns: center_x, center_y, width, height, angle. Tracked objects have "track", -1
        for an object without a number.

        Raises:
            MissingDependencyError: If pandas is not installed.
        """
        pandas = require("pandas", "Detections.to_pandas")
        columns: dict[str, Any] = {"label": self.names.astype(object), "class_id": self.class_ids.copy()}
        columns["score"] = self.scores.copy()
        columns.update({name: self.xyxy[:, axis].copy() for axis, name in enumerate(("x1", "y1", "x2", "y2"))})
        if self.xywhr is not None:
            named = enumerate(("center_x", "center_y", "width", "height", "angle"))
            columns.update({name: self.xywhr[:, axis].copy() for axis, name in named})
        if self.tracks is not None:
            columns["track"] = self.tracks.copy()
        return pandas.DataFrame(columns)

    def crop(self, image: ImageInput | None = None) -> list[npt.NDArray[np.uint8]]:
        """Cuts each object out of the image.

        Args:
            image: The image to cut from. Defaults to the one that the objects were found in.

        Returns:
            One RGB uint8 (height, width, 3) copy per object, its (enclosing) box rounded outwards to whole pixels and
            clipped to the image. The size is 0 for boxes outside the image.

        Raises:
            ValueError: If no image is given and none is known.
        """
        pixels = self._pixels(image)
        height, width = pixels.shape[:2]
        lows = np.clip(np.floor(self.xyxy[:, :2]), 0, (width, height)).astype(int)
        highs = np.clip(np.ceil(self.xyxy[:, 2:]), 0, (width, height)).astype(int)
        return [pixels[y1:y2, x1:x2].copy() for (x1, y1), (x2, y2) in zip(lows, highs, strict=True)]

    def draw(self, image: ImageInput | None = None, **options: Any) -> Image.Image:
        """Draws a box, a name and a score for each object on a copy of the image. Needs Pillow.

        Args:
            image: The image to draw on. Defaults to the one that the objects were found in.
            **options: Passed on to `retinasdk.drawing.draw_detections`.

        Returns:
            A new RGB Pillow image.

        Raises:
            ValueError: If no image is given and none is known.
        """
        from retinasdk.drawing import draw_detections

        return draw_detections(self._pixels(image), self, **options)

    def save(self, path: str | os.PathLike[str], image: ImageInput | None = None, **options: Any) -> None:
        """Writes the drawn picture to a file, completely or not at all.

        Args:
            path: The file to write. Its suffix chooses the format. If it exists, it is replaced.
            image: As for `draw`.
            **options: As for `draw`.

        Raises:
            ValueError: If there is no image, or no format with this suffix.
            OSError: If the file cannot be written. An existing file is then unchanged.
        """
        from retinasdk._util.picture_files import write_picture

        write_picture(Path(path), self.draw(image, **options))

    def show(self, image: ImageInput | None = None, **options: Any) -> None:
        """Opens the drawn picture in the system's image viewer. Arguments as for `draw`."""
        self.draw(image, **options).show()

    def _pixels(self, image: ImageInput | None) -> npt.NDArray[np.uint8]:
        """RGB pixels of the image given, else of the image the objects were found in."""
        image = self.image if image is None else image
        if image is None:
            raise ValueError("these detections do not know their image; pass it, as in found.draw(image)")
        return as_rgb(image, channel_order=self.channel_order)
