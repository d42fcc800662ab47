"""Writes classes that end the process in every function of TensorRT's runtime that the stand-in does not have.

The classes behind TensorRT's API have about fifty pure virtual functions each, and other ones in each version. They are
read from the header, so that the stand-in compiles against every version and holds only what libretinasdk calls.

    python abstract_members.py FOLDER_OF_HEADERS OUTPUT
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CLASSES = {"VRuntime": "Runtime", "VCudaEngine": "Engine", "VExecutionContext": "Context"}


def members(header: str, name: str) -> list[tuple[str, str]]:
    """The pure virtual functions of a class: each declaration without "virtual" and "= 0", and its name."""
    body = re.search(rf"class {name}\b[^;{{]*\{{(.*?)\n\}};", header, re.DOTALL)
    assert body is not None, f"the header has no class {name}"
    found = re.findall(r"virtual\s+([^;{]*?\b(\w+)\s*\([^;{]*?)\s*=\s*0\s*;", body[1])
    return [(" ".join(declaration.split()), function) for declaration, function in found]


def main() -> None:
    """Command line."""
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    official = folder / "NvInferImpl.h"
    header = (official if official.is_file() else folder / "NvInferRuntime.h").read_text(encoding="utf-8")
    header = re.sub(r"/\*.*?\*/", "", re.sub(r"//.*", "", header), flags=re.DOTALL)
    lines = ["// Written by abstract_members.py.", "#pragma once", "namespace nvinfer1::apiv {"]
    for theirs, ours in CLASSES.items():
        lines.append(f"class Unexpected{ours} : public {theirs} {{ public:")
        for declaration, function in members(header, theirs):
            lines.append(f'  {declaration} override {{ unexpected("{theirs}::{function}"); }}')
        lines.append("};")
    lines.append("}  // namespace nvinfer1::apiv")
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
