"""Writes a pair again and again until it is killed: pair_writer.py FOLDER NAME [ROUNDS].

Each version of the pair has another size and its own hash. `pair` is also what the tests compare with.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from retinasdk._util.files import write_together


def pair(folder: Path, name: str, version: int) -> dict[Path, bytes]:
    """A first file of up to 400 KB, and a second one that has its hash."""
    first = f"{name} {version}\n".encode() * (1 + version % 7 * 5000)
    second = f"{name} {version}\n{hashlib.sha256(first).hexdigest()}\n".encode()
    return {folder / "model.onnx": first, folder / "model.json": second}


def main() -> None:
    folder, name, rounds = Path(sys.argv[1]), sys.argv[2], int((*sys.argv, 1 << 30)[3])
    print("ready", flush=True)
    for version in range(rounds):
        write_together(pair(folder, name, version))


if __name__ == "__main__":
    main()
