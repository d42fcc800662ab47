"""Finds by trial which input dimensions of the network are dynamic, and how large each level is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.lazy import require
from retinasdk.convert.importing.graph import GraphView
from retinasdk.convert.importing.heads import HeadPair
from retinasdk.convert.importing.inputs import NetworkInput
from retinasdk.convert.importing.onnx_runner import OnnxRunner, first_line
from retinasdk.convert.importing.original_run import DYNAMIC_SIZE, SEED, OriginalRun
from retinasdk.convert.importing.subgraph import Dimension, extract_subgraph
from retinasdk.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

_SECOND_SIZE = (224, 160)


@dataclass(frozen=True)
class NetworkShape:
    """Which input dimensions of the network may vary, and the size of each level for one input size.

    Attributes:
        dimensions: Batch, height and width of the input: a number if fixed, a name ("N", "H", "W") if dynamic.
        input_size: (height, width) in pixels of the input for which `head_sizes` holds.
        head_sizes: (rows, columns) of each head tensor, logits of all levels first.
    """

    dimensions: tuple[Dimension, Dimension, Dimension]
    input_size: tuple[int, int]
    head_sizes: list[tuple[int, int]]


def declared_size(view: GraphView, network: NetworkInput) -> tuple[int, int] | None:
    """Returns the fixed (height, width) in pixels that the graph declares for its input, or None."""
    sides = [side for side in view.shape(network.tensor) or [] if side is not None]
    return (sides[-2], sides[-1]) if len(sides) >= 3 else None


def find_network_shape(
    view: GraphView,
    network: NetworkInput,
    heads: HeadPair,
    original: OriginalRun | str,
    size: tuple[int, int] | None,
) -> NetworkShape:
    """Runs the network at two sizes and with an additional image in the batch to see what may vary.

    Args:
        view: The graph.
        network: Where the network begins.
        heads: Where it ends.
        original: The run of the original graph, or why there is none.
        size: (height, width) in pixels that all images get, if that is known; the network need not take others then.

    Raises:
        ModelError: ONNX Runtime cannot load or run the network at any size.
    """
    known = view.shape(network.tensor) or [None] * 4
    if isinstance(original, OriginalRun):
        known = list(original.tensor.shape)
    if len(known) != 4:
        raise ModelError(
            f"the input {network.tensor!r} of the network has {len(known)} axes, and not (batch, 3, height, width). "
            "Export it again with images of that shape"
        )
    model = extract_subgraph(view, {network.tensor: ["N", 3, "H", "W"]}, heads.tensor_names)
    try:
        runner = OnnxRunner(model)
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot load the network without its post-processing: {first_line(error)}. Export it again, "
            "if possible with opset 17"
        ) from error
    onnx = require("onnx", "importing ONNX models")
    kind = onnx.helper.tensor_dtype_to_np_dtype(view.element_type(network.tensor) or onnx.TensorProto.FLOAT)
    fixed_batch = known[0] or 1

    def run(images: npt.NDArray[Any]) -> list[npt.NDArray[Any]] | str:
        try:
            return runner.run({network.tensor: images}, heads.tensor_names)
        except Exception as error:
            return first_line(error)

    def noise(batch: int, size: tuple[int, int]) -> npt.NDArray[Any]:
        return np.random.default_rng(SEED).standard_normal((batch, 3, *size)).astype(kind)

    if size is not None and isinstance(run(noise(fixed_batch, size)), str):
        size = None  # The size that the network does accept is found below, and named in the error that follows.
    fixed = size or (known[2] or DYNAMIC_SIZE[0], known[3] or DYNAMIC_SIZE[1])
    first, second = (run(noise(fixed_batch, tried)) for tried in (DYNAMIC_SIZE, _SECOND_SIZE))
    is_dynamic = size is None and not isinstance(first, str) and not isinstance(second, str)
    used = DYNAMIC_SIZE if is_dynamic else fixed
    if not is_dynamic:
        first = run(noise(fixed_batch, used))
    if isinstance(first, str):
        raise ModelError(
            f"ONNX Runtime cannot run the network at {used[0]} x {used[1]}: {first}. Export it again with dynamic "
            "height and width, or at a size that it supports"
        )
    has_dynamic_batch = _is_batch_dynamic(run, noise(fixed_batch + 1, _SECOND_SIZE if is_dynamic else fixed))
    return NetworkShape(
        dimensions=("N" if has_dynamic_batch else fixed_batch, *(("H", "W") if is_dynamic else fixed)),
        input_size=used,
        head_sizes=[(int(values.shape[2]), int(values.shape[3])) for values in first],
    )


def _is_batch_dynamic(
    run: Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]] | str], images: npt.NDArray[Any]
) -> bool:
    """Whether the network takes one more image, and each image gives the same result alone.

    The second condition matters where a reshape contains the batch size: the network runs, but mixes the images.
    """
    together, without_last, without_first = run(images), run(images[:-1]), run(images[1:])
    if isinstance(together, str) or isinstance(without_last, str) or isinstance(without_first, str):
        return False
    return all(
        len(values) == len(images)
        and np.allclose(values[:-1], of_first, rtol=1e-3, atol=1e-3)
        and np.allclose(values[1:], of_last, rtol=1e-3, atol=1e-3)
        for values, of_first, of_last in zip(together, without_last, without_first, strict=True)
    )
