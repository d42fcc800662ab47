"""`retinasdk verify`: one model on two backends, compared."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from retinasdk import list_images
from retinasdk._util.files import write_atomically
from retinasdk.cli.arguments import check_file, progress
from retinasdk.tensorrt.engine_info import PRECISIONS
from retinasdk.verification.verify import Verification, verify

_FAILED = 1


def add_parser(commands: Any) -> None:
    """Adds the command."""
    check = commands.add_parser("verify", help="compare a model on the GPU, or another file of it, with the CPU")
    check.add_argument("model", metavar="MODEL", help="a bundled name or an ONNX file, which runs on the CPU")
    check.add_argument("--images", type=Path, metavar="DIR", help="folder of images (default: seeded pictures)")
    check.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what is tested (%(default)s)")
    check.add_argument("--against", metavar="FILE", help="test this ONNX file or engine, instead of MODEL itself")
    check.add_argument("--precision", choices=PRECISIONS, help="whose tolerance holds (default: the engine's)")
    check.add_argument("--score", type=float, help="compare boxes above this score (default: the model's)")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Does it; 1 where both differ by too much. Raises the errors of `verify`."""
    if arguments.json is not None:
        check_file(arguments.json)
    result = verify(
        arguments.model,
        None if arguments.images is None else list_images(arguments.images),
        device=arguments.device,
        against=arguments.against,
        precision=arguments.precision,
        score_threshold=arguments.score,
        progress=progress("verify", "image"),
    )
    print(_report(result))
    if arguments.json is not None:
        write_atomically(arguments.json, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        print(f"wrote {arguments.json}")
    return 0 if result.passed else _FAILED


def _report(result: Verification) -> str:
    tolerance, count = result.tolerance, len(result.images)
    lines = [
        f"{result.tested} against {result.reference}, {count} image{'' if count == 1 else 's'}, "
        f"tolerance of {result.precision}",
        f"  {'level':5s}  {'head':6s}  {'difference':>10s}  {'of spread':>9s}  beyond {tolerance.element:.1%} of it "
        f"(allowed {tolerance.share:.2%})",
    ]
    for item in result.tensors:
        lines.append(
            f"  {item.level:5d}  {item.head:6s}  {item.max_abs:10.3g}  {item.max_relative:9.2%}  "
            f"{item.share_beyond:7.2%}  {'ok' if result.is_within(item) else 'FAILED'}"
        )
    worst_score = max(item.max_score for item in result.images)
    worst_pixels = max(item.max_pixels for item in result.images)
    equal = sum(item.postprocess == "equal" for item in result.images)
    undecided = sum(item.postprocess == "undecided" for item in result.images)
    lines += [
        f"  boxes with scores above {result.score_threshold:g}: {result.total('reference')} in the reference, "
        f"{result.total('tested')} in the tested",
        f"    {result.total('missing')} missing and {result.total('extra')} extra at IoU {tolerance.iou:g} "
        f"(allowed {result.allowed_unmatched} together); "
        f"{result.total('suppressed_in_one')} found by both, suppressed by NMS in one",
        f"    pairs differ by up to {worst_score:.4f} in score (allowed {tolerance.score:g}) and {worst_pixels:.2f} px",
        f"  decode and NMS equal to the CPU's bit for bit, with the same head outputs: {equal} of {count}"
        + (f" ({undecided} undecided: head outputs change from run to run)" if undecided else ""),
    ]
    lines += [f"FAILED {failure}" for failure in result.failures]
    return "\n".join(lines if result.failures else [*lines, "passed"])
