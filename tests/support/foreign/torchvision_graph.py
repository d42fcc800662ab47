"""A RetinaNet graph as torchvision exports it as a whole: image (3, H, W) in, boxes, scores and labels out.

The whole graph runs in ONNX Runtime: normalization, resize and padding, the network, anchors, decoding and NMS.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from .wrap import ANCHORS, Wrapped, flat

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLAMP = 4.135166556742356
LIMITS = (128, 224)  # Shorter and longest side after the resize.
# (x2, y2) of anchors centered at 0, by level, then by ratio; printed by torchvision.
CORNERS = (
    ((23, 11), (28, 14), (35, 18), (16, 16), (20, 20), (25, 25), (11, 23), (14, 28), (18, 35)),
    ((45, 23), (57, 28), (71, 36), (32, 32), (40, 40), (50, 50), (23, 45), (28, 57), (36, 71)),
    ((91, 45), (114, 57), (144, 72), (64, 64), (80, 80), (102, 102), (45, 91), (57, 114), (72, 144)),
    ((181, 91), (228, 114), (287, 144), (128, 128), (161, 161), (203, 203), (91, 181), (114, 228), (144, 287)),
    ((362, 181), (456, 228), (574, 287), (256, 256), (322, 322), (406, 406), (181, 362), (228, 456), (287, 574)),
)


def torchvision_graph(
    classes: int = 3, *, opset: int = 17, score_threshold: float = 0.05, with_anchors: bool = True
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Returns the whole graph and the network inside it. with_anchors=False replaces the base anchors by squares."""
    w = Wrapped(classes, deltas_gain=0.05)
    w.before()
    sides = _shape_part(w, "image", 1, 3)
    pixels = w.op("Sub", "image", w.constant(np.reshape(MEAN, (3, 1, 1))), name="/transform/Sub")
    pixels = w.op("Div", pixels, w.constant(np.reshape(STD, (3, 1, 1))), name="/transform/Div")
    resized, resized_sides = _resize(w, pixels, sides)
    w.feed(_pad(w, resized, resized_sides))
    w.behind()
    padded_sides = _shape_part(w, w.images, 2, 4)
    boxes, scores, labels = [], [], []
    for level, (logits, deltas) in enumerate(zip(w.logits, w.deltas, strict=True)):
        grid = _shape_part(w, logits, 2, 4)
        corners = np.array(CORNERS[level], np.float32)
        if not with_anchors:
            corners = corners * 0 + np.float32(8 * 2**level)
        anchors = _anchors(w, corners, grid, w.op("Div", padded_sides, grid))
        found = _decode_level(w, flat(w, logits, classes), flat(w, deltas, 4), anchors, score_threshold, resized_sides)
        for part, values in zip((boxes, scores, labels), found, strict=True):
            part.append(values)
    outputs = _suppress(w, *(w.op("Concat", *part, axis=0) for part in (boxes, scores, labels)))
    ratio = w.op("Div", w.op("Cast", sides, to=TensorProto.FLOAT), w.op("Cast", resized_sides, to=TensorProto.FLOAT))
    ratio = w.op("Gather", ratio, w.constant([1, 0, 1, 0]), axis=0)
    made = [w.op("Mul", outputs[0], ratio), *outputs[1:]]
    return w.model([("image", TensorProto.FLOAT, (3, "H", "W"))], made, opset=opset), w.network


def _shape_part(w: Wrapped, tensor: str, first: int, last: int) -> str:
    return w.op("Slice", w.op("Shape", tensor), w.constant([first]), w.constant([last]), w.constant([0]))


def _resize(w: Wrapped, pixels: str, sides: str) -> tuple[str, str]:
    floats = w.op("Cast", sides, to=TensorProto.FLOAT)
    factors = []
    for kind, limit in zip(("ReduceMin", "ReduceMax"), LIMITS, strict=True):
        side = w.op("Cast", w.op(kind, floats, keepdims=0), to=TensorProto.FLOAT)
        factors.append(w.op("Mul", w.op("Reciprocal", side), w.constant(float(limit))))
    scaled = w.op("Floor", w.op("Mul", floats, w.op("Min", *factors)))
    target = w.op("Cast", scaled, to=TensorProto.INT64)
    batch = w.op("Unsqueeze", pixels, w.constant([0]))
    size = w.op("Concat", w.constant([1, 3]), target, axis=0)
    modes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    resized = w.op("Resize", batch, "", "", size, name="/transform/Resize", **modes)
    return w.op("Gather", resized, w.constant(0), axis=0), target


def _pad(w: Wrapped, pixels: str, sides: str) -> str:
    """Pads right and bottom to multiples of 32, and adds the batch dimension."""
    tiles = w.op("Ceil", w.op("Div", w.op("Cast", sides, to=TensorProto.FLOAT), w.constant(32.0)))
    padded = w.op("Cast", w.op("Mul", tiles, w.constant(32.0)), to=TensorProto.INT64)
    pads = w.op("Concat", w.constant([0, 0, 0, 0]), w.op("Sub", padded, sides), axis=0)
    return w.op("Concat", w.op("Unsqueeze", w.op("Pad", pixels, pads, ""), w.constant([0])), axis=0)


