"""Reads the values of a Python file without running it."""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retinasdk.convert.configs.config_file import config_text
from retinasdk.convert.configs.rules import Unresolved, is_number

_MAX_ITEMS = 1 << 14  # Of a list or text that an expression makes. Lists of labels have some thousands.
_MAX_STEPS = 1 << 18  # Of all expressions of a file: comprehensions in comprehensions multiply. About a second.
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: lambda base, exponent: float(base) ** float(exponent),  # Of floats, because those of integers can be huge.
}


class Steps:
    """Counts the expressions that were evaluated for one file. Raises `ValueError` beyond the limit."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def take(self) -> None:
        """Counts one."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"its expressions take more than {_MAX_STEPS} steps, far more than a config needs")


def read_python(path: Path) -> dict[str, Any]:
    """Returns the values of the names that a Python file assigns at its top level.

    Understood are literals, `dict(...)`, `list(...)`, `tuple(...)`, earlier names, arithmetic, `**` and list
    comprehensions. What needs more than that is `Unresolved`.

    Raises:
        SyntaxError: The file is no Python.
        OSError, ValueError: The file cannot be read.
    """
    text = config_text(path)
    names: dict[str, Any] = {}
    steps = Steps()
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], evaluate(statement.value, names, text, steps)
            if isinstance(target, ast.Name):
                names[target.id] = value
            else:
                _assign_item(target, value, names, text)
        elif not _is_harmless(statement):
            # A loop, an import or a call can change any name, but only those that it mentions.
            for name in {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}:
                names[name] = _unresolved(statement, text)
    return names


def evaluate(node: ast.expr, names: Mapping[str, Any], text: str, steps: Steps) -> Any:
    """Returns the value of an expression; `Unresolved` where it is more than data and arithmetic.

    Args:
        node: The expression.
        names: Values of the names that it may use.
        text: The source that it was parsed from.
        steps: Counts what is evaluated.

    Raises:
        ValueError: If a file takes too many steps.
    """
    steps.take()
    value = _evaluate(node, names, text, steps)
    return _unresolved(node, text) if value is NotImplemented else value


def _evaluate(node: ast.expr, names: Mapping[str, Any], text: str, steps: Steps) -> Any:
    """Like `evaluate`, with `NotImplemented` for an expression that is not understood."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id, NotImplemented)
    if isinstance(node, (ast.List, ast.Tuple)):
        if any(isinstance(item, ast.Starred) for item in node.elts):
            return NotImplemented
        return [evaluate(item, names, text, steps) for item in node.elts]
    if isinstance(node, ast.Dict):
        items = [(key and evaluate(key, names, text, steps), value) for key, value in _items(node)]
        return _mapping(items, names, text, steps)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "dict" and not node.args:
            return _mapping([(item.arg, item.value) for item in node.keywords], names, text, steps)
        if node.func.id in ("list", "tuple") and len(node.args) == 1 and not node.keywords:
            value = evaluate(node.args[0], names, text, steps)
            return list(value) if isinstance(value, list) else NotImplemented
        return NotImplemented
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = evaluate(node.operand, names, text, steps)
        return -value if is_number(value) else NotImplemented
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _arithmetic(node, names, text, steps)
    if isinstance(node, ast.ListComp) and len(node.generators) == 1:
        return _comprehension(node, names, text, steps)
    return NotImplemented


def _items(node: ast.Dict) -> list[tuple[ast.expr | None, ast.expr]]:
    return list(zip(node.keys, node.values, strict=True))


def _mapping(items: list[tuple[Any, ast.expr]], names: Mapping[str, Any], text: str, steps: Steps) -> Any:
    """Returns a dictionary; a key of None stands for `**value`."""
    found: dict[str, Any] = {}
    for key, node in items:
        value = evaluate(node, names, text, steps)
        if key is None:
            if not isinstance(value, dict):
                return NotImplemented
            found |= value
        elif isinstance(key, (str, int)):
            found[str(key)] = value
        else:
            return NotImplemented
    return found


def _arithmetic(node: ast.BinOp, names: Mapping[str, Any], text: str, steps: Steps) -> Any:
    left, right = evaluate(node.left, names, text, steps), evaluate(node.right, names, text, steps)
    are_lists = isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list)
    are_texts = isinstance(node.op, ast.Add) and isinstance(left, str) and isinstance(right, str)
    if not are_lists and not are_texts and not (is_number(left) and is_number(right)):
        return NotImplemented
    if (are_lists or are_texts) and len(left) + len(right) > _MAX_ITEMS:  # Doubled twenty times, it has a million.
        return NotImplemented
    try:
        value = _OPERATORS[type(node.op)](left, right)
    except ArithmeticError:
        return NotImplemented
    return value if are_lists or are_texts or is_number(value) else NotImplemented


def _comprehension(node: ast.ListComp, names: Mapping[str, Any], text: str, steps: Steps) -> Any:
    generator = node.generators[0]
    source = evaluate(generator.iter, names, text, steps)
    if generator.ifs or generator.is_async or not isinstance(generator.target, ast.Name):
        return NotImplemented
    if not isinstance(source, list) or len(source) > _MAX_ITEMS:
        return NotImplemented
    return [evaluate(node.elt, ChainMap({generator.target.id: item}, names), text, steps) for item in source]  # type: ignore[arg-type]


def _assign_item(target: ast.expr, value: Any, names: dict[str, Any], text: str) -> None:
    """Carries out `model['backbone']['depth'] = 18`. Other targets make their name unresolved."""
    path: list[str] = []
    node = target
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        if isinstance(node, ast.Attribute):
            path.append(node.attr)
        elif isinstance(node.slice, ast.Constant):
            path.append(str(node.slice.value))
        else:
            path.append("")
        node = node.value
    if not isinstance(node, ast.Name):
        for inner in ast.walk(target):
            if isinstance(inner, ast.Name):
                names[inner.id] = _unresolved(target, text)
        return
    at: Any = names.get(node.id)
    for key in reversed(path[1:]):
        at = at.get(key) if isinstance(at, dict) else None
    if isinstance(at, dict) and "" not in path:
        at[path[0]] = value
    else:
        names[node.id] = _unresolved(target, text)


def _is_harmless(statement: ast.stmt) -> bool:
    """Whether a statement changes no value: an import, a text, or a definition."""
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_text or isinstance(statement, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Pass))


def _unresolved(node: ast.AST, text: str) -> Unresolved:
    line, start = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
    is_one_line = getattr(node, "end_lineno", line) == line
    end = getattr(node, "end_col_offset", start) if is_one_line else start + 320
    source = _lines(text)[line - 1][start : min(end, start + 320)]  # Of UTF-8, four bytes a character.
    return Unresolved(source.decode(errors="ignore")[:80], line)


@functools.lru_cache(maxsize=1)
def _lines(text: str) -> list[bytes]:
    """Returns the lines of a source, split once for all its expressions, as `ast` counts them."""
    return re.split(rb"\r\n|\r|\n", text.encode())
