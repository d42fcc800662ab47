"""Two ways to some classes only, and how they differ.

python filter_classes.py PHOTO CLASS [CLASS ...] [--model NAME_OR_ONNX] [--score 0.05]

`detector(image, classes=[...])` runs as if the model knew no other class: the limits (`spec.top_k` candidates of
a level, `spec.max_detections` of an image) are spent on the named classes alone. Use it when the others
do not interest you.

`detections.filter(classes=[...])` looks through what was already found: one run serves several questions, but in a
crowded picture other classes may have used up the limits first. Where no limit was reached, both give the same.
"""

import argparse
import sys

import retinasdk


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect some classes only, in two ways.")
    parser.add_argument("photo")
    parser.add_argument("classes", nargs="+", metavar="CLASS")
    parser.add_argument("--model", help="a bundled name or an ONNX file (default: people)")
    parser.add_argument("--score", type=float, default=0.05)
    arguments = parser.parse_args()

    detector = retinasdk.Detector(arguments.model, score_threshold=arguments.score)
    everything = detector(arguments.photo)
    at_the_call = detector(arguments.photo, classes=arguments.classes)
    afterwards = everything.filter(classes=arguments.classes)
    print(f"all classes: {len(everything)} (the model's limit is {detector.spec.max_detections} an image)")
    print(f"classes= at the call: {len(at_the_call)}")
    print(f"Detections.filter afterwards: {len(afterwards)}")
    print(f"only at the call: {len(at_the_call) - len(afterwards)}")


if __name__ == "__main__":
    try:
        main()
    except (retinasdk.RetinaSdkError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
