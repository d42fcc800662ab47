"""Runs a retinasdk detector inside Triton: encoded or raw images in, bounding boxes out.

`retinasdk triton export` copied this file here. The Python environment of the server must have retinasdk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import retinasdk


class TritonPythonModel:
    """Answers the requests of one model instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model and runs it once.

        Raises:
            ModelError: If the files do not belong together, or cannot be loaded.
            RuntimeError: If the server's Python backend does not work with the installed NumPy.
        """
        _check_numpy()
        config = json.loads(args["model_config"])
        settings = {name: value["string_value"] for name, value in config["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        _check_files(folder, settings)
        is_gpu = args["model_instance_kind"] == "GPU"
        instances = sum(int(group["count"]) for group in config["instance_group"])
        self._batch = min(16, config["max_batch_size"]) if is_gpu else 1  # On the CPU, images run side by side.
        self._detector = retinasdk.Detector(
            folder / settings["model_file"],
            device="cuda" if is_gpu else "cpu",
            threads=int(settings.get("threads") or max(1, _usable_cores() // instances)),
            score_threshold=float(settings["score"]) if settings.get("score") else None,
        )
        self._detector.warmup()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers requests that the dynamic batcher put together. A bad image fails its own request only."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[str, tuple[dict[str, Any], list[tuple[int, list[Any]]]]] = {}
        for number, request in enumerate(requests):
            try:
                options = _options(json.loads(request.parameters()))
                images = _images(request)
            except Exception as error:
                responses[number] = _failure(error)
            else:
                key = json.dumps(options, sort_keys=True)
                groups.setdefault(key, (options, []))[1].append((number, images))
        for options, members in groups.values():
            results = iter(self._detect([image for _, images in members for image in images], options))
            for number, images in members:
                responses[number] = self._response([next(results) for _ in images])
        return responses

    def finalize(self) -> None:
        """Releases the model."""
        self._detector.close()

    def _detect(self, images: list[Any], options: dict[str, Any]) -> list[Any]:
        """Returns the detections of each image, or the exception that it raised."""
        try:
            if len(images) == 1:  # With all threads of the instance, which is the lowest latency.
                return [self._detector(images[0], **options)]
            found = self._detector.predict(images, batch=self._batch, **options)
            return [item.error or item.detections for item in found]
        except Exception as error:
            return [error] * len(images)

    def _response(self, results: list[Any]) -> Any:
        for number, result in enumerate(results):
            if isinstance(result, Exception):
                where = f"image {number} of {len(results)}: " if len(results) > 1 else ""
                return _failure(result, where)
        counts = [len(found) for found in results]
        most = max(counts)
        outputs = {
            "COUNT": np.array(counts, np.int32)[:, None],
            "BOXES": _padded([found.xyxy for found in results], most, 0),
            "SCORES": _padded([found.scores for found in results], most, 0),
            "CLASS_IDS": _padded([found.class_ids for found in results], most, -1),
            "LABELS": _padded([_encoded(found.names) for found in results], most, b""),
        }
        if self._detector.spec.is_rotated:
            outputs["ROTATED_BOXES"] = _padded([found.xywhr for found in results], most, 0)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def _images(request: Any) -> list[Any]:
    """Returns the images of a request: bytes of image files, or RGB arrays (H, W, 3)."""
    encoded = pb_utils.get_input_tensor_by_name(request, "IMAGE")
    pixels = pb_utils.get_input_tensor_by_name(request, "PIXELS")
    if (encoded is None) == (pixels is None):
        raise ValueError(
            "give one of the inputs: IMAGE, the bytes of image files (B, 1), or PIXELS, RGB uint8 (B, H, W, 3)"
        )
    if pixels is not None:
        return list(pixels.as_numpy())
    # A string would be a path on the server, which clients must not read.
    return [bytes(item) for item in encoded.as_numpy().reshape(-1)]


def _options(parameters: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of the detector that the request parameters `score` and `classes` set."""
    options: dict[str, Any] = {}
    if "score" in parameters:
        try:
            options["score_threshold"] = float(parameters["score"])
        except (TypeError, ValueError):
            raise ValueError(f"the parameter score must be a number, got {parameters['score']!r}") from None
    if "classes" in parameters:
        names = (name.strip() for name in str(parameters["classes"]).split(","))
        options["classes"] = [name for name in names if name]
    return options


def _padded(arrays: list[Any], most: int, filler: Any) -> Any:
    """Joins arrays (n, ...) of different n to one (B, most, ...)."""
    joined = np.full((len(arrays), most, *arrays[0].shape[1:]), filler, arrays[0].dtype)
    for row, array in zip(joined, arrays, strict=True):
        row[: len(array)] = array
    return joined


def _encoded(names: Any) -> Any:
    return np.array([str(name).encode() for name in names], np.object_)


def _failure(error: Exception, where: str = "") -> Any:
    is_mistake = isinstance(error, (retinasdk.ImageError, ValueError, TypeError))
    code = pb_utils.TritonError.INVALID_ARG if is_mistake else pb_utils.TritonError.INTERNAL
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{where}{error}", code))


def _check_files(folder: Path, settings: dict[str, str]) -> None:
    """Makes sure that an export was not killed between the files of this folder and config.pbtxt."""
    digest = hashlib.sha256()
    for name in settings["files"].split("/"):
        digest.update((folder / name).read_bytes())
    if digest.hexdigest() != settings["files_sha256"]:
        raise retinasdk.ModelError(
            f"the files in {folder} are not those that config.pbtxt was written for; export the model again with: "
            "retinasdk triton export --overwrite"
        )


def _check_numpy() -> None:
    """Makes sure that arrays arrive as they were sent.

    Python backends that were compiled before NumPy 2 read its arrays with wrong strides, and say nothing.
    """
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return
    sent = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    if not np.array_equal(pb_utils.Tensor.from_dlpack("CHECK", sent).as_numpy(), sent):
        raise RuntimeError(
            f"the Python backend of this Triton does not work with NumPy {np.__version__}: pixels arrive wrong; "
            "install an older one in the server's Python: pip install 'numpy<2'"
        )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
