"""A lane: one execution context with its stream, memory and CUDA graph. It processes whole frames on the GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.device import CudaStream
from retinasdk.cuda.device_image import DeviceImage
from retinasdk.cuda.graph import GraphRunner
from retinasdk.cuda.memory import DeviceBuffer, Field, SharedBuffer
from retinasdk.errors import DeviceError
from retinasdk.pipeline.call_options import Thresholds
from retinasdk.pipeline.postprocess import sigmoid
from retinasdk.pipeline.preprocess import Transform
from retinasdk.pipeline.rules import clip_sizes, each_class, ignored_regions, logit, logit_thresholds, lowest_threshold
from retinasdk.pipeline.stage_timing import stage
from retinasdk.pipeline.suppression import AS_FRAMEWORK, Suppression
from retinasdk.pipeline.types import HeadOutputs, Kept
from retinasdk.tensorrt.frame_plan import FramePlan
from retinasdk.tensorrt.lane_images import LaneImages, PreparedImages
from retinasdk.tensorrt.loaded_engine import Engine
from retinasdk.tensorrt.versions import collected_errors, reason

if TYPE_CHECKING:
    import numpy.typing as npt

_log = logging.getLogger("retinasdk")


class Lane:
    """Processes one call at a time. The device's context must be current in the calling thread.

    If an image's size and place in memory are those of a recent call, the whole frame is one CUDA graph: upload,
    preprocessing, network, decoding, suppression and download. Otherwise the images are uploaded and preprocessed by
    launches of their own, and a graph does the rest, which only depends on the shape of the network's input.

    Attributes:
        shape: The shape of the network's input that the lane is set up for. None before the first call.
    """

    def __init__(self, engine: Engine, refused: set[Hashable], suppression: Suppression = AS_FRAMEWORK) -> None:
        """Creates the stream and the execution context. Memory is allocated by the first call.

        Args:
            engine: The engine to run.
            refused: Shapes that cannot be captured as a CUDA graph. All lanes of an engine share the set.
            suppression: How overlapping boxes are resolved.

        Raises:
            DeviceError: If the GPU fails or has too little memory.
        """
        device = engine.device
        self._engine = engine
        self._suppression = suppression
        self._device = device
        self._native = device.native
        self._frame = DeviceBuffer(device, "the network's tensors, candidates and scratch")
        self._parameters = SharedBuffer(device, "thresholds and image sizes", mapped=False)
        # If the GPU shares the CPU's memory, results, which are written once, are not copied.
        self._results = SharedBuffer(device, "results", mapped=device.integrated)
        self._graphs = GraphRunner(self._native, refused)
        self._context: Any = None
        self._stream = CudaStream(device)
        self._images = LaneImages(device, engine.spec, self._stream)
        try:
            self._context = engine.new_context()
        except BaseException:
            self.close()
            raise
        self.shape: tuple[int, ...] | None = None
        self._plan: FramePlan
        self._decode_arguments: dict[str, Any]
        self._suppress: Callable[..., None]
        self._suppress_arguments: dict[str, Any]

    @property
    def is_usable(self) -> bool:
        """Whether the context may use the engine's profile. Up to TensorRT 8.6, only one context may at a time."""
        return bool(self._context.active_optimization_profile >= 0)

    def detect(
        self,
        images: Sequence[npt.NDArray[np.uint8] | DeviceImage],
        transforms: Sequence[Transform],
        *,
        score_threshold: Thresholds,
        class_ids: Sequence[int],
        ignore: npt.NDArray[np.float32] | None = None,
    ) -> list[Kept]:
        """Detects objects in images. See `Backend.detect`."""
        with stage("inference"):
            self._set_shape((len(images), 3, *transforms[0].padded))
        with stage("preprocess"):
            self._set_parameters(transforms, score_threshold, class_ids, ignore)
            target = self._plan.input
            prepared = self._images.prepare(images, transforms, target, self._address(target))
        with stage("inference"):
            self._graphs.run(
                prepared.key,
                self._stream.handle,
                partial(self._launch_frame, prepared),
                directly=partial(self._launch_in_two_parts, prepared),
            )
            self._stream.wait()
        del prepared  # From here on, the owners of images on the GPU may reuse their memory.
        with stage("postprocess"):
            return self._read_results()

    def infer(self, tensor: npt.NDArray[np.float32]) -> HeadOutputs:
        """Runs the network alone. See `Backend.infer`. Head outputs in float16 are converted to float32."""
        self._set_shape(tensor.shape)
        plan, driver = self._plan, self._device.driver
        outputs = {name: np.empty(field.shape, field.dtype) for name, field in plan.outputs.items()}
        given = np.ascontiguousarray(tensor, dtype=plan.input.dtype)
        with self._device.doing("running the network"):
            driver.memcpy_htod_async(self._address(plan.input), given, self._stream.driver_stream)
            self._launch_network()
            for name, output in outputs.items():
                driver.memcpy_dtoh_async(output, self._address(plan.outputs[name]), self._stream.driver_stream)
        self._stream.wait()
        levels = self._engine.spec.levels
        return HeadOutputs(
            tuple(plan.channels_first(level.logits, outputs[level.logits]) for level in levels),
            tuple(plan.channels_first(level.deltas, outputs[level.deltas]) for level in levels),
        )

    def close(self) -> None:
        """Waits for launched work and releases everything. Failures are logged, so that the rest is released too."""
        buffers = (self._frame, self._parameters, self._results, self._images)
        frees = [buffer.free for buffer in buffers]
        for release in (self._stream.wait, self._graphs.forget, self._drop_context, *frees, self._stream.close):
            try:
                release()
            except (DeviceError, self._device.driver.Error) as error:
                _log.warning("A GPU resource could not be released, so its memory may be lost: %s", error)

    # -- setting up for a shape ----------------------------------------------------------------------------------------

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        """Prepares the memory and the context for an input of this shape, unless the last call had the same one."""
        if shape == self.shape:
            return
        self._graphs.begin(shape)
        self.shape = None
        engine = self._engine
        # The context gets no local variable: after an error, the traceback would keep it alive.
        with collected_errors() as errors:
            if not self._context.set_input_shape(engine.spec.input, shape):
                raise DeviceError(f"TensorRT rejects the input shape {shape}: {reason(errors, 'it gives no reason')}.")
            stored = engine.stored_outputs(self._context)
        outputs = engine.output_memory(stored)
        plan = FramePlan(self._native, engine.spec, shape, engine.input_dtype, outputs, self._suppression)
        self._frame.reserve(plan.device_bytes)
        self._parameters.reserve(plan.parameter_bytes)
        self._results.reserve(plan.result_bytes)
        self._plan = plan
        with collected_errors() as errors:
            for name, field in {engine.spec.input: plan.input, **plan.outputs}.items():
                if not self._context.set_tensor_address(name, self._address(field)):
                    why = reason(errors, "it gives no reason")
                    raise DeviceError(f"{engine.path}: TensorRT rejects the address of the tensor {name!r}: {why}.")
        device, results = self._frame.address, self._results.address
        self._decode_arguments = plan.decode_arguments(device, self._parameters.address, results, engine.base_anchors)
        self._suppress = getattr(self._native, plan.suppress_op)
        self._suppress_arguments = plan.suppress_arguments(device, self._parameters.address, results)
        # TensorRT for RTX can tell in advance. With the others, the attempt fails.
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._stream.handle):
            self._graphs.refuse("TensorRT reports that it cannot be captured")
        self.shape = shape

    def _address(self, field: Field) -> int:
        return self._frame.address + field.offset

    # -- one frame -----------------------------------------------------------------------------------------------------

    def _set_parameters(
        self,
        transforms: Sequence[Transform],
        score_threshold: Thresholds,
        class_ids: Sequence[int],
        ignore: npt.NDArray[np.float32] | None = None,
    ) -> None:
        plan, block = self._plan, self._parameters.host
        thresholds = each_class(score_threshold, self._engine.spec)
        plan.logit_threshold.view(block)[0] = logit(lowest_threshold(score_threshold, class_ids))
        plan.class_thresholds.view(block)[:] = logit_thresholds(thresholds)
        plan.score_thresholds.view(block)[:] = thresholds
        regions = plan.ignored.view(block)
        regions[:] = 0  # A region without area ends the list.
        if ignore is not None:
            regions[:, : len(ignore)] = ignored_regions(ignore, transforms)
        plan.clip_sizes.view(block)[:] = clip_sizes(transforms, self._engine.spec)
        mask = plan.class_mask.view(block)
        mask[:] = not class_ids
        mask[list(class_ids)] = 1

    def _launch_frame(self, images: PreparedImages) -> None:
        self._images.launch(images)
        self._launch_network_to_results()

    def _launch_in_two_parts(self, images: PreparedImages) -> None:
        """Launches a frame like no other before: from the network on, it may be like those of other images."""
        self._images.launch(images)
        self._graphs.run("network to results", self._stream.handle, self._launch_network_to_results)

    def _launch_network_to_results(self) -> None:
        with self._device.doing("launching a frame"):
            self._parameters.upload(0, self._plan.parameter_bytes, self._stream)
            self._launch_network()
            self._native.decode(**self._decode_arguments, stream=self._stream.handle)
            self._suppress(**self._suppress_arguments, stream=self._stream.handle)
            self._results.download(0, self._plan.result_bytes, self._stream)

    def _launch_network(self) -> None:
        with collected_errors() as errors:
            if not self._context.execute_async_v3(self._stream.handle):
                raise DeviceError(
                    f"TensorRT failed on the input shape {self._plan.input.shape}: "
                    f"{reason(errors, 'it gives no reason')}."
                )

    def _read_results(self) -> list[Kept]:
        plan, block = self._plan, self._results.host
        again = int(plan.rescans.view(block).sum())
        if again:
            _log.debug("%d feature levels had more candidates than the buffer holds and were read twice.", again)
        boxes, scores, class_ids = (field.view(block) for field in (plan.boxes, plan.scores, plan.class_ids))
        as_scores = sigmoid if plan.gives_logits else np.copy
        # The arrays are copied, because the next call overwrites the block.
        return [
            Kept(boxes[image, :count].copy(), as_scores(scores[image, :count]), class_ids[image, :count].copy())
            for image, count in enumerate(plan.counts.view(block))
        ]

    def _drop_context(self) -> None:
        self._context = None
