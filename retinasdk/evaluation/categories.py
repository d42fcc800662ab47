"""Matches the categories of the annotations with the classes of the model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from retinasdk._util.labels import class_ids_of
from retinasdk.evaluation.annotations import Annotations


@dataclass(frozen=True)
class ScoredClasses:
    """The classes that are scored.

    Attributes:
        labels: Their labels, in the order of the annotations.
        class_ids: The model's class index for each label.
        class_of_category: Index into `labels` for each scored category.
        left_out: Names of the categories that the model does not know.
    """

    labels: tuple[str, ...]
    class_ids: tuple[int, ...]
    class_of_category: dict[int, int]
    left_out: tuple[str, ...]


def scored_classes(
    annotations: Annotations,
    labels: Sequence[str],
    *,
    rename: Mapping[str, str],
    classes: Sequence[str | int] | None,
) -> ScoredClasses:
    """Matches categories with labels by name.

    Args:
        annotations: The annotation file.
        labels: The model's labels.
        rename: The model's label for categories that are named differently, `{category: label}`.
        classes: Score only these labels (names or indices). None scores all.

    Raises:
        ValueError: If a name is unknown, or nothing is left to score.
    """
    known = {label: index for index, label in reversed(list(enumerate(labels)))}
    for category, label in rename.items():
        if category not in annotations.categories:
            raise ValueError(
                f"{annotations.origin} has no category {category!r}, so it cannot be mapped to {label!r}; "
                f"{_suggestion(category, annotations.categories)}"
            )
        class_ids_of([label], labels)
    wanted = None if classes is None else {labels[index] for index in class_ids_of(classes, labels)}

    label_of_category = {
        number: rename.get(name, name)
        for number, name in enumerate(annotations.categories)
        if rename.get(name, name) in known
    }
    if not label_of_category:
        raise ValueError(
            f"{annotations.origin}: none of its categories ({_some(annotations.categories)}) is a label of the model "
            f"({_some(labels)}). Map categories that are named differently: --map category=label, or rename= in Python"
        )
    without_truth = sorted((wanted or set()) - set(label_of_category.values()))
    if without_truth:
        raise ValueError(
            f"{annotations.origin} has no category {without_truth[0]!r}, so this class cannot be scored; "
            f"{_suggestion(without_truth[0], annotations.categories)}"
        )
    scored = list(dict.fromkeys(label for label in label_of_category.values() if wanted is None or label in wanted))
    class_of_category = {number: scored.index(label) for number, label in label_of_category.items() if label in scored}
    total = sum(map(len, annotations.boxes))
    if not any(box.category in class_of_category for boxes in annotations.boxes for box in boxes):
        raise ValueError(
            f"{annotations.origin}: none of its {total} boxes is of a scored class ({_some(scored)}), so average "
            "precision is undefined. Choose other classes or other annotations"
        )
    unknown = set(range(len(annotations.categories))) - set(label_of_category)
    return ScoredClasses(
        labels=tuple(scored),
        class_ids=tuple(known[label] for label in scored),
        class_of_category=class_of_category,
        left_out=tuple(sorted(annotations.categories[number] for number in unknown)),
    )


def _suggestion(name: str, categories: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, categories, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the categories are {_some(categories)}"


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
