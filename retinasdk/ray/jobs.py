"""Detects in any number of image files, writes Parquet files, and continues where a killed run stopped.

Note: Why no row is twice or missing

    The images are divided into parts. Before the work starts, `_inputs-00000.jsonl` records the paths of each part and
    the name of its output file, which is a function of the paths. A worker writes the rows of a part as one file, which
    appears completely or not at all (`OutputFolder.write`). So a part is done if its file is there. Whoever does a part
    again, a new run, a task that Ray retries, or a worker that outlived its killed driver, writes the same rows to the
    same name.

    A new run reads the recorded parts and does those that are missing. Images that are not recorded become new parts,
    recorded in `_inputs-00001.jsonl`. `_job.json` records all that the rows depend on. A run that differs in it is
    refused.

Note: Images that kill a worker

    A decoder that crashes, or an image that needs all memory, kills the process of the worker. Ray starts a new one and
    repeats the part, which would end the same way for ever. So a worker records that it begins a part. If the record is
    of this run already, a worker died, and the part is done image by image, with a record before each. An image at
    which a worker died twice gets a row with an error, and is not tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from retinasdk import __version__
from retinasdk._util.labels import Classes
from retinasdk._util.lazy import require
from retinasdk._util.progress import Progress, ProgressCallback
from retinasdk.errors import ImageError
from retinasdk.pipeline.call_options import ScoreThreshold
from retinasdk.pipeline.suppression import Suppression
from retinasdk.ray.files import OutputFolder, Result, absolute, detect_each, find_images
from retinasdk.ray.rows import check_rows, result_table
from retinasdk.ray.workers import RunningDetector, Worker, checked_workers, map_over, started_ray
from retinasdk.tiling.grid import TilesOption

_JOB = "_job.json"
_INPUTS = "_inputs-"
_MAX_DEATHS = 2  # of workers at one image


@dataclass(frozen=True)
class JobReport:
    """Says what a run of `detect_files` did.

    Attributes:
        images: Number of images of the job.
        earlier: Number of images that earlier runs had done.
        boxes: Number of boxes that this run found.
        failed: Number of images of this run that failed.
    """

    images: int
    earlier: int
    boxes: int
    failed: int


def detect_files(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    rows: str = "image",
    images_per_file: int = 256,
    retry_failed: bool = False,
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
    progress: ProgressCallback | None = None,
) -> JobReport:
    """Detects objects in image files on the machines of a Ray cluster and writes Parquet files.

    The workers read the images and write the results; this process only lists the names. If a run is killed, the next
    one with the same arguments continues: no row is written twice, and none is missing. Images that were added since
    are done too. Run one at a time for each output folder.

    Example:
        >>> import retinasdk.ray  # doctest: +SKIP
        >>> retinasdk.ray.detect_files("tiles", "found", model="tree-crowns")  # doctest: +SKIP

    Args:
        images: Image files or folders, as paths or as URIs such as s3://bucket/tiles. Folders inside folders are
            searched too. All workers must be able to read them.
        out: Output folder, path or URI. All workers must be able to write to it.
        model: As for `detect`.
        rows: As for `detect`. The image is in the column `path`.
        images_per_file: Number of images of each Parquet file. A killed run loses the unfinished files.
        retry_failed: Whether files with failed images are done again.
        device: As for `detect`.
        workers: Number of workers. Defaults to as many as the cluster has room for.
        cpus_per_worker: As for `detect`.
        gpus_per_worker: As for `detect`.
        score_threshold: As for `detect`.
        classes: As for `detect`.
        tiles: As for `detect`.
        suppression: As for `detect`.
        precision: As for `detect`.
        filesystem: The `pyarrow.fs.FileSystem` of the images and the output. Defaults to those of their URIs.
        progress: Called with a `retinasdk.Progress` as images are finished.

    Returns:
        What was done.

    Raises:
        ImageError: If there are no images.
        MissingDependencyError: If Ray is not installed.
        ModelError: If the model cannot be used.
        ValueError: If an option is out of range, or the folder has the results of another job.
        TypeError: If an option has the wrong type.
        OSError: If the output cannot be written.
    """
    check_rows(rows)
    checked_workers(workers)
    if not isinstance(images_per_file, int) or images_per_file < 1:
        raise ValueError(f"images_per_file must be an integer of at least 1, got {images_per_file!r}")
    ray = started_ray()
    worker = Worker.plan(
        model,
        device=device,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        detector={"score_threshold": score_threshold, "suppression": suppression, "precision": precision},
        call={"classes": classes, "tiles": tiles},
    )
    folder = OutputFolder(absolute(out, filesystem), filesystem)
    parts = _recorded_parts(folder, find_images(images, filesystem), images_per_file, _settings(worker, rows))
    existing = folder.names()
    done = [name for name in parts if name in existing and not (retry_failed and _has_failed(folder, name))]
    earlier = sum(len(parts[name]) for name in done)
    todo = [{"name": name, "paths": paths} for name, paths in parts.items() if name not in set(done)]
    total = sum(map(len, parts.values()))
    finished, boxes, failed = earlier, 0, 0
    if progress is not None:
        progress(Progress("detect", finished, total, "image"))
    if todo:
        size = min(workers or worker.count(), len(todo))
        arguments = (folder, rows, filesystem, secrets.token_hex(4))
        with _quiet(ray.data.from_items(todo, override_num_blocks=len(todo))) as dataset:
            results = map_over(dataset, PartWorker, worker, arguments, batch_size=1, pool={"size": size})
            for row in results.iter_rows():
                finished, boxes, failed = finished + row["images"], boxes + row["boxes"], failed + row["failed"]
                if progress is not None:
                    progress(Progress("detect", finished, total, "image"))
    return JobReport(total, earlier, boxes, failed)


@contextlib.contextmanager
def _quiet(dataset: Any) -> Iterator[Any]:
    """Silences what Ray Data says about the execution of a dataset: `progress` says more."""
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield dataset
    finally:
        logger.setLevel(level)


class PartWorker:
    """Detects in the images of parts, and writes a file for each."""

    def __init__(self, worker: Worker, folder: OutputFolder, rows: str, filesystem: Any, run: str) -> None:
        self._detector = RunningDetector(worker)
        self._spec, self._folder, self._rows = worker.spec, folder, rows
        self._filesystem, self._run = filesystem, run

    def __call__(self, table: Any) -> Any:
        """Returns how many images were done for a pyarrow.Table of parts."""
        pa = require("pyarrow", "retinasdk.ray")
        return pa.Table.from_pylist([self._part(part["name"], part["paths"]) for part in table.to_pylist()])

    def _part(self, name: str, paths: list[str]) -> dict[str, Any]:
        pa, parquet = require("pyarrow", "retinasdk.ray"), require("pyarrow.parquet", "retinasdk.ray")
        results = self._results(name, paths)
        labels, is_rotated = self._spec.labels, self._spec.is_rotated
        inputs = pa.table({"path": pa.array(paths, pa.string())})
        found = result_table(inputs, results, labels, is_rotated=is_rotated, rows=self._rows)
        content = io.BytesIO()
        parquet.write_table(found, content)
        self._folder.write(name, content.getvalue())
        self._folder.delete(_record_name(name))
        failed = sum(isinstance(result, Exception) for result in results)
        boxes = sum(0 if isinstance(result, Exception) else len(result) for result in results)
        return {"name": name, "images": len(paths), "boxes": boxes, "failed": failed}

    def _results(self, name: str, paths: list[str]) -> list[Result]:
        record = self._record(name)
        if record is None:
            self._begin(name, {})
            return detect_each(paths, self._detector.each, self._filesystem)
        deaths: dict[str, int] = record["deaths"]
        if "at" in record:
            deaths[record["at"]] = deaths.get(record["at"], 0) + 1
        results: list[Result] = []
        for path in paths:
            if deaths.get(path, 0) >= _MAX_DEATHS:
                results.append(ImageError(f"{path}: the worker process died {_MAX_DEATHS} times at this image"))
                continue
            self._begin(name, deaths, at=path)
            results += detect_each([path], self._detector.each, self._filesystem)
        return results

    def _begin(self, name: str, deaths: dict[str, int], **where: str) -> None:
        self._folder.write(_record_name(name), json.dumps({"run": self._run, "deaths": deaths, **where}).encode())

    def _record(self, name: str) -> dict[str, Any] | None:
        """Returns what a worker of this run that died recorded about a part, or None."""
        try:
            record: dict[str, Any] = json.loads(self._folder.read(_record_name(name)))
        except FileNotFoundError:
            return None
        return record if record["run"] == self._run else None


def _record_name(part: str) -> str:
    return f"_trying-{part}.json"


def _settings(worker: Worker, rows: str) -> dict[str, str]:
    """Returns what the rows depend on, as text."""
    digest = hashlib.sha256()
    for name, content in worker.files.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    options = {**worker.detector, **worker.call, "rows": rows}
    return {"model": digest.hexdigest(), **{name: repr(value) for name, value in options.items()}}


def _recorded_parts(
    folder: OutputFolder, paths: Sequence[str], size: int, settings: dict[str, str]
) -> dict[str, list[str]]:
    """Returns the paths of each part by the name of its file, after recording those that are new.

    Raises:
        ValueError: If the folder has the results of another job.
    """
    names = folder.names()
    if _JOB in names:
        recorded = json.loads(folder.read(_JOB))["settings"]
        differing = [name for name in settings if settings[name] != recorded.get(name)]
        if differing:
            raise ValueError(
                f"{folder.name} has the results of another job, which differs in {', '.join(differing)}; choose "
                "another output folder, or give the options of that job to continue it"
            )
    parts: dict[str, list[str]] = {}
    records = sorted(name for name in names if name.startswith(_INPUTS))
    for record in records:
        for line in folder.read(record).decode().splitlines():
            part = json.loads(line)
            parts[part["name"]] = part["paths"]
    strange = sorted(name for name in names if name.endswith(".parquet") and name not in parts)
    if strange:
        raise ValueError(
            f"{folder.name} has files that no run of this job wrote, such as {strange[0]}; choose another output folder"
        )
    if _JOB not in names:
        content = {"format": 1, "retinasdk": __version__, "settings": settings}
        folder.write(_JOB, json.dumps(content, indent=1).encode())
    known = set(itertools.chain.from_iterable(parts.values()))
    fresh = [path for path in paths if path not in known]
    added: dict[str, list[str]] = {}
    for start in range(0, len(fresh), size):
        members = fresh[start : start + size]
        digest = hashlib.sha256("\0".join(members).encode()).hexdigest()[:12]
        added[f"part-{len(parts) + len(added):06d}-{digest}.parquet"] = members
    if added:
        lines = [json.dumps({"name": name, "paths": members}) for name, members in added.items()]
        folder.write(f"{_INPUTS}{len(records):05d}.jsonl", "\n".join(lines).encode())
    return {**parts, **added}


def _has_failed(folder: OutputFolder, name: str) -> bool:
    parquet = require("pyarrow.parquet", "retinasdk.ray")
    column = parquet.read_table(io.BytesIO(folder.read(name)), columns=["error"]).column("error")
    return bool(column.null_count < len(column))
