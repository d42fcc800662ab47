"""The CUDA kernels behind the signatures of `_native`: NumPy arrays in and out, the device emulated or real."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
POISON = 0xA5


class Memory(Protocol):
    """Device memory for the length of one call."""

    def put(self, array: Array) -> int:
        """Copies to the device and returns the address."""

    def room(self, shape: Sequence[int], dtype: Any) -> int:
        """Poisoned device memory for an array; returns the address."""

    def take(self, address: int) -> Array:
        """What is in the memory made by room(), once all launched work is done."""


class HostMemory:
    """Of the emulated device, which reads the host's memory."""

    def __init__(self) -> None:
        self._arrays: dict[int, Array] = {}

    def put(self, array: Array) -> int:
        return self._keep(np.ascontiguousarray(array))

    def room(self, shape: Sequence[int], dtype: Any) -> int:
        poisoned = np.empty(shape, dtype)
        poisoned.reshape(-1).view(np.uint8)[:] = POISON
        return self._keep(poisoned)

    def take(self, address: int) -> Array:
        return self._arrays[address]

    def _keep(self, array: Array) -> int:
        # Arrays without elements may share an address; no kernel looks behind it.
        self._arrays[array.ctypes.data] = array
        return int(array.ctypes.data)


class CudaOps:
    """preprocess_into(), decode(), nms(), soft_nms() and fuse() of `_native`, computed by `_native_cuda`.

    half: logits and deltas go in, and the canvas comes out, as float16.
    padding: None, or the channels of logits and deltas come last, with so many values behind those of each cell.
    """

    def __init__(
        self,
        native: ModuleType,
        memory: type[Memory] = HostMemory,
        *,
        half: bool = False,
        padding: int | None = None,
    ) -> None:
        self._native: Any = native
        self._memory = memory
        self._float = np.dtype(np.float16 if half else np.float32)
        self._padding = padding
        self.rescans: list[int] = []  # of the last decode(), one for each image

    def preprocess_into(
        self, image: npt.NDArray[np.uint8], canvas: Array, *, resized: tuple[int, int], antialias: bool, **options: Any
    ) -> None:
        """canvas: of the dtype that `half` says."""
        memory, image = self._memory(), np.ascontiguousarray(image)
        sizes = {"size": image.shape[:2], "resized": resized, "padded": canvas.shape[1:], "antialias": antialias}
        scratch_bytes = self._native.preprocess_scratch_bytes(**sizes)
        output = memory.room(canvas.shape, self._float)
        self._native.preprocess(
            format="rgb",
            pixels=memory.put(image),
            row_bytes=image.shape[1] * 3,
            **sizes,
            **options,
            output=output,
            dtype=self._float.name,
            scratch=memory.room((scratch_bytes,), np.uint8),
            scratch_bytes=scratch_bytes,
            stream=0,
        )
        canvas[...] = memory.take(output)

    def decode(
        self,
        logits: list[Array],
        deltas: list[Array],
        base_anchors: list[Array],
        *,
        strides: list[tuple[float, float]],
        clip_sizes: Array,
        logit_threshold: float,
        top_k: int,
        class_ids: list[int],
        class_thresholds: Array | None = None,
        ignored: Array | None = None,
        top_k_anchors: bool = False,
        **rules: Any,
    ) -> tuple[Array, Array, Array, Array]:
        """As `_native.decode`; what lies behind the counts is set to 0."""
        memory = self._memory()
        if class_thresholds is not None:
            rules["class_thresholds"] = memory.put(class_thresholds)
        if ignored is not None:
            rules |= {"ignored": memory.put(ignored), "ignored_regions": ignored.shape[1]}
        batch, channels = logits[0].shape[:2]
        anchors = len(base_anchors[0])
        classes = channels // anchors
        capacity = len(logits) * top_k * (classes if top_k_anchors else 1)
        mask = np.zeros(classes, np.uint8)
        mask[class_ids if class_ids else slice(None)] = 1
        shape = {
            "sizes": [array.shape[2:] for array in logits],
            "batch": batch,
            "anchors": anchors,
            "classes": classes,
            "top_k": top_k,
            "top_k_anchors": top_k_anchors,
            "cell_strides": [
                tuple(0 if self._padding is None else array.shape[1] + self._padding for array in pair)
                for pair in zip(logits, deltas, strict=True)
            ],
        }
        scratch_bytes = self._native.decode_scratch_bytes(**shape)
        results = {
            "boxes": memory.room((batch, capacity, 6 if rules.get("rotated") else 4), np.float32),
            "out_logits": memory.room((batch, capacity), np.float32),
            "class_ids": memory.room((batch, capacity), np.int32),
            "counts": memory.room((batch,), np.int32),
        }
        rescans = memory.room((batch,), np.int32)
        self._native.decode(
            logits=[memory.put(self._head(array)) for array in logits],
            deltas=[memory.put(self._head(array)) for array in deltas],
            base_anchors=[memory.put(array) for array in base_anchors],
            strides=strides,
            **shape,
            **rules,
            dtype=self._float.name,
            logit_threshold=memory.put(np.array([logit_threshold], np.float32)),
            class_mask=memory.put(mask),
            clip_sizes=memory.put(clip_sizes),
            **results,
            rescans=rescans,
            scratch=memory.room((scratch_bytes,), np.uint8),
            scratch_bytes=scratch_bytes,
            stream=0,
        )
        boxes, out_logits, out_classes, counts = (memory.take(address) for address in results.values())
        for image, count in enumerate(counts):
            for array in (boxes, out_logits, out_classes):
                array[image, count:] = 0
        self.rescans = memory.take(rescans).tolist()
        return boxes, out_logits, out_classes, counts

    def _head(self, array: Array) -> Array:
        """(N, C, H, W) as it lies in memory. Padding holds the highest value, which must not be taken for a logit."""
        array = array.astype(self._float)
        if self._padding is None:
            return array
        return np.pad(array.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (0, self._padding)), constant_values=np.inf)

    def nms(
        self, boxes: Array, logits: Array, class_ids: Array, counts: Array, *, max_detections: int, **rules: Any
    ) -> tuple[Array, Array]:
        """As `_native.nms`; that kept candidates were gathered rightly is asserted here."""
        return self._greedy("nms", boxes, logits, class_ids, counts, max_detections=max_detections, **rules)

    def rotated_nms(
        self, boxes: Array, logits: Array, class_ids: Array, counts: Array, *, max_detections: int, **rules: Any
    ) -> tuple[Array, Array]:
        """As `_native.rotated_nms`."""
        return self._greedy("rotated_nms", boxes, logits, class_ids, counts, max_detections=max_detections, **rules)

    def _greedy(
        self,
        op: str,
        boxes: Array,
        logits: Array,
        class_ids: Array,
        counts: Array,
        *,
        max_detections: int,
        **rules: Any,
    ) -> tuple[Array, Array]:
        memory = self._memory()
        batch, capacity = logits.shape
        room = max(1, min(max_detections, capacity))
        scratch_bytes = getattr(self._native, f"{op}_scratch_bytes")(
            batch=batch, capacity=max(1, capacity), max_detections=room
        )
        results = {
            "kept": memory.room((batch, room), np.int32),
            "kept_counts": memory.room((batch,), np.int32),
            "kept_boxes": memory.room((batch, room, boxes.shape[2]), np.float32),
            "kept_logits": memory.room((batch, room), np.float32),
            "kept_class_ids": memory.room((batch, room), np.int32),
        }
        getattr(self._native, op)(
            batch=batch,
            capacity=max(1, capacity),
            boxes=memory.put(boxes),
            logits=memory.put(logits),
            class_ids=memory.put(class_ids),
            counts=memory.put(counts),
            **rules,
            max_detections=room,
            **results,
            scratch=memory.room((scratch_bytes,), np.uint8),
            scratch_bytes=scratch_bytes,
            stream=0,
        )
        kept, kept_counts, kept_boxes, kept_logits, kept_classes = (memory.take(a) for a in results.values())
        for image, count in enumerate(kept_counts):
            best = kept[image, :count]
            assert kept_boxes[image, :count].tobytes() == boxes[image, best].tobytes()
            assert kept_logits[image, :count].tobytes() == logits[image, best].tobytes()
            assert kept_classes[image, :count].tobytes() == class_ids[image, best].tobytes()
        return kept, kept_counts

    def soft_nms(
        self,
        boxes: Array,
        logits: Array,
        class_ids: Array,
        counts: Array,
        *,
        score_thresholds: Array,
        max_detections: int,
        **rules: Any,
    ) -> tuple[Array, Array, Array]:
        """As `_native.soft_nms`; that kept candidates were gathered rightly is asserted here."""
        memory = self._memory()
        batch, room = len(counts), max(1, min(max_detections, logits.shape[1]))
        kept = memory.room((batch, room), np.int32)
        rules |= {"score_thresholds": memory.put(score_thresholds), "kept": kept}
        shape = {"max_detections": room, "classes": len(score_thresholds)}
        found, found_scores, found_classes, found_counts = self._scored(
            "soft_nms", memory, (boxes, logits, class_ids, counts), shape, rules
        )
        indices = memory.take(kept)
        for image, count in enumerate(found_counts):
            best = indices[image, :count]
            assert found[image, :count].tobytes() == boxes[image, best].tobytes()
            assert found_classes[image, :count].tobytes() == class_ids[image, best].tobytes()
        return indices, found_counts, found_scores

    def fuse(
        self,
        boxes: Array,
        logits: Array,
        class_ids: Array,
        counts: Array,
        *,
        classes: int,
        max_detections: int,
        **rules: Any,
    ) -> tuple[Array, Array, Array, Array]:
        """As `_native.fuse`."""
        room = max(1, min(max_detections, logits.shape[1]))
        shape = {"max_detections": room, "classes": classes}
        return self._scored("fuse", self._memory(), (boxes, logits, class_ids, counts), shape, rules)

    def _scored(
        self, op: str, memory: Memory, candidates: tuple[Array, ...], shape: dict[str, int], rules: dict[str, Any]
    ) -> tuple[Array, Array, Array, Array]:
        """boxes, scores, class_ids and counts that soft_nms or fuse gives; what lies behind the counts is set to 0."""
        boxes, logits, class_ids, counts = candidates
        batch, room = len(counts), shape["max_detections"]
        size = {"batch": batch, "capacity": max(1, logits.shape[1]), **shape}
        scratch_bytes = getattr(self._native, f"{op}_scratch_bytes")(**size)
        results = {
            "kept_boxes": memory.room((batch, room, 4), np.float32),
            "kept_scores": memory.room((batch, room), np.float32),
            "kept_class_ids": memory.room((batch, room), np.int32),
            "kept_counts": memory.room((batch,), np.int32),
        }
        getattr(self._native, op)(
            boxes=memory.put(boxes),
            logits=memory.put(logits),
            class_ids=memory.put(class_ids),
            counts=memory.put(counts),
            **size,
            **rules,
            **results,
            scratch=memory.room((scratch_bytes,), np.uint8),
            scratch_bytes=scratch_bytes,
            stream=0,
        )
        found, scores, classes, found_counts = (memory.take(address) for address in results.values())
        for image, count in enumerate(found_counts):
            for array in (found, scores, classes):
                array[image, count:] = 0
        return found, scores, classes, found_counts
