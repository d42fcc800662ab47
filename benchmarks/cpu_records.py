"""Records of the table of CPU speeds in benchmarks/records/cpu: how they are written, read and checked.

A record holds the milliseconds of every round; all other numbers are computed from them. It is written whole or not at
all, and never when other work used the machine.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import retinasdk
from retinasdk._util.files import write_atomically
from retinasdk._util.processor import instruction_sets, processor_name, usable_cores

FOLDER = Path(__file__).resolve().parent / "records" / "cpu"
FORMAT = 1
TABLE, ROOFLINE = "speed of a CPU", "roofline of a CPU"
MOST_OTHER_WORK = 0.05  # Share of the processors.
_DATE = len("2000-01-01-")  # Before the processor in the name of a file.
PACKAGES = ("onnxruntime", "ncnn", "openvino", "numpy")
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "kind": str,
    "date": str,
    "machine": dict,
    "isa": str,
    "is_forced": bool,
    "versions": dict,
    "commit": str,
    "threads": int,
    "rounds": int,
    "other_work": (float, type(None)),
}
_FIELDS_OF_KIND: dict[str, dict[str, type | tuple[type, ...]]] = {
    TABLE: {"rest_s": float, "cases": list},
    ROOFLINE: {"peak": dict, "models": list},
}

Record = dict[str, Any]


class BusyError(Exception):
    """Other work used the machine, so nothing is recorded."""


def machine() -> dict[str, Any]:
    """The processor, its vector instructions, its usable cores, and the system."""
    return {
        "processor": processor_name(),
        "instructions": list(instruction_sets()),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of what is installed of `PACKAGES`."""
    found = {"retinasdk": retinasdk.__version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_quiet(other_work: float | None, when: str) -> None:
    """Raises BusyError if other work used too much of the processors."""
    if other_work is not None and other_work > MOST_OTHER_WORK:
        raise BusyError(
            f"other work used {other_work:.0%} of the processors {when}, and at most {MOST_OTHER_WORK:.0%} may be; "
            "nothing is recorded. Close other programs and measure again"
        )


def check(record: Mapping[str, Any], name: str = "record") -> None:
    """Raises ValueError if a field is missing or is of another type."""
    kind = record.get("kind")
    if kind not in _FIELDS_OF_KIND:
        raise ValueError(f"{name}: kind is {kind!r}; expected one of {', '.join(_FIELDS_OF_KIND)}")
    for field, expected in (_FIELDS | _FIELDS_OF_KIND[kind]).items():
        if field not in record or not isinstance(record[field], expected):
            raise ValueError(f"{name}: {field} is {record.get(field)!r}; expected {expected}")
    if record["format"] != FORMAT or re.fullmatch(r"\d{4}-\d{2}-\d{2}", record["date"]) is None:
        raise ValueError(
            f"{name}: format is {record['format']}, date is {record['date']!r}; expected {FORMAT}, YYYY-MM-DD"
        )
    for case in record.get("cases", []):
        for contestant in case["contestants"]:
            times = contestant["times_ms"]
            if len(times) != record["rounds"] or not all(isinstance(value, float) and value > 0 for value in times):
                raise ValueError(
                    f"{name}: {case['name']}, {contestant['name']}: expected {record['rounds']} times above 0"
                )


def path_of(record: Mapping[str, Any]) -> Path:
    """<date>-<processor>-<instruction set>.json, and -roofline before the end for such a record."""
    processor = re.sub(r"[^a-z0-9]+", "-", record["machine"]["processor"].lower()).strip("-")
    forced = "-forced" if record["is_forced"] else ""
    roofline = "-roofline" if record["kind"] == ROOFLINE else ""
    return FOLDER / f"{record['date']}-{processor}-{record['isa']}{forced}{roofline}.json"


def save(record: Mapping[str, Any]) -> Path:
    """Writes a record, and returns its path. One of the same day, processor and instruction set is replaced.

    Raises:
        BusyError: If other work used the machine.
        ValueError: If the record is not complete.
    """
    check(record)
    check_quiet(record["other_work"], "while it was measured")
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = path_of(record)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def records(kind: str) -> Iterator[Record]:
    """The newest record of that kind for each processor and instruction set; those that were not forced first."""
    newest: dict[str, Record] = {}
    for path in sorted(FOLDER.glob("*.json")):
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        check(record, path.name)
        if record["kind"] == kind:
            newest[path.name[_DATE:]] = record
    return iter(sorted(newest.values(), key=lambda record: (record["is_forced"], path_of(record).name[_DATE:])))


def quartiles(times_ms: list[float], reference_ms: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of the ratios within a round."""
    low, middle, high = np.percentile(np.array(times_ms) / np.array(reference_ms), [25, 50, 75])
    return float(low), float(middle), float(high)
