"""Finds 8-bit models whose sums ONNX Runtime limits on this processor, which makes their results wrong.

On x86-64 without VNNI, ONNX Runtime multiplies 8-bit numbers with VPMADDUBSW. This instruction adds two products of an
activation and a weight in 16 bits, and limits the sum to 32767. Activations reach 255. So two neighboring weights must
not add up to more than 128: see Note [Pairs of products] in `retinasdk.quantization.writing`. Files of `retinasdk
quantize` respect that; those of other tools often do not. The tests compare with ONNX Runtime itself which weights are
neighbors, and which convolutions are not affected.
"""

from __future__ import annotations

import mmap
import platform
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retinasdk._util.processor import instruction_sets
from retinasdk.backends.graph_edit import read
from retinasdk.backends.graph_facts import GraphFacts
from retinasdk.backends.graph_nodes import Node

_MOST_OF_A_PAIR = 128  # 255 * 128 fits into 16 bits, 255 * 129 does not.
_EXACT = {"avx512_vnni", "avx_vnni"}
_DECODING = "DequantizeLinear"


def are_limited(path: Path) -> bool:
    """Returns whether ONNX Runtime may limit sums of a model on this processor.

    Args:
        path: A file. If it is no ONNX file that can be rewritten, such as one with external data, nothing is known.
    """
    if platform.machine() not in ("x86_64", "AMD64") or _EXACT.intersection(instruction_sets()):
        return False
    try:
        model = read(path) if _mentions_decoding(path) else None
    except (OSError, ValueError):
        return False  # Opening it reports that better.
    return model is not None and any(_exceeds(model.facts, node) for node in model.facts.nodes.values())


def _mentions_decoding(path: Path) -> bool:
    """Returns whether a file may have 8-bit weights. Most have none, and are not read a second time for nothing."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_DECODING.encode()) >= 0


def _exceeds(facts: GraphFacts, node: Node) -> bool:
    if not node.is_standard("Conv") or len(node.inputs) < 2:
        return False
    decoded = facts.maker(node.inputs[1])
    if decoded is None or not decoded.is_standard(_DECODING):
        return False
    weights = facts.constant(decoded.inputs[0])
    if weights is None or weights.type != np.int8 or len(weights.shape) != 4:
        return False
    if weights.shape[:2] == (node.integer("group", 1), 1):
        return False  # Depthwise convolutions add in 32 bits, if no channel has several outputs.
    return bool((np.abs(_pairs(weights.values().astype(np.int16))) > _MOST_OF_A_PAIR).any())


def _pairs(weights: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Returns the sums of neighbors in the order of ONNX Runtime's sums: by row, column and channel."""
    in_order = np.moveaxis(weights, 1, 3).reshape(weights.shape[0], -1)
    sums: npt.NDArray[np.int16] = in_order[:, :-1] + in_order[:, 1:]
    return sums
