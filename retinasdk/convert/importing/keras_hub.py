"""The size of networks that KerasHub exports: what the graph declares, because convolutions depend on it."""

from __future__ import annotations

from dataclasses import replace

from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.network_shape import NetworkShape
from retinasdk.errors import ModelError


def keep_exported_size(view: GraphView, network: NetworkInput, shape: NetworkShape) -> NetworkShape:
    """Returns the shape with the height and width that an export of KerasHub declares.

    The convolutions of Keras choose their padding by the size of the image: for an even size it is larger on the right
    and bottom. PyTorch, which traces Keras, writes the choice for the traced size into the graph. So the network runs
    at other sizes, but gives other values there than Keras. A model without a declared size is traced at 1 x 1.

    Raises:
        ModelError: PyTorch traced the model without a size, so that it is wrong for every even size.
    """
    declared = view.shape(network.image) or []
    height, width = declared[1:3] if len(declared) == 4 else (None, None)
    if isinstance(height, int) and isinstance(width, int):
        return replace(shape, dimensions=(shape.dimensions[0], height, width))
    is_traced = view.model.producer_name == "pytorch"
    if is_traced and any(_pads_both_sides(view, index) for index in range(len(view.nodes))):
        raise ModelError(
            "this export of KerasHub takes images of any size, but PyTorch wrote into it the padding for images of 1 x "
            "1 pixels, so that it gives other boxes than KerasHub. Export it for one size: model.export(PATH, "
            'format="onnx", input_signature=[keras.InputSpec("float32", (1, 800, 800, 3))]). Insist with --force (in '
            "Python: force=True)"
        )
    return shape


def _pads_both_sides(view: GraphView, index: int) -> bool:
    """Whether a convolution with a stride pads the left and the top."""
    pads, strides = view.attribute(index, "pads") or [0], view.attribute(index, "strides") or [1]
    return bool(view.nodes[index].op_type == "Conv" and max(strides) > 1 and max(pads) > 0)
