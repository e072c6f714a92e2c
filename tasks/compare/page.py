"""Page: a comparison as one self-contained HTML file, in the style of a run's report.

All texts are escaped, and the page's policy lets nothing load or run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.compare.charts import COLOURS, SIDE, intervals, reliability_points
from tasks.compare.figures import class_rows, shown
from tasks.report.figures import Figure, as_percent
from tasks.report.rendering import template

__all__ = ["as_bytes", "render_comparison"]

_SVG = SIDE - 1  # curves stay inside the frame


def render_comparison(
    name: str,
    comparison: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]],
    colours: Mapping[str, Any],
) -> str:
    """Return the page as HTML.

    `comparison` is the content of comparison.json, `pictures` are those of `Picture.cell`, and
    `colours` the colour of each class that the pictures show.
    """
    contenders = comparison["contenders"]
    best = max(contenders, key=lambda each: float(each["miou"]))
    return template("comparison.html").render(
        name=name,
        comparison=comparison,
        contenders=contenders,
        figures=[_figure(each, best) for each in contenders],
        tones=dict(zip([each["letter"] for each in contenders], COLOURS, strict=False)),
        intervals=intervals(contenders),
        reliability={each["letter"]: _line(each["reliability"]) for each in contenders},
        side=SIDE,
        classes=class_rows(contenders),
        pictures=pictures,
        colours=colours,
        shown=shown,
        as_bytes=as_bytes,
    )


def as_bytes(number: float) -> str:
    """Return bytes as text in decimal megabytes."""
    return f"{number / 1e6:.1f} MB"


def _figure(each: Mapping[str, Any], best: Mapping[str, Any]) -> Figure:
    """Return a segmenter's headline: its mIoU."""
    note = each["model"] + (" · best" if each is best else "")
    if each["difference"]:
        note = f"{note} · {shown(each['difference'])} points"
    return Figure(f"{each['letter']} · mIoU", as_percent(each["miou"]), note, each["checkpoint"])


def _line(reliability: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    """Return points (x, y, radius) in the diagram; a larger dot stands for more pixels."""
    return [
        (_SVG * x, _SVG * (1 - y), 1.5 + 5 * share**0.5)
        for x, y, share in reliability_points(reliability)
    ]
