"""Fuzzes the configs of training frameworks: JSON, YAML, and Python, which is not executed.

The first byte says which: j, y or p. The rest is the file, which may name itself as its base.
"""

from __future__ import annotations

import random

import harness

with harness.instrumented(__name__ == "__main__"):
    from retinasdk.convert.configs import read_config
    from retinasdk.errors import ModelError

SUFFIXES = {b"j": ".json", b"y": ".yaml", b"p": ".py"}


def one_input(data: bytes) -> None:
    suffix = SUFFIXES.get(data[:1], ".json")
    with harness.folder_with() as folder, harness.documented(ModelError):
        (folder / f"config{suffix}").write_bytes(data[1:])
        read_config(folder / f"config{suffix}")


_PIECES = (
    b"a = [1]\n", b"a = a + a\n", b"a = a * a\n", b"[a for a in a]", b"_base_ = ['config.py', 'config.py']\n",
    b"model = dict(bbox_head=dict(num_classes=3))\n", b"9" * 400, b"1e400", b"'x'", b"(", b")", b"[", b"]", b"{", b"}",
    b"- &a [*a]\n", b"&a", b"*a", b"!!python/tuple", b"!!python/object/apply:eval ['2**0.5']", b"**", b"dict(**a)",
    b"_BASE_: config.yaml\n", b"model['a']['b'] = 1\n", b"- ", b": ", b"\x00", b"\xff", b"None", b"-", b"\n    ",
)  # fmt: skip


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    """Inserts, repeats and cuts pieces of Python and YAML; changes JSON by its structure."""
    if data[:1] == b"j":
        return b"j" + harness.mutate_json(data[1:], largest, seed)
    choice = random.Random(seed)
    at = choice.randrange(1, len(data) + 1) if data else 0
    end = min(len(data), at + choice.choice((0, 0, 1, 4, 20)))
    piece = choice.choice(_PIECES) * choice.choice((1, 1, 1, 2, 8, 40))
    return data[:at] + piece + data[end:]


if __name__ == "__main__":
    harness.fuzz(one_input, mutate=mutate)
