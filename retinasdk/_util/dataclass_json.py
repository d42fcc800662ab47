"""Converts frozen dataclasses to JSON objects and back by their type annotations. Unknown keys are errors."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from retinasdk.errors import ModelError

_T = TypeVar("_T")


def to_json_object(instance: Any) -> dict[str, Any]:
    """Converts a dataclass instance, and those inside it, to dictionaries and lists."""
    return {item.name: _plain(getattr(instance, item.name)) for item in dataclasses.fields(instance)}


def dump_readable(content: Mapping[str, Any]) -> str:
    """Returns indented JSON text with each list of numbers on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # The raw line break behind the bracket distinguishes a list from a string that looks like one.
    return re.sub(r"\[\n[\s\d.,eE+-]+\]", lambda numbers: "[" + " ".join(numbers[0][1:-1].split()) + "]", text) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json_object(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def from_json_object(cls: type[_T], content: Mapping[str, Any], where: str = "") -> _T:
    """Creates an instance of a dataclass from a JSON object.

    Args:
        cls: The dataclass.
        content: The JSON object.
        where: Prefix of field names in error messages, such as "resize.".

    Raises:
        ModelError: If a field is unknown, missing, or has the wrong type. The message names the field.
    """
    fields = {item.name: item for item in dataclasses.fields(cast(Any, cls))}
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise ModelError(f"unknown field {where}{unknown[0]}; known are {', '.join(fields)}")
    for name, item in fields.items():
        has_default = item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        if name not in content and not has_default:
            raise ModelError(f"field {where}{name} is missing")
    hints = _hints(cast(type, cls))
    return cls(**{name: _typed(value, hints[name], where + name) for name, value in content.items()})


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _typed(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _typed(value, next(a for a in arguments if a is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ModelError(f"{where} must be a list, got {value!r}")
        if arguments[-1] is not ... and len(value) != len(arguments):
            raise ModelError(f"{where} must have {len(arguments)} entries, got {value!r}")
        return tuple(_typed(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise ModelError(f"{where} must be an object, got {value!r}")
        return {key: _typed(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ModelError(f"{where} must be an object, got {value!r}")
        return from_json_object(cast(type, hint), value, where + ".")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ModelError(f"{where} is too large for a number: {str(value)[:20]}...") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ModelError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
