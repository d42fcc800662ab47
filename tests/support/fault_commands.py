"""Everything of retinasdk that writes files, as fault loops run it."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from fault_loop import Command
from pictures import LABELS

_COMMAND, _OVER_STAND_INS = "retinasdk.cli.main:main", "fault_calls:over_stand_ins"
# An older version of the timings may stay, if it cannot be removed, until the next engine is built.
_IN_CACHE = r"cache/tiny-fp32-[0-9a-f]{16}\.lock|cache/\.timing-[^/]*\.old"
# Where caches go if their folder cannot be written (_util/cache_dir.py).
_FALLBACK = r"tmp/retinasdk-\d+/[^/.][^/]*\.(engine|engine\.json|lock|cache)"
CHECKPOINT = "torchvision.pth"  # in the folder `in`, if torchvision is installed
_TIMINGS = "cache/timing-tensorrt-10.3.0-Fake-GPU.cache"


NAMES = (
    *("import", "quantize", "build", "detect", "eval", "bench", "verify", "live, lines", "live, film", "models"),
    *("Detections.save", "ModelSpec.save", "engine cache"),
    *(("export",) if importlib.util.find_spec("torchvision") else ()),
)


def command_list(folder: Path) -> list[Command]:
    """Returns all commands.

    Args:
        folder: The folder of the world. Its folder `in` has the inputs.
    """
    given, out = folder / "in", folder / "out"
    tiny, photos, truth = (str(given / name) for name in ("tiny.onnx", "photos", "set"))

    def words(*parts: object, overwrite: bool = True) -> list[list[str]]:
        return [[*map(str, parts), *(["--overwrite"] if overwrite else [])]]

    model = ("--model", tiny, "--device", "cpu")
    flavour = ("--flavour", "torchvision", "--labels", ",".join(LABELS))
    annotated = ("--images", truth, "--annotations", f"{truth}/truth.json")
    in_a_hurry = ("--sweep-images", 1, "--min-agreement", 0.3)
    pair = ("out/new.onnx", "out/new.json")
    charts = ("precision_recall.png", "precision_recall_classes.png", "scores.png")
    key = hashlib.sha256(f"{tiny}\nfp32".encode()).hexdigest()[:16]
    engine = f"tiny-fp32-{key}.engine"
    return [
        Command("import", _COMMAND, words("import", given / "foreign.onnx", "-o", out / "new.onnx", *flavour), [pair]),
        Command(
            "quantize",
            _COMMAND,
            words("quantize", tiny, "-o", out / "new.onnx", "--images", photos, *in_a_hurry),
            [pair],
        ),
        Command(
            "build",
            _OVER_STAND_INS,
            words("build", tiny, "-o", out / "new.engine", "--precision", "fp32"),
            [("out/new.engine", "out/new.engine.json"), (_TIMINGS,)],
            may_lose=((_TIMINGS,),),
            kept=_FALLBACK,
        ),
        Command(
            "detect",
            _COMMAND,
            words("detect", photos, *model, "--out", out / "drawn", "--json", out / "found.json"),
            [("out/found.json",), ("out/drawn/0_detections.jpg",), ("out/drawn/1_detections.jpg",)],
        ),
        Command(
            "eval",
            _COMMAND,
            words("eval", *annotated, *model, "--json", out / "ap.json", "--report", out / "report"),
            [("out/ap.json",), tuple(f"out/report/{name}" for name in (*charts, "evaluation.json", "index.html"))],
        ),
        Command(
            "bench",
            _COMMAND,
            words("bench", tiny, "--rounds", 1, "--json", out / "bench.json", "--plot", out / "bench.png"),
            [("out/bench.json",), ("out/bench.png",)],
        ),
        Command(
            "verify",
            _COMMAND,
            words(
                "verify",
                tiny,
                "--expected",
                given / "boxes.json",
                "--image",
                f"{photos}/0.png",
                "--json",
                out / "v.json",
            ),
            [("out/v.json",)],
        ),
        Command(
            "live, lines",
            _COMMAND,
            words("live", photos, *model, "--csv", out / "live.csv", "--jsonl", out / "live.jsonl"),
            [("out/live.csv",), ("out/live.jsonl",)],
        ),
        Command(
            "live, film",
            _COMMAND,
            words("live", photos, *model, "--save", out / "live.mp4"),
            [("out/live.mp4",)],
        ),
        Command("models", _COMMAND, words("models", overwrite=False), []),
        Command("Detections.save", "fault_calls:save_detections", [tiny, str(out / "drawn.png")], [("out/drawn.png",)]),
        Command(
            "engine cache",
            "fault_calls:detect_with_cached_engine",
            [tiny],
            (cached := [(f"cache/{engine}", f"cache/{engine}.json"), (_TIMINGS,)]),
            may_lose=cached,  # They go elsewhere, or nowhere, if they cannot be written.
            kept=f"{_IN_CACHE}|{_FALLBACK}",
        ),
        Command(
            "export",
            _COMMAND,
            words(
                "export",
                given / CHECKPOINT,
                "-o",
                out / "new.onnx",
                "--torchvision-defaults",
                "--resize",
                "shortest:64,96",
            ),
            [pair],
        ),
        Command("ModelSpec.save", "fault_calls:save_spec", [tiny, str(out / "spec.json")], [("out/spec.json",)]),
    ]
