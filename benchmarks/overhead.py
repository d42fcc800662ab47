"""What `Detector(image)` costs beyond the network: the whole call over the bare ONNX Runtime call.

    python benchmarks/overhead.py [--model NAME_OR_PATH] [--image FILE | --size 480x640] [--threads N]

Bare means `InferenceSession.run` on the ready tensor, with the same outputs, in the very session that the detector
uses. Calls take turns; and because on a busy machine two runs of one large network differ by more than the overhead,
the whole call is also set against the `run` inside it. Without --model: the bundled model on a photo of 853 x 1280, and
a ResNet-50-FPN RetinaNet of 91 classes with random weights on one of 480 x 640, which is 800 x 1088 to the network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from inputs import has_bundled_model, random_model, read_or_make, size
from timing import interleave, print_machine, print_ratio, print_times

import retinasdk
from retinasdk.backends.onnx_cpu import OnnxCpuBackend
from retinasdk.pipeline.postprocess import postprocess
from retinasdk.pipeline.preprocess import Transform, preprocess
from retinasdk.pipeline.rules import logit

# Around which the random scores lie: then 0.3 % are above the threshold of 0.05, as in a busy photo.
RANDOM_PRIOR = 0.001


class _TimedSession:
    """An ONNX Runtime session that notes the milliseconds of each run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.milliseconds: list[float] = []

    def run(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        outputs = self._session.run(*arguments)
        self.milliseconds.append(1000.0 * (time.perf_counter() - start))
        return outputs


def measure(
    model: str | Path, image: npt.NDArray[np.uint8], *, threads: int | None, rounds: int, warmup: int, target: str
) -> None:
    with retinasdk.Detector(model, threads=threads) as detector:
        backend, spec = cast(OnnxCpuBackend, detector._backend), detector.spec
        transform = Transform.plan(image.shape[:2], spec)
        tensor = preprocess([image], [transform], spec).tensor
        heads = backend.infer(tensor)
        limit = logit(spec.score_threshold)
        passing = sum(int((level > limit).sum()) for level in heads.logits) / sum(level.size for level in heads.logits)
        print(f"\n{spec.name}: image {image.shape} uint8, tensor {tensor.shape} float32, {len(spec.labels)} classes,")
        print(f"  {100 * passing:.3f} % of scores above {spec.score_threshold}, {len(detector(image))} detections")

        outputs = [level.logits for level in spec.levels] + [level.deltas for level in spec.levels]
        session = backend._session
        timed = backend._session = _TimedSession(session)
        candidates = {
            "Detector(image)": lambda: detector(image),
            "bare session.run": lambda: session.run(outputs, {spec.input: tensor}),
            "preprocess alone": lambda: preprocess([image], [transform], spec),
            "postprocess alone": lambda: postprocess(
                heads, spec, [transform], score_threshold=spec.score_threshold, class_ids=detector._default_class_ids
            ),
        }
        times = interleave(candidates, rounds=rounds, warmup=warmup)
    times["session.run inside Detector(image)"] = np.array(timed.milliseconds[-rounds:])
    print_times(times)
    print_ratio(times, "Detector(image)", "bare session.run", target=target)
    print_ratio(times, "Detector(image)", "session.run inside Detector(image)", target=target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="bundled name or ONNX path; without it, the two cases above")
    parser.add_argument("--image", type=Path, help="an image file; it is decoded before the clock starts")
    parser.add_argument("--size", type=size, help="HEIGHTxWIDTH of a synthetic photo instead")
    parser.add_argument("--threads", type=int, help="of ONNX Runtime; without it, one a core")
    parser.add_argument("--rounds", type=int, help="default: 100, and 7 for ResNet-50")
    arguments = parser.parse_args()
    threads = arguments.threads
    print_machine("retinasdk", "onnxruntime", "numpy")
    print(f"threads: {threads or 'one a core'}")
    if arguments.model or has_bundled_model():
        image = read_or_make(arguments.image, arguments.size or (853, 1280))
        model = arguments.model or "people"
        measure(model, image, threads=threads, rounds=arguments.rounds or 100, warmup=10, target="at most 1.15")
    else:
        print("\nno bundled model in this installation: give one with --model")
    if not arguments.model:
        image = read_or_make(arguments.image, arguments.size or (480, 640))
        with random_model("resnet50", classes=91, prior=RANDOM_PRIOR) as path:
            measure(path, image, threads=threads, rounds=arguments.rounds or 7, warmup=1, target="at most 1.03")


if __name__ == "__main__":
    main()
