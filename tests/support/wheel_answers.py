"""Prints what the installed retinasdk answers, as JSON, for comparison with another build on another machine.

    python wheel_answers.py PHOTO

The digests are of preprocessing and post-processing, whose arithmetic is the same in each build. The detections also
depend on ONNX Runtime, whose arithmetic is that of the machine and of its version.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib import metadata
from typing import Any

import numpy as np
from make_golden import FRAMES, heads, picture

import retinasdk
from retinasdk import Detector, Resize, _native
from retinasdk.convert.flavours import flavour_spec
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.types import HeadOutputs


def digests() -> dict[str, str]:
    """SHA-256 of the tensor and of the detections of each golden frame."""
    found = {}
    for frame in FRAMES:
        spec = flavour_spec("torchvision", labels=[f"class{index}" for index in range(frame.classes)])
        spec = spec.replace(resize=Resize("shortest", frame.limits))
        transform = Transform.plan(frame.original, spec)
        tensor = preprocess([picture(frame, "scene")], [transform], spec).tensor
        logits, deltas = heads(frame)
        (boxes,) = postprocess(HeadOutputs(tuple(logits), tuple(deltas)), spec, [transform], score_threshold=0.05)
        for name, arrays in (("tensor", [tensor]), ("boxes", [boxes.xyxy, boxes.scores, boxes.class_ids])):
            assert all(len(array) > 0 for array in arrays)
            content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
            found[f"{frame.name} {name}"] = hashlib.sha256(content).hexdigest()
    return found


def answers(photo: str) -> dict[str, Any]:
    """The digests, and the detections in a photo."""
    detections = {
        convolution: Detector("people", threads=1, convolution=convolution)(photo).to_dicts()
        for convolution in ("direct", "auto")
    }
    return {
        "machine": platform.machine(),
        "onnxruntime": metadata.version("onnxruntime"),
        "instructions": _native.simd_name(),
        "package": os.path.dirname(retinasdk.__file__),
        "digests": digests(),
        "detections": detections,
    }


if __name__ == "__main__":
    print(json.dumps(answers(sys.argv[1])))
