"""RetinaNet graphs as mmdeploy, ODTK, keras-retinanet (by tf2onnx) and plain exporters write them.

Each function returns the graph of the framework and the network that is inside it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .torchvision_graph import decode_boxes, grid_anchors, shape_part
from .wrap import ANCHORS, LEVELS, Wrapped, flat

Graphs = tuple[onnx.ModelProto, onnx.ModelProto]
LN_1000_16 = 4.135166556742356


def size_major_anchors(level: int) -> np.ndarray:  # type: ignore[type-arg]
    """Anchors of detectron2, centered at 0: three sizes, each with three ratios."""
    sizes = 4 * 2.0**level * 2.0 ** (np.arange(3) / 3)
    ratios = np.sqrt([0.5, 1.0, 2.0])
    halves = np.stack([sizes[:, None] / ratios, sizes[:, None] * ratios], axis=-1).reshape(-1, 2) / 2
    return np.concatenate([-halves, halves], axis=1).astype(np.float32)


def ratio_major_anchors(level: int) -> np.ndarray:  # type: ignore[type-arg]
    """Anchors of mmdetection and keras-retinanet, centered at 0: three ratios, each with three sizes."""
    return size_major_anchors(level).reshape(3, 3, 4).transpose(1, 0, 2).reshape(-1, 4)


def raw_heads(classes: int = 3) -> Graphs:
    """Only raw heads, with tensor names as PyTorch writes them."""
    w = Wrapped(classes)
    names = {name: f"/head/{name}/Conv_output_0" for name in w.logits + w.deltas}
    for node in w.nodes:
        node.output[:] = [names.get(name, name) for name in node.output]
    outputs = [names[name] for pair in zip(w.deltas, w.logits, strict=True) for name in pair]
    return w.model(outputs=outputs), w.network


def flat_heads(classes: int = 3, *, sigmoid: bool = False, by_value: bool = False) -> Graphs:
    """Heads reshaped to (N, cells * A, K) and (N, cells * A, 4), all levels together, with or without the sigmoid."""
    w = Wrapped(classes)
    scores = w.op("Concat", *(flat(w, name, classes, by_value=by_value) for name in w.logits), axis=1)
    boxes = w.op("Concat", *(flat(w, name, 4, by_value=by_value) for name in w.deltas), axis=1)
    return w.model(outputs=[w.op("Sigmoid", scores) if sigmoid else scores, boxes]), w.network


def decoded(classes: int, anchors: str, *, bounds: tuple[float | None, float | None], factor: float = 1.0) -> Graphs:
    """Heads decoded with a clamped exp and base anchors in the graph, as tracing of detectron2 and mmdetection gives.

    anchors: what varies slowest, "size" or "ratio". bounds, factor: clamp and factor of dw and dh.
    """
    w = Wrapped(classes)
    make = {"size": size_major_anchors, "ratio": ratio_major_anchors}[anchors]
    boxes = [
        _decode(w, flat(w, name, 4), w.constant(make(level), f"base_anchors_{level}"), bounds, factor)
        for level, name in zip(LEVELS, w.deltas, strict=True)
    ]
    scores = [w.op("Sigmoid", flat(w, name, classes)) for name in w.logits]
    return w.model(outputs=[w.op("Concat", *boxes, axis=1), w.op("Concat", *scores, axis=1)]), w.network


def _decode(w: Wrapped, deltas: str, base: str, bounds: tuple[float | None, float | None], factor: float) -> str:
    """Decodes without the shifts of the cells, which the tests do not need."""
    cells = w.op("Reshape", deltas, w.constant([0, -1, ANCHORS, 4]))
    growth = w.op("Slice", cells, w.constant([2]), w.constant([4]), w.constant([3]))
    moves = w.op("Slice", cells, w.constant([0]), w.constant([2]), w.constant([3]))
    growth = w.op("Mul", growth, w.constant(factor))
    growth = w.op("Clip", growth, *("" if bound is None else w.constant(bound) for bound in bounds))
    shaped = w.op("Concat", moves, w.op("Exp", growth), axis=3)
    return w.op("Reshape", w.op("Add", shaped, base), w.constant([0, -1, 4]))


def mmdeploy(classes: int = 3, sides: tuple[int, int] = (96, 160)) -> Graphs:
    """A fixed input size, and an NMS that is a TensorRT plugin, which ONNX Runtime cannot run."""
    w = Wrapped(classes)
    _write_sizes(w, sides)
    boxes = w.op("Concat", *(flat(w, name, 4) for name in w.deltas), axis=1)
    growth = w.op("Slice", boxes, w.constant([2]), w.constant([4]), w.constant([2]))
    growth = w.op("Exp", w.op("Clip", growth, w.constant(-LN_1000_16), w.constant(LN_1000_16)))
    scores = w.op("Sigmoid", w.op("Concat", *(flat(w, name, classes) for name in w.logits), axis=1))
    found = w.op("TRTBatchedNMS", growth, scores, outputs=2, domain="mmdeploy", iou_threshold=0.5)
    inputs = [("input", TensorProto.FLOAT, (1, 3, *sides))]
    for node in w.nodes:
        node.input[:] = ["input" if name == "images" else name for name in node.input]
    model = w.model(inputs, [found, found.removesuffix("_0") + "_1"], domains=["mmdeploy"])
    return model, w.network


def mmdeploy_whole(classes: int = 3, *, max_detections: int = 100) -> Graphs:
    """A dynamic size; anchors, decoding, clipping to the shape of the input, and the standard NMS for each class.

    There are fewer candidates than mmdeploy's top-k, so the graph has none.
    """
    w = Wrapped(classes, deltas_gain=0.2)
    sides = shape_part(w, "images", 2, 4)
    boxes = []
    for level, deltas in zip(LEVELS, w.deltas, strict=True):
        corners = ratio_major_anchors(level)[:, 2:]
        anchors = grid_anchors(w, corners, shape_part(w, deltas, 2, 4), w.constant([1 << level] * 2))
        moved = w.op("Squeeze", flat(w, deltas, 4), w.constant([0]))
        boxes.append(decode_boxes(w, anchors, moved, lower_bound=-LN_1000_16))
    limits = w.op("Cast", w.op("Gather", sides, w.constant([1, 0, 1, 0])), to=TensorProto.FLOAT)
    clipped = w.op("Min", w.op("Max", w.op("Concat", *boxes, axis=0), w.constant(0.0)), limits)
    logits = w.op("Concat", *(flat(w, name, classes) for name in w.logits), axis=1)
    scores = w.op("Transpose", w.op("Sigmoid", logits), perm=[0, 2, 1])
    limit, iou, score = w.constant([200]), w.constant([0.5]), w.constant([0.05])
    kept = w.op("NonMaxSuppression", w.op("Unsqueeze", clipped, w.constant([0])), scores, limit, iou, score)
    label, place = (
        w.op("Reshape", w.op("Slice", kept, *(w.constant([at]) for at in (column, column + 1, 1))), w.constant([-1]))
        for column in (1, 2)
    )
    each = w.op("Transpose", w.op("Squeeze", scores, w.constant([0])), perm=[1, 0])
    values = w.op("GatherND", each, w.op("Concat", *(_column(w, item) for item in (place, label)), axis=1))
    wanted = w.op("Min", w.op("Shape", values), w.constant([max_detections]))
    best = w.op("TopK", values, wanted, outputs=2)
    order = best.removesuffix("_0") + "_1"
    found = w.op("Gather", clipped, w.op("Gather", place, order))
    return w.model(outputs=[found, best, w.op("Gather", label, order)]), w.network


def _column(w: Wrapped, tensor: str) -> str:
    return w.op("Unsqueeze", tensor, w.constant([1]))


def _write_sizes(w: Wrapped, sides: tuple[int, int]) -> None:
    """Writes the sizes of the Resize nodes as constants, as constant folding does."""
    resizes = [node for node in w.nodes if node.op_type == "Resize"]
    for level, node in zip((4, 3), resizes, strict=True):
        node.input[3] = w.constant([1, 16, sides[0] >> level, sides[1] >> level])


def odtk(classes: int = 3) -> Graphs:
    """The sigmoid of the logits and the raw deltas of each level."""
    w = Wrapped(classes)
    scores = [w.op("Sigmoid", name) for name in w.logits]
    return w.model(outputs=[*scores, *w.deltas]), w.network


def keras(classes: int = 3, *, pads_last: bool = True) -> Graphs:
    """NHWC input; padding and biases as separate nodes; boxes as corner offsets scaled by 0.2.

    pads_last: whether the padding comes after the transpose to NCHW.
    """
    w = Wrapped(classes)
    biases = _take_biases(w)
    w.before()
    if pads_last:
        w.feed(_pad_first(w, w.op("Transpose", "input_1", perm=[0, 3, 1, 2]), [0, 0, 1, 1]))
    else:
        w.feed(w.op("Transpose", _pad_first(w, "input_1", [0, 1, 1, 0]), perm=[0, 3, 1, 2]))
    w.behind()
    scores, boxes = [], []
    for logits, deltas in zip(w.logits, w.deltas, strict=True):
        for name, each, found in ((deltas, 4, boxes), (logits, classes, scores)):
            last = w.op("Add", w.op("Transpose", name, perm=[0, 2, 3, 1]), biases[name])
            found.append(w.op("Reshape", last, w.constant([0, -1, each])))
    regression = w.op("Concat", *boxes, axis=1)
    moved = w.op("Add", w.op("Mul", regression, w.constant([0.2] * 4)), w.constant([0.0, 0.0, 1.0, 1.0]))
    classification = w.op("Sigmoid", w.op("Concat", *scores, axis=1))
    inputs = [("input_1", TensorProto.FLOAT, ("N", "H", "W", 3))]
    return w.model(inputs, [moved, classification], producer="tf2onnx"), w.network


def keras_on_torch(classes: int = 3, sides: tuple[int | str, int | str] = (96, 160)) -> Graphs:
    """As PyTorch traces Keras 3: NHWC, padding computed from the size, casts between each step, biases after them."""
    w = Wrapped(classes)
    biases = _take_biases(w)
    w.before()
    image = w.op("Cast", w.op("Transpose", w.op("Cast", "input_1", to=1), perm=[0, 3, 1, 2]), to=1)
    first = next(node for node in w.nodes if node.op_type == "Conv")
    attribute = next(item for item in first.attribute if item.name == "pads")
    begin, end = list(attribute.ints)[:2], list(attribute.ints)[2:]
    del attribute.ints[:]
    attribute.ints.extend([0, 0, 0, 0])
    zeros = w.op("Mul", w.op("Shape", image), w.constant([0, 0, 0, 0]))
    amounts = w.op("Concat", w.op("Add", zeros, w.constant([0, 0, *begin])), w.constant([0, 0, *end]), axis=0)
    w.feed(w.op("Cast", w.op("Pad", image, amounts), to=1))
    w.behind()
    scores, boxes = [], []
    for logits, deltas in zip(w.logits, w.deltas, strict=True):
        for name, each, found in ((deltas, 4, boxes), (logits, classes, scores)):
            moved = w.op("Cast", w.op("Transpose", name, perm=[0, 2, 3, 1]), to=1)
            last = w.op("Add", moved, biases[name])
            found.append(w.op("Reshape", last, w.constant([0, -1, each])))
    outputs = [w.op("Concat", *boxes, axis=1), w.op("Concat", *scores, axis=1)]
    inputs = [("input_1", TensorProto.FLOAT, ("N", *sides, 3))]
    return w.model(inputs, outputs, producer="pytorch"), w.network


def _take_biases(w: Wrapped) -> dict[str, str]:
    """Removes the biases from the last convolutions, and returns them by the output of the convolution."""
    biases = {}
    for node in w.nodes:
        if node.output[0] in w.logits + w.deltas:
            biases[node.output[0]] = node.input[2]
            del node.input[2]
    return biases


def _pad_first(w: Wrapped, tensor: str, pads: list[int]) -> str:
    first = next(node for node in w.nodes if node.op_type == "Conv")
    next(item for item in first.attribute if item.name == "pads").CopyFrom(helper.make_attribute("pads", [0] * 4))
    return w.op("Pad", tensor, w.constant(pads * 2))


def in_half(graphs: Graphs) -> Graphs:
    """The same graph in float16, with its input and outputs."""
    model = onnx.ModelProto.FromString(graphs[0].SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for item in model.graph.input:
        item.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model, graphs[1]


def with_preprocessing(
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    unit: bool = False,
    as_bytes: bool = False,
    swaps: str = "",
    as_factor: bool = False,
) -> Graphs:
    """Normalizes in the graph: (x - mean) / std, for values of 0 to 1 or 0 to 255.

    as_bytes: the input is (N, H, W, 3) uint8. swaps: the operator that reverses the channels first. as_factor: written
    as x * a + b.
    """
    w = Wrapped(3)
    w.before()
    pixels = "photo"
    if as_bytes:
        pixels = w.op("Transpose", w.op("Cast", pixels, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    if unit:
        pixels = w.op("Div", pixels, w.constant(255.0)) if as_bytes else pixels
    if swaps == "Gather":
        pixels = w.op("Gather", pixels, w.constant([2, 1, 0]), axis=1)
    elif swaps == "Slice":
        ends = (w.constant([value]) for value in (-1, -10, 1, -1))
        pixels = w.op("Slice", pixels, *ends)
    elif swaps == "Concat":
        parts = w.op("Split", pixels, w.constant([1, 1, 1]), outputs=3, axis=1).removesuffix("_0")
        pixels = w.op("Concat", f"{parts}_2", f"{parts}_1", f"{parts}_0", axis=1)
    centre, width = (np.reshape(values, (1, 3, 1, 1)) / (255.0 if unit else 1.0) for values in (mean, std))
    if as_factor:
        ready = w.op("Add", w.op("Mul", pixels, w.constant(1 / width)), w.constant(-centre / width))
    else:
        ready = w.op("Div", w.op("Sub", pixels, w.constant(centre)), w.constant(width))
    w.feed(ready)
    kind, shape = (TensorProto.UINT8, ("N", "H", "W", 3)) if as_bytes else (TensorProto.FLOAT, ("N", 3, "H", "W"))
    return w.model([("photo", kind, shape)]), w.network


def sized_by_the_input(classes: int = 3) -> Graphs:
    """Reshapes take the number of cells from the size of the image, as the dynamo exporter writes it."""
    w = Wrapped(classes)
    outputs = []
    for level, logits, deltas in zip(LEVELS, w.logits, w.deltas, strict=True):
        sides = w.op("Slice", w.op("Shape", "images"), w.constant([2]), w.constant([4]), w.constant([0]))
        step = w.constant([1 << level])
        cells = w.op("Div", w.op("Add", sides, w.constant([(1 << level) - 1])), step)
        for name, each in ((logits, classes), (deltas, 4)):
            split = w.op("Concat", w.constant([-1, ANCHORS, each]), cells, axis=0)
            moved = w.op("Transpose", w.op("Reshape", name, split), perm=[0, 3, 4, 1, 2])
            outputs.append(w.op("Reshape", moved, w.constant([0, -1, each])))
    return w.model(outputs=outputs), w.network


def with_copies_of_weights(classes: int = 3) -> Graphs:
    """Shared weights are written once and used through Identity elsewhere, as the PyTorch exporter does."""
    w = Wrapped(classes)
    w.before()
    copies: dict[str, str] = {}
    for node in [item for item in w.nodes if item.op_type == "Conv"]:
        node.input[1] = copies.setdefault(node.input[1], w.op("Identity", node.input[1]))
    return w.model(), w.network


def in_disorder(graphs: Graphs) -> Graphs:
    """The same nodes in reverse order."""
    model = onnx.ModelProto.FromString(graphs[0].SerializeToString())
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model, graphs[1]


def with_a_function(classes: int = 3) -> Graphs:
    """The first activation is a model-local function, as the dynamo exporter writes them."""
    w = Wrapped(classes)
    node = next(item for item in w.nodes if item.op_type == "Relu")
    node.op_type, node.domain = "activation", "local"
    model = w.model(domains=["local"])
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(
        helper.make_function("local", "activation", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    )
    return model, w.network
