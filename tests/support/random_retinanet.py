"""Heads-only RetinaNets with random weights, written with onnx alone: for tests and benchmarks.

    python tests/random_retinanet.py OUT.onnx [--backbone tiny|resnet50] [--classes K] [--seed S]

writes OUT.onnx and its spec OUT.json. Layout and rules are torchvision's: P3 to P7, nine anchors, P6 from P5, strides
from the padded size. Batch, height and width are dynamic.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from retinasdk import ModelSpec
from retinasdk.convert.flavours import flavour_spec

ANCHORS = 9
LEVELS = range(3, 8)
# (width of the 3x3 convolution, blocks) of ResNet-50's stages, He et al. 2016, table 1
_RESNET50 = ((64, 3), (128, 4), (256, 6), (512, 3))


class _Graph:
    """Collects nodes and random initializers; each method appends a node and returns the name of its output."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def constant(self, values: npt.NDArray[np.generic]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def op(self, kind: str, inputs: list[str], output: str | None = None, **attributes: object) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weights(
        self, inputs: int, outputs: int, kernel: int, *, bias: float = 0.0, gain: float = 1.0
    ) -> tuple[str, str]:
        scale = gain * np.sqrt(2.0 / (inputs * kernel * kernel))
        kernel_values = self._random.standard_normal((outputs, inputs, kernel, kernel)) * scale
        biases = bias + self._random.standard_normal(outputs) * 0.01
        return self.constant(kernel_values.astype(np.float32)), self.constant(biases.astype(np.float32))

    def conv(
        self,
        x: str,
        weights: tuple[str, str],
        kernel: int,
        stride: int = 1,
        *,
        relu: bool = True,
        output: str | None = None,
    ) -> str:
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        y = self.op("Conv", [x, *weights], None if relu else output, **attributes)
        return self.op("Relu", [y], output) if relu else y


def _tiny_backbone(g: _Graph, x: str) -> list[tuple[str, int]]:
    channels, features = 3, []
    for level, width in enumerate((8, 8, 16, 16, 16), start=1):
        x = g.conv(x, g.weights(channels, width, 3), 3, 2)
        channels = width
        if level >= 3:
            features.append((x, channels))
    return features


def _resnet50_backbone(g: _Graph, x: str) -> list[tuple[str, int]]:
    x = g.conv(x, g.weights(3, 64, 7), 7, 2)
    x = g.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels, features = 64, []
    for stage, (width, blocks) in enumerate(_RESNET50):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            y = g.conv(x, g.weights(channels, width, 1), 1)
            y = g.conv(y, g.weights(width, width, 3), 3, stride)
            y = g.conv(y, g.weights(width, 4 * width, 1, gain=0.3), 1, relu=False)
            if block == 0:
                x = g.conv(x, g.weights(channels, 4 * width, 1, gain=0.7), 1, stride, relu=False)
            channels = 4 * width
            x = g.op("Relu", [g.op("Add", [y, x])])
        features.append((x, channels))
    return features[1:]


def _pyramid(g: _Graph, features: list[tuple[str, int]], width: int) -> list[str]:
    laterals = [g.conv(x, g.weights(channels, width, 1), 1, relu=False) for x, channels in features]
    merged = [laterals[-1]]
    for lateral in reversed(laterals[:-1]):
        # Up to the lateral's own size, which at odd sizes is not twice the upper one's.
        sides = g.op("Slice", [g.op("Shape", [lateral]), g.constant(np.array([2])), g.constant(np.array([4]))])
        batch = g.op("Slice", [g.op("Shape", [lateral]), g.constant(np.array([0])), g.constant(np.array([2]))])
        size = g.op("Concat", [batch, sides], axis=0)
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        merged.append(g.op("Add", [lateral, g.op("Resize", [merged[-1], "", "", size], **modes)]))
    levels = [g.conv(x, g.weights(width, width, 3, gain=0.5), 3, relu=False) for x in reversed(merged)]
    levels.append(g.conv(levels[-1], g.weights(width, width, 3), 3, 2, relu=False))
    levels.append(g.conv(g.op("Relu", [levels[-1]]), g.weights(width, width, 3), 3, 2, relu=False))
    return levels


def random_retinanet(
    backbone: str = "tiny", *, classes: int = 3, seed: int = 0, prior: float = 0.02
) -> tuple[onnx.ModelProto, ModelSpec]:
    """The network and its spec. prior: the score around which random scores lie (bias of the class head)."""
    g = _Graph(seed)
    tiny = backbone == "tiny"
    width, depth = (16, 1) if tiny else (256, 4)
    levels = _pyramid(g, (_tiny_backbone if tiny else _resnet50_backbone)(g, "images"), width)
    outputs = []
    for kind, channels, bias in (
        ("logits", ANCHORS * classes, np.log(prior / (1 - prior))),
        ("deltas", ANCHORS * 4, 0.0),
    ):
        tower = [g.weights(width, width, 3) for _ in range(depth)]
        last = g.weights(width, channels, 3, bias=float(bias), gain=0.5)
        for level, feature in zip(LEVELS, levels, strict=True):
            x = feature
            for weights in tower:
                x = g.conv(x, weights, 3)
            outputs.append(g.conv(x, last, 3, relu=False, output=f"{kind}_p{level}"))
    graph = helper.make_graph(
        g.nodes,
        "retinanet",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [
            helper.make_tensor_value_info(
                name,
                TensorProto.FLOAT,
                ["N", ANCHORS * (classes if "logits" in name else 4), f"h{name[-1]}", f"w{name[-1]}"],
            )
            for name in outputs
        ],
        g.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    labels = [f"class{index}" for index in range(classes)]
    return model, flavour_spec("torchvision", labels=labels, name=f"random {backbone}")


def save_random_retinanet(path: Path, backbone: str = "tiny", **options: int) -> Path:
    """Writes `path` (.onnx) and its spec beside it (.json)."""
    model, spec = random_retinanet(backbone, **options)
    onnx.save(model, str(path))
    spec.save(path.with_suffix(".json"))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", choices=("tiny", "resnet50"), default="tiny")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(save_random_retinanet(arguments.out, arguments.backbone, classes=arguments.classes, seed=arguments.seed))
