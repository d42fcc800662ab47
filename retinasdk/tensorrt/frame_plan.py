"""The memory layout of a lane, for one shape of the network's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.cuda.memory import Field, Layout
from retinasdk.pipeline.call_options import MAX_REGIONS
from retinasdk.pipeline.rules import (
    candidate_limit,
    decode_rules,
    detection_limit,
    level_clips,
    level_strides,
    suppression_op,
)
from retinasdk.pipeline.suppression import Suppression
from retinasdk.spec import ModelSpec
from retinasdk.tensorrt.head_layout import OutputMemory

if TYPE_CHECKING:
    import numpy.typing as npt


class FramePlan:
    """Lays out three blocks of memory, and derives the arguments of the decode and suppression kernels from them.

    The device block holds the network's tensors, the candidates and scratch memory. The parameter block holds what a
    call sets and needs one upload. The result block holds what a call returns and needs one download. Arrays hold the
    values of all images of the batch, image after image.

    Attributes:
        suppress_op: Name of the suppression kernel: "nms", "soft_nms" or "fuse".
        gives_logits: Whether `scores` holds logits. True for "nms" only.
        input: The network's input in the device block.
        outputs: The network's outputs in the device block, by name, as they lie in memory.
        device_bytes: Size of the device block in bytes.
        logit_threshold: Lowest threshold of all classes, as a logit, in the parameter block, as the following.
        clip_sizes: (images, 2) sizes to which boxes are clipped.
        class_thresholds: Threshold of each class, as a logit.
        score_thresholds: Threshold of each class, as a score.
        ignored: (images, MAX_REGIONS, 4) regions to ignore. A region without area ends the list.
        class_mask: 1 for each class that is wanted.
        parameter_bytes: Size of the parameter block in bytes.
        counts: Number of detections of each image, in the result block, as the following.
        rescans: Number of feature levels that the decode kernel had to read twice, of each image.
        boxes: (images, room, 4) boxes.
        scores: (images, room) scores or logits.
        class_ids: (images, room) class indices.
        result_bytes: Size of the result block in bytes.
    """

    def __init__(
        self,
        native: Any,
        spec: ModelSpec,
        shape: tuple[int, ...],
        input_dtype: np.dtype[Any],
        outputs: Mapping[str, OutputMemory],
        suppression: Suppression,
    ) -> None:
        """Computes the layout.

        Args:
            native: The module `_native_cuda`.
            spec: The spec of the model.
            shape: Shape of the network's input, (images, 3, height, width).
            input_dtype: Type of the network's input.
            outputs: How each output of the network lies in memory, by name.
            suppression: How overlapping boxes are resolved.

        Raises:
            ModelError: If the outputs do not fit the spec.
        """
        heads = [(outputs[level.logits], outputs[level.deltas]) for level in spec.levels]
        levels = [(logits.shape, deltas.shape) for logits, deltas in heads]
        batch, capacity = shape[0], candidate_limit(spec)
        room = min(detection_limit(suppression, spec), capacity)
        self.suppress_op, self._suppress_rules = suppression_op(suppression, spec)
        self.gives_logits = self.suppress_op in ("nms", "rotated_nms")
        values = 6 if spec.is_rotated else 4  # Of a box, see csrc/include/retinasdk/rotated_box_coder.h.
        self._spec = spec
        self._dtype = heads[0][0].dtype
        self._memory = outputs
        self._cell_strides = [(logits.cell_stride, deltas.cell_stride) for logits, deltas in heads]
        self._strides = level_strides(levels, spec, (shape[2], shape[3]))
        self._level_clips = level_clips(levels, self._strides, spec)
        self._sizes = [(logits[2], logits[3]) for logits, _ in levels]
        self._shape = {"batch": batch, "anchors": spec.anchors_per_cell, "classes": len(spec.labels)}
        self._capacity, self._room = capacity, room

        device = Layout()
        self.input: Field = device.add(shape, input_dtype)
        self.outputs: dict[str, Field] = {
            name: device.add(memory.memory_shape, memory.dtype) for name, memory in outputs.items()
        }
        self._candidates = {
            "boxes": device.add((batch, capacity, values), np.float32),
            "logits": device.add((batch, capacity), np.float32),
            "class_ids": device.add((batch, capacity), np.int32),
            "counts": device.add((batch,), np.int32),
        }
        self._kept_indices = device.add((batch, room), np.int32)
        # Decode and suppression run one after the other, so they share their scratch memory.
        suppress_scratch_bytes = getattr(native, f"{self.suppress_op}_scratch_bytes")
        # Soft NMS and box fusion work class by class, so they need the number of classes.
        self._classes = {} if self.gives_logits else {"classes": len(spec.labels)}
        self._scratch_bytes = max(
            native.decode_scratch_bytes(
                sizes=self._sizes,
                top_k=spec.top_k,
                top_k_anchors=spec.top_k_unit == "anchor",
                cell_strides=self._cell_strides,
                **self._shape,
            ),
            suppress_scratch_bytes(batch=batch, capacity=capacity, max_detections=room, **self._classes),
        )
        self._scratch = device.add((self._scratch_bytes,), np.uint8)
        self.device_bytes = device.size_bytes

        parameters = Layout(alignment=4)
        self.logit_threshold: Field = parameters.add((1,), np.float32)
        self.clip_sizes: Field = parameters.add((batch, 2), np.float32)
        self.class_thresholds: Field = parameters.add((len(spec.labels),), np.float32)
        self.score_thresholds: Field = parameters.add((len(spec.labels),), np.float32)
        self.ignored: Field = parameters.add((batch, MAX_REGIONS, 4), np.float32)
        self.class_mask: Field = parameters.add((len(spec.labels),), np.uint8)
        self.parameter_bytes = parameters.size_bytes

        results = Layout(alignment=4)
        self.counts: Field = results.add((batch,), np.int32)
        self.rescans: Field = results.add((batch,), np.int32)
        self.boxes: Field = results.add((batch, room, values), np.float32)
        self.scores: Field = results.add((batch, room), np.float32)
        self.class_ids: Field = results.add((batch, room), np.int32)
        self.result_bytes = results.size_bytes

    def channels_first(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Returns the (N, C, H, W) float32 array of a head output that was copied from `outputs`."""
        return np.ascontiguousarray(self._memory[name].channels_first(values), np.float32)

    def decode_arguments(
        self, device: int, parameters: int, results: int, base_anchors: Sequence[int]
    ) -> dict[str, Any]:
        """Returns the arguments of `_native_cuda.decode`, without the stream.

        Args:
            device: Address of the device block.
            parameters: Address of the parameter block.
            results: Address of the result block.
            base_anchors: Address of the base anchors of each feature level.

        Returns:
            The arguments by name.
        """
        spec = self._spec
        candidates = {name: device + field.offset for name, field in self._candidates.items()}
        return {
            "logits": [device + self.outputs[level.logits].offset for level in spec.levels],
            "deltas": [device + self.outputs[level.deltas].offset for level in spec.levels],
            "base_anchors": list(base_anchors),
            "sizes": self._sizes,
            "strides": self._strides,
            "level_clips": self._level_clips,
            "cell_strides": self._cell_strides,
            **self._shape,
            "dtype": self._dtype.name,
            **decode_rules(spec),
            "logit_threshold": parameters + self.logit_threshold.offset,
            "class_mask": parameters + self.class_mask.offset,
            "clip_sizes": parameters + self.clip_sizes.offset,
            "class_thresholds": parameters + self.class_thresholds.offset,
            "ignored": parameters + self.ignored.offset,
            "ignored_regions": MAX_REGIONS,
            "boxes": candidates["boxes"],
            "out_logits": candidates["logits"],
            "class_ids": candidates["class_ids"],
            "counts": candidates["counts"],
            "rescans": results + self.rescans.offset,
            "scratch": device + self._scratch.offset,
            "scratch_bytes": self._scratch_bytes,
        }

    def suppress_arguments(self, device: int, parameters: int, results: int) -> dict[str, Any]:
        """Returns the arguments of the suppression kernel `suppress_op`, without the stream.

        Args:
            device: Address of the device block.
            parameters: Address of the parameter block.
            results: Address of the result block.

        Returns:
            The arguments by name.
        """
        arguments = {
            "batch": self._shape["batch"],
            "capacity": self._capacity,
            **{name: device + field.offset for name, field in self._candidates.items()},
            **self._suppress_rules,
            **self._classes,
            "max_detections": self._room,
            "kept_counts": results + self.counts.offset,
            "kept_boxes": results + self.boxes.offset,
            "kept_logits" if self.gives_logits else "kept_scores": results + self.scores.offset,
            "kept_class_ids": results + self.class_ids.offset,
            "scratch": device + self._scratch.offset,
            "scratch_bytes": self._scratch_bytes,
        }
        if self.suppress_op != "fuse":  # Fusion returns new boxes, so it has no indices of candidates to return.
            arguments["kept"] = device + self._kept_indices.offset
        if self.suppress_op == "soft_nms":
            arguments["score_thresholds"] = parameters + self.score_thresholds.offset
        return arguments
