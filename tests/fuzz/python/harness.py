"""What the fuzz targets in Python share: the command line, the limits, the documented errors, structured mutation.

A target is a program with libFuzzer's command line, and one option more:

    python tests/fuzz/python/fuzz_zones.py tests/fuzz/corpus/zones -max_total_time=60
    python tests/fuzz/python/fuzz_zones.py --keep-going tests/fuzz/corpus/zones -max_total_time=60

The first ends at the first finding. The second writes one input of each kind of finding and goes on. Inputs are written
to tests/fuzz/crashes/SUBJECT. libFuzzer adds what it finds interesting to the first folder that it is given.

atheris is needed to run it, and not to import it: tests/fuzz/test_crashes.py replays the corpus and every crash that
was ever found without it.

Note: What is a finding

    An exception that the documentation does not promise, with exactly its class: a subclass such as UnicodeEncodeError
    is what a reader forgot, not what it says. An input that takes more processor time or memory than no input of its
    size may take. A crash or a time-out of the process, which libFuzzer reports by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # Before ONNX Runtime is imported: a fuzzer looks up no host.

ROOT = Path(__file__).resolve().parents[3]
FUZZ = ROOT / "tests" / "fuzz"
MAX_SECONDS = 5.0
MAX_MIB = 500
_KEEP_GOING = "--keep-going"
_MAX_KINDS = 50
_SUPPORT = str(ROOT / "tests" / "support")
if _SUPPORT not in sys.path:
    sys.path.append(_SUPPORT)

OneInput = Callable[[bytes], None]
Mutator = Callable[[bytes, int, int], bytes]


class FindingError(Exception):
    """An input does what no input may do."""


@contextlib.contextmanager
def instrumented(is_program: bool, *packages: str) -> Iterator[None]:
    """Imports retinasdk, and other packages, with coverage, if this is a program and not a module of a test."""
    if not is_program:
        yield
        return
    import atheris

    with atheris.instrument_imports(include=["retinasdk", *packages]):
        yield


@contextlib.contextmanager
def documented(*errors: type[Exception]) -> Iterator[None]:
    """Accepts these errors: exactly these classes, with a text."""
    try:
        yield
    except Exception as error:
        if type(error) not in errors:
            raise
        text = str(error)  # Fails for text that no terminal can show.
        text.encode()
        if not text:
            raise FindingError(f"{type(error).__name__} without a text") from error


def measured(one_input: OneInput) -> OneInput:
    """Returns `one_input` with the limits on time and memory."""

    def call(data: bytes) -> None:
        _forget_peak()
        peak, start = _peak_mib(), time.process_time()
        one_input(data)
        seconds, mib = time.process_time() - start, _peak_mib() - peak
        if seconds > MAX_SECONDS or mib > MAX_MIB:
            raise FindingError(f"{len(data)} bytes took {seconds:.1f} s and {mib:.0f} MiB")

    return call


def fuzz(one_input: OneInput, *, mutate: Mutator | None = None) -> None:
    """Runs the target that the process was started for, with the command line of libFuzzer.

    Args:
        one_input: The target. It returns for every input that is handled as documented.
        mutate: Makes another input: mutate(data, largest size, seed). Every second mutation is libFuzzer's own.
    """
    import atheris

    subject = Path(sys.argv[0]).stem.removeprefix("fuzz_")
    crashes = FUZZ / "crashes" / subject
    usual = {"-artifact_prefix": f"{crashes}/", "-timeout": "60", "-rss_limit_mb": "2048"}
    given = {word.partition("=")[0] for word in sys.argv}
    if "-artifact_prefix" not in given:
        crashes.mkdir(parents=True, exist_ok=True)
    arguments = [*sys.argv, *(f"{name}={value}" for name, value in usual.items() if name not in given)]

    call = measured(one_input)
    if _KEEP_GOING in arguments:
        arguments.remove(_KEEP_GOING)
        prefix = next(word.partition("=")[2] for word in arguments if word.startswith("-artifact_prefix="))
        call = _kept(call, prefix)

    def mixed(data: bytes, largest: int, seed: int) -> bytes:
        if mutate is not None and seed % 2:
            changed = mutate(data, largest, seed)
            if len(changed) <= largest:
                return changed
        return bytes(atheris.Mutate(data, largest))

    options = {} if mutate is None else {"custom_mutator": mixed}
    atheris.Setup(arguments, call, **options)
    atheris.Fuzz()


def _kept(one_input: OneInput, prefix: str) -> OneInput:
    """Returns `one_input` with its findings written to files, one of each kind: an error at a line of retinasdk."""
    seen = set()

    def call(data: bytes) -> None:
        try:
            one_input(data)
        except Exception as error:
            places = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
            lines = [f"{path.name}:{line}" for path, line in places if "retinasdk" in path.parts]
            kind = (type(error).__name__, lines[-1] if lines else re.sub(r"\d+", "N", str(error))[:40])
            if kind not in seen and len(seen) < _MAX_KINDS:
                seen.add(kind)
                path = Path(f"{prefix}crash-{hashlib.sha1(data).hexdigest()}")
                path.write_bytes(data)
                print(f"FINDING {path} {' '.join(kind)}: {str(error)[:300]!r}", file=sys.stderr, flush=True)

    return call


@contextlib.contextmanager
def folder_with(**files: bytes) -> Iterator[Path]:
    """Makes a folder with these files: folder_with(model_onnx=...) has model.onnx."""
    memory = Path("/dev/shm")  # As fast as memory where it exists.
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file.replace("_", ".")).write_bytes(content)
        yield folder


# -- mutation of JSON --------------------------------------------------------------------------------------------------

_NUMBERS = (0, -1, 1, 2, 0.5, 1e308, -1e308, 1e-320, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**400, 10**4299)
_TEXTS = ("", "\0", "\x1b[31m", "\ud800", "é", "../../x", "x" * 5000, "NaN", "%s", "-", "\u202e", "a\nb")
_CONSTANTS = (None, True, False, float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], {"": None})


def mutate_json(data: bytes, largest: int, seed: int) -> bytes:
    """Changes a few values of a JSON text: removes, repeats, swaps, nests them, or puts unusual ones in their place."""
    choice = random.Random(seed)
    try:
        root = [json.loads(data)]
        for _ in range(choice.choice((1, 1, 2, 4))):
            _change(root, choice)
        return json.dumps(root[0]).encode()
    except (ValueError, RecursionError, IndexError):  # No JSON, or nothing in it to change.
        return data


def _change(root: list[Any], choice: random.Random) -> None:
    parents = list(_containers(root, [])) if choice.random() < 0.9 else [root]
    parent = choice.choice([item for item in parents if item])
    key = choice.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    kind = choice.randrange(7)
    if kind == 0 and parent is not root:
        del parent[key]
    elif kind == 1:
        parent[key] = unusual(choice)
    elif kind == 2 and isinstance(parent, list) and parent is not root:
        parent.insert(choice.randrange(len(parent) + 1), parent[key])
    elif kind == 3:
        other = choice.choice(list(_containers(root, [])))
        value = choice.choice(list(other.values()) if isinstance(other, dict) else other or [None])
        parent[key] = json.loads(json.dumps(value))
    elif kind == 4 and isinstance(parent, dict):
        parent[choice.choice((*_TEXTS, key + "x"))] = parent[key]
    elif isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        parent[key] = choice.choice((-parent[key], parent[key] + 1, parent[key] * 2, choice.choice(_NUMBERS)))
    else:
        parent[key] = unusual(choice)


def unusual(choice: random.Random) -> Any:
    """Returns a value that readers forget: of another type, huge, not finite, or deeply nested."""
    kind = choice.randrange(8)
    if kind == 0:
        value: Any = choice.choice((1, [], "x"))
        for _ in range(choice.choice((3, 70, 200, 400, 900, choice.randrange(900, 1000)))):
            value = [value] if kind == 0 else {"a": value}
        return value
    if kind <= 3:
        return choice.choice(_NUMBERS)
    return choice.choice(_TEXTS) if kind <= 5 else choice.choice(_CONSTANTS)


def _containers(value: Any, found: list[Any]) -> list[Any]:
    if isinstance(value, (dict, list)):
        found.append(value)
        for item in value.values() if isinstance(value, dict) else value:
            _containers(item, found)
    return found


def _forget_peak() -> None:
    """Sets the peak of Linux back to what is in use. Otherwise, earlier work of this process would hide later peaks."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
