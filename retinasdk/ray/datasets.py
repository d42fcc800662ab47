"""Adds detections to a Ray dataset."""

from __future__ import annotations

import os
from typing import Any

from retinasdk._util.labels import Classes
from retinasdk._util.lazy import require
from retinasdk.pipeline.call_options import ScoreThreshold
from retinasdk.pipeline.suppression import Suppression
from retinasdk.ray.files import detect_each
from retinasdk.ray.rows import check_rows, result_table
from retinasdk.ray.workers import RunningDetector, Worker, checked_workers, map_over
from retinasdk.tiling.grid import TilesOption

_COLUMNS = ("image", "bytes", "path")  # as `ray.data.read_images` and `read_binary_files` name them
_BATCH = 16  # rows


def detect(
    dataset: Any,
    *,
    model: str | os.PathLike[str] | None = None,
    column: str | None = None,
    rows: str = "image",
    device: str = "auto",
    workers: int | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float | None = None,
    score_threshold: ScoreThreshold | None = None,
    classes: Classes | None = None,
    tiles: TilesOption = None,
    suppression: Suppression | None = None,
    precision: str | None = None,
    filesystem: Any = None,
) -> Any:
    """Adds the detections of a model to a Ray dataset of images.

    Example:
        >>> import ray, retinasdk.ray  # doctest: +SKIP
        >>> images = ray.data.read_images("s3://bucket/photos", include_paths=True)  # doctest: +SKIP
        >>> retinasdk.ray.detect(images, classes="person").write_parquet("s3://bucket/people")  # doctest: +SKIP

    Args:
        dataset: A `ray.data.Dataset` with a column of images: arrays, RGB uint8 (H, W, 3) or grey (H, W); bytes of
            image files; or paths, local or URIs such as s3://bucket/name.jpg.
        model: Name of a bundled model, path of an ONNX file, or of a TensorRT engine. Its files are sent to the
            workers. Defaults to "people".
        column: The column with the images. Defaults to the first of "image", "bytes" and "path" that exists.
        rows: "image": one row for each image, with lists of boxes. "box": one row for each box. See Returns.
        device: "cpu", "cuda", or "auto" for the GPU if the cluster has one.
        workers: Largest number of workers. Defaults to as many as the cluster has room for.
        cpus_per_worker: CPU cores of each worker, which are also its threads.
        gpus_per_worker: GPUs of each worker on "cuda", or a share such as 0.5. Defaults to 1.
        score_threshold: As for `Detector`.
        classes: As for a call of the detector.
        tiles: As for a call of the detector.
        suppression: As for `Detector`.
        precision: As for `Detector`.
        filesystem: The `pyarrow.fs.FileSystem` of paths. Defaults to the one of their URIs.

    Returns:
        A lazy dataset with the columns of the given one, without those that hold images, and these: `width` and
        `height` in pixels; `boxes`, lists of (x1, y1, x2, y2) float32 in pixels; `scores` float32; `class_ids` int32;
        `labels`; `rotated_boxes` if the model has them; and `error`, text if the image failed. Then the others are
        null. With rows="box": `x1`, `y1`, `x2`, `y2`, `score`, `class_id` and `label` instead of the lists; an image
        without boxes has one row in which they are null.

    Raises:
        MissingDependencyError: If Ray is not installed.
        ModelError: If the model cannot be used.
        ValueError: If an option is out of range.
        TypeError: If an option has the wrong type.
    """
    check_rows(rows)
    checked_workers(workers)
    worker = Worker.plan(
        model,
        device=device,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        detector={"score_threshold": score_threshold, "suppression": suppression, "precision": precision},
        call={"classes": classes, "tiles": tiles},
    )
    # A range, so that reading the dataset also gets cores.
    pool = {"min_size": 1, "max_size": workers or worker.count()}
    return map_over(dataset, DatasetWorker, worker, (column, rows, filesystem), batch_size=_BATCH, pool=pool)


class DatasetWorker:
    """Detects in the batches of a dataset."""

    def __init__(self, worker: Worker, column: str | None, rows: str, filesystem: Any) -> None:
        self._detector = RunningDetector(worker)
        self._spec = worker.spec
        pa = require("pyarrow", "retinasdk.ray")
        self._text = (pa.string(), pa.large_string())
        self._column, self._rows, self._filesystem = column, rows, filesystem

    def __call__(self, table: Any) -> Any:
        """Returns the table of results for a pyarrow.Table of images."""
        column = self._column or next((name for name in _COLUMNS if name in table.column_names), None)
        if column is None or column not in table.column_names:
            wanted = f"the column {self._column!r}" if self._column else f"a column {', '.join(_COLUMNS)}"
            raise ValueError(
                f"the dataset needs {wanted}, and has {', '.join(table.column_names)}; name the column with the images "
                "with column='...'"
            )
        images = _values(table.column(column))
        results = detect_each(images, self._detector.each, self._filesystem)
        # Paths stay, so that results can be joined with other data. Pixels do not.
        is_path = table.schema.field(column).type in self._text
        dropped = {"image", "bytes", *(() if is_path else (column,))}
        inputs = table.select([name for name in table.column_names if name not in dropped])
        return result_table(inputs, results, self._spec.labels, is_rotated=self._spec.is_rotated, rows=self._rows)


def _values(column: Any) -> list[Any]:
    values: list[Any] = []
    for chunk in column.chunks:
        # Ray's types for arrays convert themselves; others are text and bytes.
        is_array = hasattr(chunk.type, "extension_name")
        values += list(chunk.to_numpy(zero_copy_only=False)) if is_array else chunk.to_pylist()
    return values