def _anchors(w: Wrapped, corners: np.ndarray, grid: str, stride: str) -> str:  # type: ignore[type-arg]
    """Returns (h * w * A, 4): the base anchors of every cell, row by row."""
    base = w.constant(
        np.concatenate([-corners, corners], axis=1).reshape(1, ANCHORS, 4), f"anchors_{w.op('Shape', grid)}"
    )
    shifts = []
    for axis in (0, 1):
        count = w.op("Squeeze", w.op("Slice", grid, w.constant([axis]), w.constant([axis + 1])), w.constant([0]))
        step = w.op("Slice", stride, w.constant([axis]), w.constant([axis + 1]))
        shifts.append(w.op("Mul", w.op("Range", w.constant(0), count, w.constant(1)), step))
    rows = w.op("Expand", w.op("Reshape", shifts[0], w.constant([-1, 1])), grid)
    columns = w.op("Expand", w.op("Reshape", shifts[1], w.constant([1, -1])), grid)
    flat_rows, flat_columns = (w.op("Reshape", item, w.constant([-1, 1])) for item in (rows, columns))
    shift = w.op("Concat", flat_columns, flat_rows, flat_columns, flat_rows, axis=1)
    shift = w.op("Reshape", w.op("Cast", shift, to=TensorProto.FLOAT), w.constant([-1, 1, 4]))
    return w.op("Reshape", w.op("Add", shift, base), w.constant([-1, 4]))


def _decode_level(
    w: Wrapped, logits: str, deltas: str, anchors: str, threshold: float, limits: str
) -> tuple[str, str, str]:
    scores = w.op("Reshape", w.op("Sigmoid", logits), w.constant([-1]))
    candidates = w.op("Reshape", w.op("NonZero", w.op("Greater", scores, w.constant(threshold))), w.constant([-1]))
    scores = w.op("Gather", scores, candidates)
    wanted = w.op("Min", w.op("Shape", scores), w.constant([1000]))
    best = w.op("TopK", scores, wanted, outputs=2)
    chosen = w.op("Gather", candidates, best.removesuffix("_0") + "_1")
    place = w.op("Div", chosen, w.constant(w.classes))
    label = w.op("Mod", chosen, w.constant(w.classes))
    anchor = w.op("Gather", anchors, place)
    delta = w.op("Gather", w.op("Squeeze", deltas, w.constant([0])), place)
    boxes = _decode(w, anchor, delta)
    size = w.op("Cast", w.op("Gather", limits, w.constant([1, 0, 1, 0])), to=TensorProto.FLOAT)
    return w.op("Min", w.op("Max", boxes, w.constant(0.0)), size), best, label


def _columns(w: Wrapped, tensor: str, first: int, last: int) -> str:
    return w.op("Slice", tensor, w.constant([first]), w.constant([last]), w.constant([1]))


def _decode(w: Wrapped, anchors: str, deltas: str) -> str:
    upper, lower = _columns(w, anchors, 0, 2), _columns(w, anchors, 2, 4)
    sides = w.op("Sub", lower, upper)
    centres = w.op("Add", upper, w.op("Mul", sides, w.constant(0.5)))
    moves = w.op("Div", _columns(w, deltas, 0, 2), w.constant([1.0, 1.0]))
    growth = w.op("Clip", w.op("Div", _columns(w, deltas, 2, 4), w.constant([1.0, 1.0])), "", w.constant(CLAMP))
    centres = w.op("Add", w.op("Mul", moves, sides), centres)
    halves = w.op("Mul", w.constant(0.5), w.op("Mul", w.op("Exp", growth), sides))
    return w.op("Concat", w.op("Sub", centres, halves), w.op("Add", centres, halves), axis=1)


def _suppress(w: Wrapped, boxes: str, scores: str, labels: str) -> list[str]:
    """One NMS for all classes: boxes of each class are shifted apart from those of the others."""
    largest = w.op("Add", w.op("ReduceMax", boxes, keepdims=0), w.constant(1.0))
    offsets = w.op("Mul", w.op("Cast", labels, to=TensorProto.FLOAT), largest)
    apart = w.op("Add", boxes, w.op("Unsqueeze", offsets, w.constant([1])))
    kept = w.op(
        "NonMaxSuppression",
        w.op("Unsqueeze", apart, w.constant([0])),
        w.op("Unsqueeze", scores, w.constant([0, 1])),
        w.constant([1 << 30]),
        w.constant([0.5]),
    )
    kept = w.op("Reshape", _columns(w, kept, 2, 3), w.constant([-1]))
    kept = w.op("Slice", kept, w.constant([0]), w.constant([300]))
    return [w.op("Gather", values, kept, axis=0) for values in (boxes, scores, labels)]
