"""Random graphs of convolutions and what stands between them, in all the ways in which exporters write them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]
_CHANNELS = (1, 3, 8, 9, 16, 17, 24, 32, 33)


@dataclass(frozen=True)
class Image:
    """A tensor (N, channels, height, width) of a graph."""

    name: str
    channels: int
    height: int
    width: int


class RandomGraph:
    """Builds a graph from a seed. `model` is the result, `x` an input for it."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._weights: list[tuple[str, tuple[int, ...]]] = []
        self.batch = self._pick(1, 1, 2)
        first = Image("x", self._pick(1, 3, 3, 4, 5, 16, 17), self._between(5, 24), self._between(5, 24))
        self._images = [first]
        known = self._chance(0.3)
        steps = (
            self._conv, self._conv, self._conv, self._conv, self._relu, self._clip, self._elementwise, self._add,
            self._add, self._constants, self._batch_norm, self._max_pool, self._concat, self._pyramid,
            self._inverted_residual, self._bottleneck, self._pooled, self._transpose, self._head,
        )  # fmt: skip
        for _ in range(self._between(3, 14)):
            self._pick(*steps)()
        outputs = {self._images[-1], *(image for image in self._images[1:] if self._chance(0.15))} - {first}
        outputs = outputs or {self._conv_of(first, 8, (3, 3))}
        shape = [self.batch, first.channels, first.height, first.width] if known else ["N", first.channels, "H", "W"]
        graph = helper.make_graph(
            self._nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(image.name, TensorProto.FLOAT, None) for image in sorted(outputs, key=str)],
            self._tensors,
        )
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        self.x = self._normal(self.batch, first.channels, first.height, first.width)

    # -- random values -------------------------------------------------------------------------------------------------

    def _pick(self, *choices):  # type: ignore[no-untyped-def]
        return choices[self._random.integers(len(choices))]

    def _between(self, least: int, most: int) -> int:
        return int(self._random.integers(least, most + 1))

    def _chance(self, probability: float) -> bool:
        return bool(self._random.random() < probability)

    def _normal(self, *shape: int) -> Array:
        return self._random.standard_normal(shape).astype(np.float32)

    def _image(self) -> Image:
        """A recent image, mostly."""
        return self._images[-1] if self._chance(0.6) else self._pick(*self._images)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _op(self, kind: str, inputs: list[str], **attributes: object) -> str:
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))
        return output

    def _made(self, name: str, channels: int, height: int, width: int) -> Image:
        self._images.append(Image(name, channels, height, width))
        return self._images[-1]

    def _initializer(self, values: npt.NDArray[np.generic]) -> str:
        self._tensors.append(numpy_helper.from_array(values, f"c{len(self._tensors)}"))
        return self._tensors[-1].name

    def _constant(self, values: npt.NDArray[np.generic]) -> str:
        """An initializer, a Constant, or a copy of an initializer."""
        if self._chance(0.2):
            return self._op("Constant", [], value=numpy_helper.from_array(values))
        name = self._initializer(values)
        return self._op("Identity", [name]) if self._chance(0.1) else name

    def _weights_of(self, shape: tuple[int, ...]) -> str:
        equal = [name for name, other in self._weights if other == shape]
        if equal and self._chance(0.3):
            return str(self._pick(*equal))
        name = self._constant(self._normal(*shape) / np.float32(np.sqrt(np.prod(shape[1:]))))
        self._weights.append((name, shape))
        return name

    def _conv_of(
        self,
        image: Image,
        out: int,
        kernel: tuple[int, int],
        *,
        strides: tuple[int, int] = (1, 1),
        group: int = 1,
        pads: list[int] | None = None,
        auto_pad: str | None = None,
        dilations: tuple[int, int] = (1, 1),
    ) -> Image:
        pads = [kernel[0] // 2, kernel[1] // 2] * 2 if pads is None else pads
        attributes: dict[str, object] = {"strides": list(strides)} if strides != (1, 1) or self._chance(0.5) else {}
        if self._chance(0.7):
            attributes["kernel_shape"] = list(kernel)
        if group > 1 or self._chance(0.5):
            attributes["group"] = group
        if dilations != (1, 1):
            attributes["dilations"] = list(dilations)
        size = []
        for axis, side in enumerate((image.height, image.width)):
            extent = (kernel[axis] - 1) * dilations[axis] + 1
            if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
                size.append(-(-side // strides[axis]))
            else:
                padding = 0 if auto_pad == "VALID" else pads[axis] + pads[axis + 2]
                size.append((side + padding - extent) // strides[axis] + 1)
        if min(size) < 1:
            return image
        attributes |= {"pads": pads} if auto_pad is None else {"auto_pad": auto_pad}
        inputs = [image.name, self._weights_of((out, image.channels // group, *kernel))]
        if self._chance(0.7):
            inputs.append(self._constant(self._normal(out)))
        return self._made(self._op("Conv", inputs, **attributes), out, size[0], size[1])

    def _conv(self) -> None:
        image = self._image()
        kernel = self._pick((1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (2, 2), (1, 3), (3, 1), (7, 7))
        kind = self._random.random()
        if kind < 0.25:
            self._conv_of(image, image.channels, kernel, group=image.channels, strides=self._pick((1, 1), (2, 2)))
        elif kind < 0.3 and image.channels % 2 == 0:
            self._conv_of(image, 16, kernel, group=2)
        elif kind < 0.5:
            pads = [self._between(0, kernel[axis % 2] - 1) for axis in range(4)]
            strides = (self._between(1, 3), self._between(1, 3))
            self._conv_of(image, self._pick(*_CHANNELS), kernel, strides=strides, pads=pads)
        elif kind < 0.65:
            strides = self._pick((1, 1), (1, 1), (2, 2))
            auto_pad = self._pick("SAME_UPPER", "SAME_LOWER", "VALID")
            self._conv_of(image, self._pick(*_CHANNELS), kernel, strides=strides, auto_pad=auto_pad)
        elif kind < 0.68:
            self._conv_of(image, 16, kernel, dilations=(2, 2))
        else:
            self._conv_of(image, self._pick(*_CHANNELS), kernel, strides=self._pick((1, 1), (1, 1), (2, 2)))

    def _unary(self, kind: str, image: Image, *inputs: str, **attributes: object) -> Image:
        name = self._op(kind, [image.name, *inputs], **attributes)
        return self._made(name, image.channels, image.height, image.width)

    def _relu(self) -> None:
        self._unary("Relu", self._image())

    def _clip(self) -> None:
        low, high = self._pick(
            (0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (0.25, 1.0), (-2.0, -0.5), (None, 0.5), (-0.5, None)
        )
        names = ["" if limit is None else self._constant(np.array(limit, np.float32)) for limit in (low, high)]
        self._unary("Clip", self._image(), *names)

    def _elementwise(self) -> None:
        self._unary(self._pick("LeakyRelu", "HardSwish", "Tanh", "Sigmoid", "Elu"), self._image())

    def _add(self) -> None:
        one = self._image()
        same = [other for other in self._images if (other.height, other.width) == (one.height, one.width)]
        small = [other for other in self._images if (other.height, other.width) == (1, 1)]
        fitting = [other for other in same + small if other.channels in (1, one.channels)]
        other = self._pick(*fitting)
        names = [one.name, other.name]
        name = self._op("Add", names if self._chance(0.5) else names[::-1])
        self._made(name, one.channels, one.height, one.width)

    def _constants(self) -> None:
        image = self._image()
        shape = self._pick((image.channels, 1, 1), (1, image.channels, 1, 1), (1,), (), (image.height, image.width))
        self._unary(self._pick("Add", "Mul"), image, self._constant(np.array(self._normal(*shape), np.float32)))

    def _batch_norm(self) -> None:
        image = self._image()
        values = [self._normal(image.channels) for _ in range(3)] + [np.abs(self._normal(image.channels)) + 0.5]
        self._unary("BatchNormalization", image, *(self._constant(each) for each in values), epsilon=1e-3)

    def _max_pool(self) -> None:
        image, side, stride = self._image(), self._pick(2, 3), self._pick(1, 2)
        pads = [self._between(0, side - 1) for _ in range(4)]
        ceil = self._chance(0.1)
        size = [
            (extent + pads[axis] + pads[axis + 2] - side) // stride + 1
            for axis, extent in enumerate((image.height, image.width))
        ]
        if min(size) < 1 or (ceil and stride > 1):
            return
        attributes = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": pads, "ceil_mode": int(ceil)}
        self._made(self._op("MaxPool", [image.name], **attributes), image.channels, *size)

    def _concat(self) -> None:
        one = self._image()
        other = self._pick(*(each for each in self._images if (each.height, each.width) == (one.height, one.width)))
        name = self._op("Concat", [one.name, other.name], axis=1)
        self._made(name, one.channels + other.channels, one.height, one.width)

    def _pyramid(self) -> None:
        """Half the size, and back by the nearest neighbor onto a lateral."""
        image, width = self._image(), self._pick(8, 16, 24)
        down = self._conv_of(image, 16, (3, 3), strides=(2, 2))
        upper = self._conv_of(down, width, (1, 1))
        lateral = self._conv_of(image, width, (1, 1))
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if image.height % 2 == 0 and image.width % 2 == 0 and self._chance(0.5):
            if self._chance(0.3):
                modes |= {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
            scales = self._constant(np.array([1, 1, 2, 2], np.float32))
            resized = self._op("Resize", [upper.name, "", scales], **modes)
        else:
            sizes = self._op("Shape", [lateral.name])
            if self._chance(0.5):
                parts = [
                    self._op(
                        "Slice", [self._op("Shape", [source]), *(self._initializer(np.array([at])) for at in ends)]
                    )
                    for source, ends in ((upper.name, (0, 2)), (lateral.name, (2, 4)))
                ]
                sizes = self._op("Concat", parts, axis=0)
            resized = self._op("Resize", [upper.name, "", "", sizes], **modes)
        name = self._op("Add", [lateral.name, resized] if self._chance(0.7) else [resized, lateral.name])
        self._made(name, width, image.height, image.width)

    def _inverted_residual(self) -> None:
        image, wide, side = self._image(), self._pick(16, 40, 48), self._pick(3, 5)
        stride = self._pick(1, 1, 2)
        inner = self._conv_of(image, wide, (1, 1))
        if self._chance(0.8):
            inner = self._unary("Relu", inner)
        inner = self._conv_of(inner, wide, (side, side), group=wide, strides=(stride, stride))
        if self._chance(0.8):
            inner = self._unary("Relu", inner)
        out = self._conv_of(inner, image.channels, (1, 1))
        if (out.height, out.width) == (image.height, image.width) and self._chance(0.7):
            self._made(self._op("Add", [image.name, out.name]), out.channels, out.height, out.width)

    def _bottleneck(self) -> None:
        image, stride = self._image(), self._pick(1, 1, 2)
        inner = self._unary("Relu", self._conv_of(image, 16, (1, 1)))
        inner = self._unary("Relu", self._conv_of(inner, 16, (3, 3), strides=(stride, stride)))
        wide = image.channels if stride == 1 else 24
        out = self._conv_of(inner, wide, (1, 1))
        shortcut = image if stride == 1 else self._conv_of(image, wide, (1, 1), strides=(2, 2), pads=[0] * 4)
        if (out.height, out.width) == (shortcut.height, shortcut.width):
            sum_ = self._made(self._op("Add", [out.name, shortcut.name]), wide, out.height, out.width)
            self._unary("Relu", sum_)

    def _pooled(self) -> None:
        image = self._image()
        self._made(self._op("GlobalAveragePool", [image.name]), image.channels, 1, 1)

    def _transpose(self) -> None:
        image = self._image()
        self._made(self._op("Transpose", [image.name], perm=[0, 1, 3, 2]), image.channels, image.width, image.height)

    def _head(self) -> None:
        """A layer or two with shared weights, on several images: level by level, or layer by layer."""
        first = self._image()
        levels = [image for image in self._images if image.channels == first.channels][-self._between(2, 4) :]
        layers = []
        for _ in range(self._between(1, 2)):
            weights = self._weights_of((first.channels, first.channels, 3, 3))
            layers.append([weights, self._constant(self._normal(first.channels))][: self._between(1, 2)])
        has_relu = self._chance(0.7)
        turns = [(layer, level) for level in range(len(levels)) for layer in range(len(layers))]
        if self._chance(0.5):
            turns.sort()
        for layer, level in turns:
            image = levels[level]
            name = self._op("Conv", [image.name, *layers[layer]], pads=[1, 1, 1, 1])
            levels[level] = self._made(name, image.channels, image.height, image.width)
            if has_relu:
                levels[level] = self._unary("Relu", levels[level])
