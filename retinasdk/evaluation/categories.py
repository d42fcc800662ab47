"""Which of the annotations' categories are scored, and as which class of the model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from retinasdk._util.labels import class_ids_of
from retinasdk.evaluation.annotations import Annotations


@dataclass(frozen=True)
class ScoredClasses:
    """labels: of the classes that are scored, in the annotations' order; class_ids: the model's index of each.

    class_of_category: the index into `labels` of each category that is scored. left_out: names of the categories that
    the model does not know.
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
    """Matches categories with labels by name. rename: label of categories that are called otherwise; classes: only
    these labels; None: all.

    Raises `ValueError` for names that are not there, and where nothing is left to score.
    """
    known = {label: index for index, label in reversed(list(enumerate(labels)))}
    for category, label in rename.items():
        if category not in annotations.categories:
            raise ValueError(
                f"{annotations.origin} has no category {category!r} to be mapped to {label!r}; "
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
            f"({_some(labels)}); names must be equal, or mapped: category=label"
        )
    without_truth = sorted((wanted or set()) - set(label_of_category.values()))
    if without_truth:
        raise ValueError(
            f"{annotations.origin} has no category {without_truth[0]!r}, which was asked for; "
            f"{_suggestion(without_truth[0], annotations.categories)}"
        )
    scored = list(dict.fromkeys(label for label in label_of_category.values() if wanted is None or label in wanted))
    class_of_category = {number: scored.index(label) for number, label in label_of_category.items() if label in scored}
    total = sum(map(len, annotations.boxes))
    if not any(box.category in class_of_category for boxes in annotations.boxes for box in boxes):
        raise ValueError(
            f"{annotations.origin}: wanted at least one box of a class that is scored ({_some(scored)}), got none "
            f"({total} of other classes); there is nothing to find"
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
    return f"did you mean {near[0]!r}?" if near else f"its categories are {_some(categories)}"


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
