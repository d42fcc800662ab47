"""Counts what decode and NMS read and write at the usual size of heads, as tables of docs/how/kernel-traffic.md.

    python tests/native/checks/kernel_traffic.py [--check | --write]        needs GCC and cmake, no GPU

Without an option, it prints the tables.
--check: fails if a number of the page differs by more than 10 %. Another release of GCC counts a little differently.
--write: writes them into the page.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from paths import ROOT
from traffic_counts import Counts, Launch, Traffic, compiler, count_traffic

_PAGE = ROOT / "docs" / "how" / "kernel-traffic.md"
_BEGIN, _END = "<!-- counted -->\n", "<!-- end of what was counted -->\n"
_RATES = (0.003, 0.05, 0.5, 1.0)
_TYPES = {"float32": 0, "float16": 1}
_TOLERANCE = 0.1
_SMALLEST = 0.01  # Differences of less than 10 kB or of a few operations are none.


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3f}"


def _both(launch: Launch, name: str) -> str:
    """A count of all blocks and of the busiest."""
    values = [getattr(counts, name) for counts in (launch.total, launch.busiest)]
    return " / ".join(_megabytes(value) if name.endswith("bytes") else f"{value:,}" for value in values)


def _shared(counts: Counts) -> str:
    return _megabytes(counts.shared_read_bytes + counts.shared_written_bytes)


def _summary(counted: dict[tuple[str, float], Traffic]) -> Iterator[str]:
    yield "| heads | passing | logits read | most reads of one logit | largest share of the logits that a block reads |"
    yield "|---|---|---|---|---|"
    for (heads, rate), traffic in counted.items():
        read = sum(launch.total.logit_bytes for launch in traffic.launches)
        busiest = max(traffic.launches, key=lambda launch: launch.busiest.logit_bytes)
        share = busiest.busiest.logit_bytes / traffic.logit_bytes
        yield (
            f"| {heads}, {_megabytes(traffic.logit_bytes)} MB | {100 * rate:g}% | {read / traffic.logit_bytes:.2f} "
            f"times | {traffic.most_reads} | {100 * share:.2f}%, `{busiest.kernel}` |"
        )


def _kernels(counted: dict[float, Traffic]) -> Iterator[str]:
    columns = ("read", "written", "atomics", "barriers", "shared memory", "atomics on shared memory")
    yield f"| passing | kernel | blocks x threads | {' | '.join(columns)} |"
    yield "|---|---|---|" + "---|" * len(columns)
    for rate, traffic in counted.items():
        for launch in traffic.launches:
            is_memset = launch.kernel == "cudaMemsetAsync"
            cells = (
                f"{100 * rate:g}%",
                f"`{launch.kernel}`",
                "" if is_memset else f"{launch.blocks:,} x {launch.threads}",
                _both(launch, "read_bytes"),
                _both(launch, "written_bytes"),
                _both(launch, "atomics"),
                _both(launch, "barriers"),
                f"{_shared(launch.total)} / {_shared(launch.busiest)}",
                _both(launch, "shared_atomics"),
            )
            yield f"| {' | '.join(cells)} |"


def tables() -> str:
    """Runs everything. Returns the generated part of the page."""
    counted = {
        (heads, rate): count_traffic(passing=rate, half=half) for heads, half in _TYPES.items() for rate in _RATES
    }
    lines = [*_summary(counted), "", f"Compiled by `{compiler()}`.", ""]
    for heads in _TYPES:
        lines += [f"## Each kernel, {heads} heads", "", "Bytes in MB. All blocks / the busiest block.", ""]
        lines += [*_kernels({rate: counted[heads, rate] for rate in _RATES}), ""]
    return "\n".join(lines)


def difference(ours: str, theirs: str) -> str | None:
    """Describes the first line whose numbers differ by more than the tolerance, or whose words differ."""
    number = re.compile(r"(?<![\w.])[\d,]*\d(?:\.\d+)?(?!\w)")
    for one, other in itertools.zip_longest(ours.splitlines(), theirs.splitlines(), fillvalue=""):
        if one.startswith("Compiled by") and other.startswith("Compiled by"):
            continue
        values = [[float(found.replace(",", "")) for found in number.findall(line)] for line in (one, other)]
        is_same = number.sub("", one) == number.sub("", other) and all(
            abs(a - b) <= max(_TOLERANCE * max(a, b), _SMALLEST if "." in one else 0)
            for a, b in zip(*values, strict=True)
        )
        if not is_same:
            return f"counted now: {one}\non the page: {other}"
    return None


def main() -> None:
    """Prints, checks or writes the tables."""
    found = tables()
    if sys.argv[1:] == []:
        print(found)
        return
    before, begin, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    old, end, after = rest.partition(_END)
    if sys.argv[1:] == ["--write"]:
        _PAGE.write_text(before + begin + found + end + after, encoding="utf-8")
    elif sys.argv[1:] == ["--check"]:
        differs = difference(found, old)
        if differs is not None:
            sys.exit(f"{_PAGE} is out of date; run this with --write\n{differs}")
        print(f"{_PAGE.name} is up to date")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
