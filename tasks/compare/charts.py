"""Charts of a comparison as numbers for inline SVG: intervals, and reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.report.charts import round_ticks

__all__ = ["COLOURS", "SIDE", "Intervals", "intervals", "reliability_points"]

SIDE = 220.0  # of the reliability diagram's square, and width of the intervals, in SVG units
_ROOM = 1.1  # the axis is that much longer than the longest interval
_LEAST = 1e-3  # reach of the axis for equal segmenters
# One per letter, of equal lightness, in an order that keeps neighbours apart for the colour-blind:
# Okabe and Ito 2008, "Color Universal Design", without its yellow, which white paper swallows.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f6000",
    "#808080",
)


class Intervals(NamedTuple):
    """Bars (letter, from, to, point), and ticks (position, text), in shares of the width."""

    bars: list[tuple[str, float, float, float]]
    ticks: list[tuple[float, str]]
    zero: float


def intervals(contenders: Sequence[Mapping[str, Any]]) -> Intervals | None:
    """Return the intervals of the differences on one axis, which shows 0; None without any."""
    found = [(each["letter"], each["difference"]) for each in contenders if each["difference"]]
    if not found:
        return None
    ends = [interval[name] for _, interval in found for name in ("low", "high")]
    reach = float(max(*map(abs, ends), _LEAST))
    step = round_ticks(reach, 3)[1]

    def place(value: float) -> float:
        return 0.5 + value / (2 * _ROOM * reach)

    bars = [
        (letter, *(place(each[name]) for name in ("low", "high", "difference")))
        for letter, each in found
    ]
    count = int(reach / step + 1e-9)
    values = [step * number for number in range(-count, count + 1)]
    return Intervals(bars, [(place(v), f"{100 * v:+.3g}" if v else "0") for v in values], place(0))


def reliability_points(reliability: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    """Return (confidence, accuracy, share of pixels) per bin with pixels, all in [0, 1].

    `reliability` are pixel count, sum of confidences and hits per bin (`calibration_bins`).
    """
    total = sum(reliability[0])
    return [
        (confidence / count, hits / count, count / total)
        for count, confidence, hits in zip(*reliability, strict=True)
        if count > 0
    ]
