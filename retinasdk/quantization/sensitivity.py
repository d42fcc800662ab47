"""Measures what quantization costs at the heads, and chooses the layers to keep in float32."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk._util.progress import ProgressCallback, tracked
from retinasdk.onnx_graph.network import Network
from retinasdk.onnx_graph.ranges import Observed, open_session
from retinasdk.quantization.writing import quantized
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_BEST = 300  # (anchor, class) pairs per image that are compared
# Converting one number to 8 bits or back costs as much time as this many multiplications in 8 bits save. Measured on
# the bundled networks with AVX2, where 64 to 256 make little difference.
_CROSSING_WORK = 128


@dataclass(frozen=True)
class HeadValues:
    """Head outputs of one image.

    Attributes:
        scores: (anchors, classes) float32, 0 to 1.
        deltas: (anchors, 4) float32, as fractions of an anchor's size.
    """

    scores: npt.NDArray[np.float32]
    deltas: npt.NDArray[np.float32]

    def best(self) -> npt.NDArray[np.intp]:
        """Returns flat indices of the (anchor, class) pairs with the best scores."""
        count = min(_BEST, self.scores.size)
        return np.argpartition(self.scores.ravel(), -count)[-count:]


class HeadLoss:
    """Measures how far the head outputs of a network are from those of the float32 network, on fixed inputs.

    The loss is the root of the mean square error of scores (0 to 1) plus that of deltas (fractions of an anchor's
    size), over the (anchor, class) pairs that are among the best 300 of an image in either network. The squares of the
    losses of independent layers add up.
    """

    def __init__(self, network: Network, spec: ModelSpec, inputs: Sequence[npt.NDArray[np.float32]]) -> None:
        self._spec, self._inputs = spec, inputs
        self._names = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
        self._wanted = list(self._run(network.model))

    def of(self, model: Any) -> float:
        """Returns the loss of a quantized model."""
        squares, count = 0.0, 0
        for wanted, found in zip(self._wanted, self._run(model), strict=True):
            pairs = np.union1d(wanted.best(), found.best())
            anchors = pairs // wanted.scores.shape[1]
            scores = wanted.scores.ravel()[pairs] - found.scores.ravel()[pairs]
            deltas = wanted.deltas[anchors] - found.deltas[anchors]
            squares += float((scores**2).sum() + (deltas**2).mean(axis=1).sum())
            count += len(pairs)
        return math.sqrt(squares / count)

    def _run(self, model: Any) -> Iterator[HeadValues]:
        session, levels = open_session(model), len(self._spec.levels)
        for tensor in self._inputs:
            outputs = session.run(self._names, {self._spec.input: tensor})
            yield self._heads(outputs[:levels], outputs[levels:])

    def _heads(self, logits: Sequence[Any], deltas: Sequence[Any]) -> HeadValues:
        """Orders outputs by anchor. A batch holds copies of one image, so only the first is read."""
        classes = len(self._spec.labels)
        scores = [_by_anchor(level[0], classes) for level in logits]
        boxes = [_by_anchor(level[0], 4) for level in deltas]
        with np.errstate(over="ignore"):
            probabilities = 1 / (1 + np.exp(-np.concatenate(scores)))
        relative = np.concatenate(boxes) / np.array(self._spec.box_coder.weights, np.float32)
        return HeadValues(probabilities.astype(np.float32, copy=False), relative.astype(np.float32, copy=False))


def _by_anchor(level: npt.NDArray[np.float32], numbers: int) -> npt.NDArray[np.float32]:
    """Reorders (A * numbers, h, w) to (h * w * A, numbers)."""
    height, width = level.shape[1:]
    in_order: npt.NDArray[np.float32] = level.reshape(-1, numbers, height, width).transpose(2, 3, 0, 1)
    return in_order.reshape(-1, numbers)


def sweep(
    network: Network,
    observed: Observed,
    loss: HeadLoss,
    progress: ProgressCallback | None,
) -> dict[str, float]:
    """Returns the loss of each layer when it alone is quantized, by the layer's name."""
    return {
        name: loss.of(quantized(network, [name], observed.ranges, observed.means))
        for name in tracked(list(network.layers), progress, "sweep", "layer")
    }


def layers_to_keep(losses: Mapping[str, float], work: Mapping[str, int], share: float) -> set[str]:
    """Chooses layers to keep in float32, so that at most a share of the summed squared losses remains.

    Layers that lose most relative to their work are chosen first: keeping a layer of little work costs little time.

    Args:
        losses: Loss of each layer alone.
        work: Multiplications of each layer.
        share: Fraction of the summed squared losses that may remain, 0 to 1.
    """
    squares = {name: value * value for name, value in losses.items()}
    left, most = sum(squares.values()), share * sum(squares.values())
    kept: set[str] = set()
    for name in sorted(squares, key=lambda name: squares[name] / max(1, work[name]), reverse=True):
        if left <= most:
            break
        kept.add(name)
        left -= squares[name]
    return kept


def worthwhile(network: Network, layers: Collection[str], observed: Observed) -> set[str]:
    """Returns the layers for which 8 bits save more time than converting to codes and back costs."""

    def gain(chosen: Collection[str]) -> int:
        crossed = sum(observed.sizes[name] for name in network.crossings(chosen) if name in observed.sizes)
        return sum(observed.work[name] for name in chosen) - _CROSSING_WORK * crossed

    chosen, best = set(layers), gain(layers)
    shrinks = True
    while shrinks:
        shrinks = False
        for name in sorted(chosen, key=lambda name: observed.work[name]):
            without = gain(chosen - {name})
            if without > best:
                chosen, best, shrinks = chosen - {name}, without, True
    return chosen
