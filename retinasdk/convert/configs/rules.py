"""`ConfigRules`: what a config file says about a model; `RuleReader`, which the readers of all frameworks share."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinasdk.errors import ModelError

# The option of the command for each rule that a config can state, for errors.
OPTIONS = {
    "labels": "--labels A,B,C",
    "base_anchors": "--anchors FILE.json",
    "strides": "--strides N,N,...",
    "box_weights": "--box-weights X,Y,W,H",
    "box_means": "--box-means X,Y,W,H",
    "mean": "--mean M,M,M --std S,S,S",
    "std": "--mean M,M,M --std S,S,S",
    "channel_order": "--channel-order RGB",
    "resize": "--resize RULE",
    "pad_multiple": "--pad-multiple N",
    "score_threshold": "--score-threshold SCORE",
    "nms_iou_threshold": "--nms-iou IOU",
    "top_k": "--top-k N",
    "max_detections": "--max-detections N",
}

_MAX_ENTRIES = 1 << 16  # Of a value, in all its lists.
_MAX_DEPTH = 4  # The sizes of anchors are lists in lists, and a pipeline's.


@dataclass(frozen=True)
class Unresolved:
    """A value of a config that only its framework can compute, because it is code and not data.

    Attributes:
        text: The code.
        line: Its line in the file.
    """

    text: str
    line: int


class UnusableValueError(Exception):
    """A value of a config cannot be used; the text says why."""


@dataclass(frozen=True)
class ConfigRules:
    """The rules of a model, as the config file of its framework states them.

    Attributes:
        path: The file.
        flavours: The names of the flavours that its framework can mean, the likeliest first.
        values: The rules, by the names of the arguments of `import_onnx`.
        keys: Where each of them stands in the file.
        problems: Why a rule in the file cannot be used, by its name. It has to be given in another way.
        classes: Number of classes; None if the file does not say.
        drop_empty: As in `ModelSpec`; None if the file does not change what is usual.
    """

    path: Path
    flavours: tuple[str, ...]
    values: Mapping[str, Any]
    keys: Mapping[str, str]
    problems: Mapping[str, str]
    classes: int | None = None
    drop_empty: str | None = None


@dataclass
class RuleReader:
    """Looks up values in a config, and collects the rules that they give.

    Attributes:
        path: The file, for errors.
        content: Its values.
        values, keys, problems: As in `ConfigRules`.
    """

    path: Path
    content: Mapping[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value by its dotted key, or the default where it is missing or null.

        Raises:
            UnusableValueError: The value is code.
        """
        value: Any = self.content
        passed: list[str] = []
        for part in key.split("."):
            if isinstance(value, Unresolved):
                return data(value, ".".join(passed))
            passed.append(part)
            if isinstance(value, Sequence) and not isinstance(value, str):
                value = value[int(part)] if part.isdigit() and int(part) < len(value) else None
            else:
                value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else data(value, key)

    def rule(self, name: str, key: str, read: Callable[[], Any]) -> None:
        """Reads one rule. If it cannot be used, that is noted and no error yet: the user may have given it.

        Args:
            name: The argument of `import_onnx`.
            key: Where it stands in the file, for people.
            read: Returns the value, or None if the file has none.
        """
        try:
            value = read()
        except UnusableValueError as error:
            self.problems[name] = f"{self.path}: {error}. Give it as an option: {OPTIONS[name]}"
        except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            self.problems[name] = f"{self.path}: {key} cannot be used: {error}. Give it as an option: {OPTIONS[name]}"
        else:
            if value is not None:
                self.values[name], self.keys[name] = value, key

    def refuse(self, is_known: bool, key: str, expected: str) -> None:
        """Raises `ModelError` unless a value that no option can replace is one that retinasdk knows."""
        if not is_known:
            try:
                value = reprlib.repr(self.get(key))
            except UnusableValueError as error:
                value = str(error)
            raise ModelError(f"{self.path}: {key} is {value}; {expected}")

    def rules(self, *flavours: str, classes: Any = None, drop_empty: str | None = None) -> ConfigRules:
        """Returns what was collected."""
        count = classes if isinstance(classes, int) and not isinstance(classes, bool) else None
        return ConfigRules(self.path, flavours, self.values, self.keys, self.problems, count, drop_empty)


def data(value: Any, key: str) -> Any:
    """Returns a value that holds no code. Raises `UnusableValueError` if it does, also within lists."""
    return _data(value, key, 0, itertools.count())


def _data(value: Any, key: str, depth: int, count: Iterator[int]) -> Any:
    # Lists in a file can be one and the same, a thousand times over, and are copied here.
    if next(count) > _MAX_ENTRIES:
        raise UnusableValueError(f"{key} has more than {_MAX_ENTRIES} entries")
    if isinstance(value, Unresolved):
        raise UnusableValueError(f"{key} is code and not a value: {value.text!r} in line {value.line}; no code is run")
    if isinstance(value, (list, tuple)):
        if depth == _MAX_DEPTH:  # YAML can nest lists that hold each other ten times.
            raise UnusableValueError(f"{key} has lists in lists, more than {_MAX_DEPTH} deep")
        return [_data(item, key, depth + 1, count) for item in value]
    return value


def numbers(value: Any, count: int | None = None) -> list[float]:
    """Returns a list of finite numbers. Raises `ValueError` if it is none, or has another length."""
    if not isinstance(value, list) or not all(is_number(item) for item in value):
        raise ValueError(f"it is no list of numbers, but {reprlib.repr(value)}")
    if count is not None and len(value) != count:
        raise ValueError(f"it has {len(value)} numbers and not {count}")
    return [float(item) for item in value]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def number(value: Any) -> float:
    """Returns a finite number. Raises `ValueError` if it is none."""
    if not is_number(value):
        raise ValueError(f"it is no number, but {reprlib.repr(value)}")
    return float(value)


def whole(value: Any) -> int:
    """Returns an integer. Raises `ValueError` if it is none."""
    if not is_number(value) or value != int(value):
        raise ValueError(f"it is no integer, but {reprlib.repr(value)}")
    return int(value)


def optional(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Converts a value, unless it is None."""
    return None if value is None else convert(value)
