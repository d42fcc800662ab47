"""Fuzzes the JSON file of zones and lines."""

from __future__ import annotations

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.live.zones import Zones


def one_input(data: bytes) -> None:
    with harness.folder_with(zones_json=data) as folder, harness.documented(ValueError):
        Zones.load(folder / "zones.json")


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=harness.mutate_json)
