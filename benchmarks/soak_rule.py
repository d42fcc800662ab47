"""The rule by which a soak is flat: reads a record, and says which of its conditions hold.

A cycle has a busy part, with viewers, strangers and a camera that may be gone, and a quiet part, in which all guests
have left and the camera is back. What is held is compared in the quiet parts, after a warm-up of a quarter of the
cycles:

- memory: the upper end of the 95% confidence interval of its slope is below the limit. A soak that is too short or too
  noisy to exclude more growth than that is not flat. The memory is what no file backs, its lowest value in each quiet
  part, since a call in progress has more; the slope is the median of the slopes between all pairs of cycles (Theil and
  Sen), with Kendall's interval.
- descriptors and threads: the least of each quiet part of the last third are not more than the most of the quiet parts
  up to the end of the first third.
- camera: frames came again each time that it came back.
- viewers: each got a picture, and no request was answered wrongly.
- ends: both programs ran to the end, and ended by themselves when they were asked to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PROGRAMS = ("calls", "live")
_Z = 1.96  # 95% of a normal distribution
_FEWEST = 4  # Kendall's interval of fewer points is everything.
_CLEAN_ENDS = (0, 143)  # 143: ended by SIGTERM


@dataclass(frozen=True)
class Finding:
    """One condition, whether it holds, and the numbers that decided."""

    name: str
    holds: bool
    text: str


def warm(cycles: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The cycles after the warm-up."""
    return cycles[max(1, math.ceil(len(cycles) / 4)) :]


def slope(times: npt.ArrayLike, values: npt.ArrayLike) -> tuple[float, float, float]:
    """Theil and Sen's slope of values over times, and the ends of its 95% interval; infinite where they are too few."""
    t, v = np.asarray(times, float), np.asarray(values, float)
    first, second = np.triu_indices(len(t), k=1)
    if len(t) < _FEWEST:
        return math.nan, -math.inf, math.inf
    slopes = np.sort((v[second] - v[first]) / (t[second] - t[first]))
    pairs, count = len(slopes), len(t)
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    below, above = math.floor((pairs - spread) / 2), math.ceil((pairs + spread) / 2)
    low = slopes[below - 1] if below >= 1 else -math.inf
    high = slopes[above] if above < pairs else math.inf
    return float(np.median(slopes)), float(low), float(high)


def judge(record: Mapping[str, Any]) -> list[Finding]:
    """Decides each condition from a record as soak.py writes it.

    Args:
        record: "head" (with "limit_mb_per_hour"), "cycles" and "end", which is None if the soak was interrupted.
    """
    cycles = record["cycles"]
    findings = [finding for name in PROGRAMS for finding in _held(name, cycles, record["head"]["limit_mb_per_hour"])]
    outages = [cycle["outage"] for cycle in cycles if cycle["outage"] is not None]
    back = sum(outage["back_s"] is not None for outage in outages)
    findings.append(
        Finding(
            "camera", back == len(outages), f"frames came again after {back} of {len(outages)} losses of the camera"
        )
    )
    seen = {what: sum(cycle["guests"].get(what, 0) for cycle in cycles) for what in ("viewers", "pictures", "failures")}
    findings.append(
        Finding(
            "viewers",
            seen["viewers"] == seen["pictures"] and seen["failures"] == 0,
            f"{seen['pictures']} of {seen['viewers']} viewers got pictures, {seen['failures']} requests failed",
        )
    )
    findings.append(_ends(record["end"]))
    return findings


def report(record: Mapping[str, Any]) -> list[str]:
    """The verdict in lines of text: each condition, and "flat" or "not flat" in the last one."""
    findings = judge(record)
    lines = [f"{'ok ' if finding.holds else 'NOT'} {finding.name}: {finding.text}" for finding in findings]
    verdict = "flat" if all(finding.holds for finding in findings) else "not flat"
    cycles = record["cycles"]
    return [*lines, f"{verdict} over {len(cycles)} cycles of {record['head']['cycle_s']:g} s"]


def _held(name: str, cycles: Sequence[Mapping[str, Any]], limit: float) -> list[Finding]:
    quiet = [(cycle["minutes"], cycle["held"][name]) for cycle in warm(cycles) if cycle["held"] is not None]
    hours = [minutes / 60 for minutes, _ in quiet]
    growth, low, high = slope(hours, [held["anonymous_mb"] for _, held in quiet])
    findings = [
        Finding(
            f"{name}: memory",
            high < limit,
            f"{growth:+.2f} MB an hour (95%: {low:+.2f} to {high:+.2f}), limit {limit:g}",
        )
    ]
    third = max(1, len(quiet) // 3)
    warm_up = cycles[: len(cycles) - len(warm(cycles))]
    early = [cycle["held"][name] for cycle in warm_up if cycle["held"] is not None]
    early += [held for _, held in quiet[:third]]
    for what in ("descriptors", "threads"):
        first = max((held.get(f"most_{what}", held[what]) for held in early), default=0)
        last = max((held[what] for _, held in quiet[-third:]), default=math.inf)
        findings.append(Finding(f"{name}: {what}", last <= first, f"{first} in the first third, {last} at the end"))
    return findings


def _ends(end: Mapping[str, Any] | None) -> Finding:
    if end is None:
        return Finding("ends", False, "the soak was interrupted")
    said = [f"{name}: status {end[name]['status']} after {end[name]['seconds']:.1f} s" for name in PROGRAMS]
    return Finding("ends", all(end[name]["status"] in _CLEAN_ENDS for name in PROGRAMS), ", ".join(said))
