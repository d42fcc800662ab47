"""One detector in a benchmark: the whole call, and its stages if they can be timed separately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retinasdk.benchmark.turns import Steps
from retinasdk.detector import Detector
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Batch, Transform, preprocess
from retinasdk.pipeline.types import HeadOutputs
from retinasdk.tensorrt.engine_info import EngineInfo

if TYPE_CHECKING:
    import numpy.typing as npt


class Contestant:
    """A detector with the batches that it is timed on, one per round and then from the start again.

    Args:
        detector: The detector.
        batches: Lists of RGB uint8 (H, W, 3) images.
    """

    def __init__(self, detector: Detector, batches: Sequence[list[npt.NDArray[Any]]]) -> None:
        self.detector = detector
        self._batches = batches
        self._ready: list[Batch] = []  # from stage to stage of one round
        self._heads: list[HeadOutputs] = []

    def whole(self) -> Steps:
        """Returns the step "call" for `take_turns`."""
        return {"call": self._call}

    def stages(self) -> Steps:
        """Returns the steps "preprocess", "network" and "postprocess" for `take_turns`; none on the GPU.

        Each step takes the result of the one before. The GPU runs them as one, in its own memory.
        """
        if self.detector.device != "cpu":
            return {}
        return {"preprocess": self._preprocess, "network": self._network, "postprocess": self._postprocess}

    def inputs(self) -> tuple[tuple[int, int], ...]:
        """Returns each (height, width) of the network inputs once, the smallest first."""
        spec = self.detector.spec
        sizes = {Transform.plan(image.shape[:2], spec).padded for batch in self._batches for image in batch}
        return tuple(sorted(sizes))

    @property
    def precision(self) -> str:
        """The precision: "fp32", "fp16" or "int8"."""
        return "fp32" if self.detector.device == "cpu" else self._engine_info().precision

    def gpu_facts(self) -> dict[str, str]:
        """Returns the names of the GPU and of TensorRT; nothing on the CPU."""
        if self.detector.device == "cpu":
            return {}
        backend: Any = self.detector._backend
        capability = ".".join(map(str, backend._gpu.compute_capability))
        return {
            "GPU": f"{backend._gpu.name}, compute capability {capability}",
            "TensorRT": backend._engine.tensorrt,
        }

    def _engine_info(self) -> EngineInfo:
        backend: Any = self.detector._backend
        return EngineInfo.load(backend._engine.path)

    def _images(self, turn: int) -> list[npt.NDArray[Any]]:
        return self._batches[turn % len(self._batches)]

    def _call(self, turn: int) -> object:
        images = self._images(turn)
        return self.detector(images[0]) if len(images) == 1 else self.detector([*images])

    def _preprocess(self, turn: int) -> None:
        images, spec = self._images(turn), self.detector.spec
        transforms = [Transform.plan(image.shape[:2], spec) for image in images]
        self._ready = [
            preprocess([images[index] for index in members], [transforms[index] for index in members], spec)
            for members in self.detector._batches(transforms)
        ]

    def _network(self, turn: int) -> None:
        self._heads = [self.detector._backend.infer(batch.tensor) for batch in self._ready]

    def _postprocess(self, turn: int) -> object:
        detector = self.detector
        return [
            postprocess(
                heads,
                detector.spec,
                batch.transforms,
                score_threshold=detector.score_threshold,
                class_ids=detector._default_class_ids,
            )
            for heads, batch in zip(self._heads, self._ready, strict=True)
        ]
