"""Fuzzes addresses of network streams: the name that logs and pages show has neither the password nor the user.

The input is an address in which two marks stand for user and password. What a person may type there is any text.
"""

from __future__ import annotations

import random

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.errors import RetinaSdkError
    from retinasdk.live.sources.video import Video

USER, PASSWORD = "Xuserx", "Ysecrety"


def one_input(data: bytes) -> None:
    filler = data.decode("utf-8", "surrogateescape")
    scheme, _, rest = filler.partition("|")
    parts = rest.split("|")
    before, inside, behind = (*parts, "", "", "")[:3]
    address = f"{scheme or 'rtsp'}://{before}{USER}:{inside}{PASSWORD}{behind}@camera.local/live"
    with harness.documented(ValueError, RetinaSdkError):
        name = Video(address).name
        if PASSWORD in name or USER in name:
            raise harness.FindingError(f"{address!r} is shown as {name!r}")
    query = f"rtsp://camera.local/live?user={USER}&pwd={PASSWORD}{inside}"
    name = Video(query).name
    if PASSWORD in name:
        raise harness.FindingError(f"{query!r} is shown as {name!r}")


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    """Inserts characters that separate the parts of an address."""
    choice = random.Random(seed)
    text = data.decode("utf-8", "surrogateescape")
    at = choice.randrange(len(text) + 1)
    return (text[:at] + choice.choice("@/:#?[]%\\|& é\t\n;!") + text[at:]).encode("utf-8", "surrogateescape")


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=mutate)
