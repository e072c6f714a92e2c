"""Charts: a curve as numbers for inline SVG, its points and round ticks for both axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["HEIGHT", "WIDTH", "Curve", "curve", "round_ticks"]

WIDTH, HEIGHT = 480.0, 190.0  # of the plot, in SVG units; labels are outside
_MOST_POINTS = 400  # about one per SVG unit


@dataclass(frozen=True)
class Curve:
    """Points of an SVG polyline, and ticks as (position, text): x from the left, y from the top."""

    points: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def curve(x: Sequence[float], y: Sequence[float]) -> Curve | None:
    """Return a line through points in order, on axes from 0; None with fewer than two finite ones.

    Values below 0 lie outside the plot.
    """
    finite = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(finite) < 2:
        return None
    kept = finite[:: max(1, len(finite) // _MOST_POINTS)]
    kept += finite[-1:] if kept[-1] != finite[-1] else []
    right, top = (max(pair[axis] for pair in kept) or 1.0 for axis in (0, 1))
    line = " ".join(f"{WIDTH * a / right:.1f},{HEIGHT * (1 - b / top):.1f}" for a, b in kept)
    x_ticks = [(WIDTH * value / right, _plain(value)) for value in round_ticks(right, 5)]
    y_ticks = [(HEIGHT * (1 - value / top), _plain(value)) for value in round_ticks(top, 4)]
    return Curve(line, x_ticks, y_ticks)


def round_ticks(greatest: float, most: int) -> list[float]:
    """Return values from 0 to `greatest` in at most `most` steps of 1, 2 or 5 times 10**n."""
    magnitude = 10.0 ** math.floor(math.log10(greatest / most))
    step = next(
        magnitude * m for m in (1, 2, 5, 10) if magnitude * m * most >= greatest * (1 - 1e-9)
    )
    return [step * number for number in range(int(greatest / step + 1e-9) + 1)]


def _plain(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 1000 else f"{value:.4g}"
