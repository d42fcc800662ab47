"""What quantizing costs at the heads, for each layer alone and for several, and which layers to keep in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retinasdk.onnx_graph.network import Network
from retinasdk.onnx_graph.ranges import Observed, open_session
from retinasdk.quantization.writing import quantized
from retinasdk.spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_BEST = 300  # (anchor, class) pairs of an image that count
# As many multiplications in 8 bits save the time that a number takes into codes or back. Measured on the bundled
# networks with AVX2, where 64 to 256 make little difference.
_CROSSING_WORK = 128


@dataclass(frozen=True)
class Heads:
    """Head outputs of one image. scores: (anchors, classes); deltas: (anchors, 4), as parts of an anchor's size."""

    scores: npt.NDArray[np.float32]
    deltas: npt.NDArray[np.float32]

    def best(self) -> npt.NDArray[np.intp]:
        """Flat indices of the pairs with the best scores."""
        count = min(_BEST, self.scores.size)
        return np.argpartition(self.scores.ravel(), -count)[-count:]


class HeadLoss:
    """Runs a network of the same heads as `network` on the same inputs, and says how far its heads are off.

    The loss is the root of the mean square error of scores (0 to 1) plus that of deltas (parts of an anchor's size),
    over the pairs of anchor and class that are among the best 300 of an image for either network. Of independent
    layers the squares add up.
    """

    def __init__(self, network: Network, spec: ModelSpec, inputs: Sequence[npt.NDArray[np.float32]]) -> None:
        self._spec, self._inputs = spec, inputs
        self._names = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
        self._wanted = list(self._run(network.model))

    def of(self, model: Any) -> float:
        """The loss of a quantized model."""
        squares, count = 0.0, 0
        for wanted, found in zip(self._wanted, self._run(model), strict=True):
            pairs = np.union1d(wanted.best(), found.best())
            anchors = pairs // wanted.scores.shape[1]
            scores = wanted.scores.ravel()[pairs] - found.scores.ravel()[pairs]
            deltas = wanted.deltas[anchors] - found.deltas[anchors]
            squares += float((scores**2).sum() + (deltas**2).mean(axis=1).sum())
            count += len(pairs)
        return math.sqrt(squares / count)

    def _run(self, model: Any) -> Iterator[Heads]:
        session, levels = open_session(model), len(self._spec.levels)
        for tensor in self._inputs:
            outputs = session.run(self._names, {self._spec.input: tensor})
            yield self._heads(outputs[:levels], outputs[levels:])

    def _heads(self, logits: Sequence[Any], deltas: Sequence[Any]) -> Heads:
        """Channels are anchor by anchor; of a batch, which holds copies of one image, the first counts."""
        classes = len(self._spec.labels)
        scores = [_by_anchor(level[0], classes) for level in logits]
        boxes = [_by_anchor(level[0], 4) for level in deltas]
        with np.errstate(over="ignore"):
            probabilities = 1 / (1 + np.exp(-np.concatenate(scores)))
        relative = np.concatenate(boxes) / np.array(self._spec.box_coder.weights, np.float32)
        return Heads(probabilities.astype(np.float32, copy=False), relative.astype(np.float32, copy=False))


def _by_anchor(level: npt.NDArray[np.float32], numbers: int) -> npt.NDArray[np.float32]:
    """(A * numbers, h, w) to (h * w * A, numbers)."""
    height, width = level.shape[1:]
    in_order: npt.NDArray[np.float32] = level.reshape(-1, numbers, height, width).transpose(2, 3, 0, 1)
    return in_order.reshape(-1, numbers)


def sweep(
    network: Network,
    observed: Observed,
    loss: HeadLoss,
    progress: Callable[[Sequence[Any]], Iterable[Any]],
) -> dict[str, float]:
    """The loss of each layer, when it alone is quantized."""
    return {
        name: loss.of(quantized(network, [name], observed.ranges, observed.means))
        for name in progress(list(network.layers))
    }


def layers_to_keep(losses: Mapping[str, float], work: Mapping[str, int], share: float) -> set[str]:
    """Layers to leave in float, so that at most this share of the summed squares of all losses is left.

    Those go first that lose most for the work that they have: to leave out a layer of little work costs little time.
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
    """Those of the layers whose 8 bits save more than the ways into codes and back cost: the rest stays in float32."""

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
