"""Writes the report of an evaluation: one page, its charts, and pictures of the worst images, in a folder."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retinasdk._util.files import write_together
from retinasdk.evaluation.charts import MISSED, TRUE, precision_recall, precision_recall_of_classes, score_histogram
from retinasdk.evaluation.coco import SIZES, CocoNumbers
from retinasdk.evaluation.operating_point import ImageMistakes

if TYPE_CHECKING:
    from retinasdk.evaluation.results import Evaluation

PAGE = "index.html"
NUMBERS = "evaluation.json"
MOST_PICTURES = 12
_CHARTS = ("precision_recall.png", "precision_recall_classes.png", "scores.png")
_STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; color: #333; max-width: 1240px; margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.5em; }} h2 {{ font-size: 1.15em; margin-top: 2em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .2em .8em; text-align: right; border-bottom: 1px solid #e3e3e3; }}
th:first-child, td:first-child {{ text-align: left; }}
.charts {{ display: flex; flex-wrap: wrap; gap: 1em; }} .charts img {{ width: 590px; max-width: 100%; }}
figure {{ margin: 0; }} figcaption {{ overflow-wrap: anywhere; }}
.worst {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 1.2em; }}
.worst img {{ width: 100%; }}
.missed {{ color: {MISSED}; }} .false {{ color: #b8620a; }} .true {{ color: {TRUE}; }}
""".strip()


@dataclass(frozen=True)
class DrawnImage:
    """One of the images with most mistakes.

    Attributes:
        file_name: Name of the image's file.
        mistakes: Its counts.
        picture: JPEG file with the boxes drawn.
    """

    file_name: str
    mistakes: ImageMistakes
    picture: bytes


def report_names() -> list[str]:
    """Returns the name of every file that a report may have."""
    return [PAGE, NUMBERS, *_CHARTS, *(_worst_name(place) for place in range(1, MOST_PICTURES + 1))]


def _worst_name(place: int) -> str:
    return f"worst_{place:02d}.jpg"


def write_report(
    folder: Path,
    title: str,
    evaluation: Evaluation,
    numbers: CocoNumbers,
    labels: Sequence[str],
    worst: Iterable[DrawnImage],
) -> None:
    """Writes the files of the report, all or none.

    Raises:
        OSError: If a file cannot be written. A report of before is then unchanged.
    """
    pictures = (
        precision_recall(numbers),
        precision_recall_of_classes(numbers, labels),
        score_histogram(numbers, evaluation.best_f1),
    )
    charts = dict(zip(_CHARTS, pictures, strict=True))
    files, figures = dict(charts), []
    for place, image in enumerate(worst, start=1):
        name = _worst_name(place)
        files[name] = image.picture
        figures.append(_figure(name, image))
    files[NUMBERS] = (json.dumps(evaluation.to_dict(), indent=1) + "\n").encode()
    files[PAGE] = _page(title, evaluation, list(charts), figures).encode()
    write_together({folder / name: content for name, content in files.items()})


def _page(title: str, evaluation: Evaluation, charts: Sequence[str], figures: Sequence[str]) -> str:
    point = evaluation.best_f1
    at = (
        "No object is detected."
        if point is None
        else f"F1 is best ({point.f1:.3f}) with scores above {point.score:.3f}: precision {point.precision:.3f}, "
        f"recall {point.recall:.3f}, at IoU 0.50."
    )
    left_out = f"<p>Not scored, since the model does not know them: {html.escape(', '.join(evaluation.left_out))}.</p>"
    parts = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>',
        f"<style>\n{_STYLE}\n</style>\n<h1>{html.escape(title)}</h1>",
        f"<p>{evaluation.images} images. {at}</p>",
        *([left_out] if evaluation.left_out else []),
        "<h2>Numbers</h2>",
        _table(list(evaluation.metrics), [[_shown(value) for value in evaluation.metrics.values()]]),
        "<h2>Classes</h2>",
        _class_table(evaluation),
        '<h2>Charts</h2>\n<div class="charts">',
        *(f'<img src="{name}" alt="{name.removesuffix(".png").replace("_", " ")}">' for name in charts),
        "</div>\n<h2>Images with most mistakes</h2>",
    ]
    if figures:
        above = 0.0 if point is None else point.score
        parts += [
            f'<p>Boxes with scores above {above:.3f}: <b class="missed">missed</b> red, <b class="false">false</b> '
            'orange, <b class="true">right</b> green.</p>',
            f'<div class="worst">\n{chr(10).join(figures)}\n</div>',
        ]
    else:
        parts.append("<p>None: every object is detected, and nothing else.</p>")
    return "\n".join(parts) + "\n</html>\n"


def _class_table(evaluation: Evaluation) -> str:
    head = ["class", "AP", "AP50", "boxes"]
    head += [f"{what} {size}" for size in SIZES[1:] for what in ("AP", "boxes")]
    rows = []
    for name, result in evaluation.per_class.items():
        row = [name, _shown(result.AP), _shown(result.AP50), str(result.boxes)]
        for size in evaluation.per_class_and_size[name].values():
            row += [_shown(size.AP), str(size.boxes)]
        rows.append(row)
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(["<table>", line("th", head), *(line("td", row) for row in rows), "</table>"])


def _figure(name: str, image: DrawnImage) -> str:
    mistakes = image.mistakes
    return (
        f'<figure><img src="{name}" alt=""><figcaption>{html.escape(image.file_name)}: '
        f'<span class="missed">{mistakes.missed} missed</span>, <span class="false">{mistakes.false} false</span>, '
        f'<span class="true">{mistakes.true} right</span></figcaption></figure>'
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
