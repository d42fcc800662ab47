"""What runs on the machines of a cluster: one detector for each worker, and the resources that it takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.backends.model_files import read_model_files
from retinasdk.detector import Detector
from retinasdk.models import DEFAULT_MODEL, find_model
from retinasdk.onnx_graph.model_pair import read_unchanged
from retinasdk.ray.files import Result
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.engine_info import ENGINE_SUFFIX, EngineInfo

_BATCH_ON_GPU = 8  # images for each run of the network


@dataclass(frozen=True)
class Worker:
    """Describes the detector of each worker. Instances are sent to the workers.

    Attributes:
        files: The files of the model by name, the network first. So no worker needs a path of the driver.
        spec: Spec of the model.
        detector: Options of `Detector`.
        call: Options of its calls.
        cpus: CPU cores that Ray reserves for each worker, which are its threads.
        gpus: GPUs that Ray reserves for each worker, or a share of one. 0 on the CPU.
    """

    files: Mapping[str, bytes]
    spec: ModelSpec
    detector: Mapping[str, Any]
    call: Mapping[str, Any]
    cpus: int
    gpus: float

    @classmethod
    def plan(
        cls,
        model: str | os.PathLike[str] | None,
        *,
        device: str,
        cpus_per_worker: int,
        gpus_per_worker: float | None,
        detector: Mapping[str, Any],
        call: Mapping[str, Any],
    ) -> Worker:
        """Reads the model and checks all options, before any worker starts.

        Raises:
            ModelError: If the model cannot be used.
            ValueError: If an option is out of range.
            TypeError: If an option has the wrong type or an unknown name.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be one of auto, cpu, cuda; got {device!r}")
        if not isinstance(cpus_per_worker, int) or not 1 <= cpus_per_worker <= 1024:
            raise ValueError(f"cpus_per_worker must be an integer from 1 to 1024, got {cpus_per_worker!r}")
        path = find_model(DEFAULT_MODEL if model is None else model)
        is_engine = path.suffix == ENGINE_SUFFIX
        if device == "auto":
            device = "cuda" if is_engine or cluster_resources().get("GPU", 0) > 0 else "cpu"
        if is_engine and device == "cpu":
            raise ValueError(f"{path} is a TensorRT engine, which runs only on the GPU; give device='cuda'")
        gpus = 0 if device == "cpu" else 1 if gpus_per_worker is None else gpus_per_worker
        if device == "cuda" and not 0 < gpus <= 1:
            raise ValueError(f"gpus_per_worker must be above 0 and at most 1, got {gpus!r}")

        def read() -> tuple[ModelSpec, dict[str, bytes]]:
            if is_engine:
                return EngineInfo.load(path).spec, read_model_files(path)
            options = {name: value for name, value in detector.items() if name != "precision"}
            with Detector(path, device="cpu", **options) as tried:
                tried([], **call)
                return tried.spec, read_model_files(path, tried.spec)

        spec, files = read_unchanged(path, read)
        return cls(files, spec, {**detector, "device": device}, call, cpus_per_worker, gpus)

    @property
    def device(self) -> str:
        """Returns "cpu" or "cuda"."""
        return str(self.detector["device"])

    def count(self) -> int:
        """Returns how many workers the cluster has room for, at least 1."""
        resources = cluster_resources()
        room = resources.get("CPU", 0) / self.cpus
        if self.gpus:
            room = min(room, resources.get("GPU", 0) / self.gpus)
        return max(1, int(room))


class RunningDetector:
    """Runs the detector of a worker."""

    def __init__(self, worker: Worker) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="retinasdk-")
        for name, content in worker.files.items():
            Path(self._folder.name, name).write_bytes(content)
        path = Path(self._folder.name, next(iter(worker.files)))
        self._detector = Detector(path, threads=worker.cpus, **worker.detector)
        self._call = worker.call
        self._batch = _BATCH_ON_GPU if worker.gpus else 1

    def each(self, images: Iterator[Any]) -> Iterator[Result]:
        """Yields the detections of each image, or the exception that it raised.

        Raises:
            DeviceError: If the device fails on ten images in a row.
        """
        for found in self._detector.predict(images, batch=self._batch, **self._call):
            yield found.error or found.detections  # type: ignore[misc]  # one of them is set


def cluster_resources() -> dict[str, float]:
    """Returns the resources of the cluster, and starts or joins one if this process has none."""
    return dict(started_ray().cluster_resources())


def started_ray() -> Any:
    """Imports Ray and makes sure that it runs.

    Joins the cluster of the environment variable RAY_ADDRESS or that runs on this machine, otherwise starts Ray on this
    machine alone. Ray's usage statistics are sent to its maker over the network: they are off, unless the environment
    variable RAY_USAGE_STATS_ENABLED says otherwise.

    Raises:
        MissingDependencyError: If Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require("pyarrow", "retinasdk.ray")
    ray = require("ray", "retinasdk.ray")
    require("ray.data", "retinasdk.ray")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    return ray


def map_over(
    dataset: Any, function: type, worker: Worker, arguments: tuple[Any, ...], *, batch_size: int, pool: dict[str, int]
) -> Any:
    """Returns the dataset that a class makes from batches of another one, with one instance for each worker.

    Args:
        dataset: The dataset.
        function: The class, which is called with pyarrow tables.
        worker: First argument of the class, and the resources of an instance.
        arguments: The other arguments.
        batch_size: Number of rows for each call.
        pool: Number of workers, as arguments of `ray.data.ActorPoolStrategy`.
    """
    ray = started_ray()
    return dataset.map_batches(
        function,
        fn_constructor_args=(worker, *arguments),
        batch_size=batch_size,
        batch_format="pyarrow",
        num_cpus=worker.cpus,
        num_gpus=worker.gpus or None,
        compute=ray.data.ActorPoolStrategy(**pool),
    )


def checked_workers(workers: int | None) -> None:
    """Raises `ValueError` if the number of workers is not a positive integer or None."""
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be an integer of at least 1, got {workers!r}")
