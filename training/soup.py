"""One model out of several that began with the same weights: their mean, weight by weight.

    python training/soup.py OUT.onnx A.onnx B.onnx ...

Models that were trained on from one set of weights mostly lie in one valley of the loss, and their mean does better
than each (Wortsman et al. 2022, "Model soups"). The files are exports of one recipe; the spec is the first one's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from retinasdk.spec import ModelSpec


def mean_model(paths: list[Path]) -> onnx.ModelProto:
    """The first file with the mean of all files' weights. Raises `ValueError` for files of different architectures."""
    models = [onnx.load(path) for path in paths]
    weights = [{t.name: numpy_helper.to_array(t) for t in model.graph.initializer} for model in models]
    shapes = [{name: (value.shape, value.dtype) for name, value in one.items()} for one in weights]
    for path, shape in zip(paths, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"{path}: wanted weights of the shapes of {paths[0]}, got others; average one recipe's runs"
            )
    for tensor in models[0].graph.initializer:
        values = [one[tensor.name] for one in weights]
        if values[0].dtype == np.float32:
            mean = np.mean(np.stack(values), axis=0, dtype=np.float64).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(mean, tensor.name))
    return models[0]


def main() -> None:
    """Command line."""
    output, *inputs = (Path(argument) for argument in sys.argv[1:])
    model = mean_model(inputs)
    onnx.checker.check_model(model, full_check=True)
    output.write_bytes(model.SerializeToString(deterministic=True))
    ModelSpec.load(inputs[0].with_suffix(".json")).save(output.with_suffix(".json"), onnx=output)
    print(f"{output.name}: the mean of {', '.join(path.name for path in inputs)}")


if __name__ == "__main__":
    main()
