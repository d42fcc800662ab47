"""Reads YAML without constructing objects: of Python's tags, only tuples and arithmetic are understood."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from retinasdk._util.lazy import require
from retinasdk.convert.configs.config_file import config_text
from retinasdk.convert.configs.literals import Steps, evaluate
from retinasdk.convert.configs.rules import Unresolved

_PYTHON = "tag:yaml.org,2002:python/"


def read_yaml(path: Path) -> Any:
    """Returns the content of a YAML file.

    Lists that YAML marks as Python tuples are lists. An expression for Python's `eval`, as detectron2 writes the sizes
    of anchors, is computed if it is arithmetic. Any other tag is kept as `Unresolved`.

    Raises:
        ValueError: The file is no YAML.
        OSError: The file cannot be read.
        MissingDependencyError: The package pyyaml is missing.
    """
    yaml = require("yaml", "reading YAML configs")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]  # The base is only known at run time.
        pass

    steps = Steps()

    def construct(loader: Any, tag: str, node: Any) -> Any:
        line = node.start_mark.line + 1
        if tag == "tuple" and isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        if tag == "object/apply:eval" and isinstance(node, yaml.SequenceNode) and len(node.value) == 1:
            text = loader.construct_scalar(node.value[0])
            try:
                return evaluate(ast.parse(text, mode="eval").body, {}, text, steps)
            except SyntaxError:
                return Unresolved(text, line)
        return Unresolved(f"!!python/{tag}", line)

    Loader.add_multi_constructor(_PYTHON, construct)
    Loader.add_multi_constructor("!", lambda loader, tag, node: Unresolved(f"!{tag}", node.start_mark.line + 1))
    try:
        return yaml.load(config_text(path), Loader)  # A subclass of the safe loader.
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
