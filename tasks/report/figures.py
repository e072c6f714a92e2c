"""Figures: a run's results as the page, the console and Prefect's UI show them.

Pure functions of a stored run. An unknown figure is None, and a dash as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.report.counts import Counts, RunCounts
from tasks.report.stored_run import StoredRun
from tasks.report.stored_stage import StoredStage
from tasks.select.judge import REASONS

__all__ = [
    "Figure",
    "advice",
    "as_count",
    "as_duration",
    "as_percent",
    "as_rate",
    "class_rows",
    "figures",
    "reason_rows",
    "time_rows",
    "training_rate",
]

UNKNOWN = "—"
POOR = 0.5  # keep rate or IoU below which the report gives advice


class Figure(NamedTuple):
    """A headline number as text, a note on it, and the files that it was counted from."""

    label: str
    value: str
    note: str
    source: str


def as_count(number: float) -> str:
    """Return a whole number as text, thousands separated by a narrow space."""
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def as_percent(share: float | None) -> str:
    """Return a share in [0, 1] as percent; a dash for None and NaN."""
    return UNKNOWN if share is None or share != share else f"{100 * share:.1f} %"


def as_duration(seconds: float) -> str:
    """Return seconds as text: hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def as_rate(number: float | None) -> str:
    """Return a number with three significant digits, from 1000 on as a whole number."""
    if number is None:
        return UNKNOWN
    return f"{number:.3g}" if number < 1000 else as_count(number)


def figures(stored: StoredRun) -> Iterator[Figure]:
    """Yield the headline figures: samples kept, keep rate, images per second, mIoU."""
    counts = stored.counts.whole
    folder = f"runs/{stored.run}"
    kept = as_count(counts.kept) if counts.judged else UNKNOWN
    planned = f"of {as_count(counts.planned)} planned"
    yield Figure("Samples kept", kept, planned, f"{folder}/select, plan.parquet")
    judged = f"of {as_count(counts.judged)} judged" if counts.judged else "select: not run"
    rate = as_percent(_ratio(counts.kept, counts.judged))
    yield Figure("Keep rate", rate, judged, f"{folder}/select")
    yield _generation(stored.stages["synthesize"], folder)
    yield _quality(stored.evaluation, folder)


def _generation(made: StoredStage, folder: str) -> Figure:
    note = "synthesize: not run"
    if made.rows:
        note = f"per worker; {as_duration(made.seconds)} of work in total"
    rate = as_rate(_ratio(made.rows, made.seconds))
    return Figure("Images per second", rate, note, f"{folder}/synthesize")


def _quality(evaluation: Mapping[str, Any] | None, folder: str) -> Figure:
    source = f"{folder}/evaluation.json"
    if not evaluation:
        return Figure("mIoU", UNKNOWN, "evaluate: not run", source)
    measured_on = evaluation.get("set", "a held-out set")
    images = evaluation.get("images", 0)
    note = f"on {measured_on}"
    if not measured_on.startswith(f"{images} "):  # drawn scenes have their number in the name
        note += f", {as_count(images)} images"
    return Figure("mIoU", as_percent(evaluation.get("miou")), note, source)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def advice(stored: StoredRun, damaged: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield what to do next, each with a command or "".

    `damaged` names files or shards that could not be read.
    """
    counts = stored.counts.whole
    missing = [row["stage"] for row in time_rows(stored) if row["shards"] < row["planned"]]
    if damaged:
        rest = " and more" if len(damaged) > 3 else ""
        yield f"Damaged: {', '.join(damaged[:3])}{rest}.", f"segmint verify {stored.run}"
    if missing or not counts.planned:
        stages = ", ".join(missing) or "plan"
        yield (
            f"Unfinished: {stages}. Running the same command again finishes the run.",
            "segmint run",
        )
    elif stored.manifest is None:
        yield "All shards are finished, but the version is not published.", "segmint run"
    elif stored.evaluation is None:
        yield (
            "The dataset is published. Train a segmenter on it.",
            f"segmint train {stored.version}",
        )
    yield from ((text, "") for text in _weak_points(stored, counts))


def _weak_points(stored: StoredRun, counts: Counts) -> Iterator[str]:
    if counts.judged and counts.kept < POOR * counts.judged:
        reason, number, meaning = next(reason_rows(stored.counts))
        yield (
            f"Most frequent reason for rejection, {as_count(number)} samples: “{reason}”: "
            f"{meaning or 'see the rejected examples'}."
        )
    scores = (stored.evaluation or {}).get("iou") or {}
    weak = sorted(
        (value, name) for name, value in scores.items() if value is not None and value < POOR
    )
    if weak:
        names = ", ".join(f"{name} {as_percent(value)}" for value, name in weak[:3])
        yield f"Lowest IoU: {names}. The next budget gives these classes more images."


def class_rows(stored: StoredRun) -> Iterator[dict[str, Any]]:
    """Yield the counts of each class of the vocabulary, and of samples without a class.

    A sample with several classes counts for each.
    """
    scores = (stored.evaluation or {}).get("iou") or {}
    by_class = {name: stored.counts.classes.get(name, Counts()) for name in stored.colours}
    for name, counts in (by_class | {"background": stored.counts.negative}).items():
        yield {
            "name": name,
            "colour": stored.colours.get(name, (128, 128, 128)),
            "counts": counts,
            "rate": _ratio(counts.kept, counts.judged),
            "iou": scores.get(name),
        }


def reason_rows(counts: RunCounts) -> Iterator[tuple[str, int, str]]:
    """Yield each reason for rejection, its number and its meaning, the most frequent first."""
    meanings = {str(reason): meaning for reason, meaning in REASONS.items()}
    for reason, number in counts.reasons.most_common():
        yield str(reason), number, meanings.get(str(reason), "")


def training_rate(training: Mapping[str, Any]) -> float | None:
    """Return a training's images per second, None if unknown.

    It is the mean over the curve if that has rates, else steps times batch size over seconds.
    """
    curve = training.get("curve") or []
    rates = [row["images_per_second"] for row in curve if "images_per_second" in row]
    if rates:
        return float(sum(rates) / len(rates))
    recipe = training.get("recipe") or {}
    images = recipe.get("steps", 0) * recipe.get("batch_size", 0)
    return _ratio(images, training.get("seconds", 0)) if images else None


def time_rows(stored: StoredRun) -> Iterator[dict[str, Any]]:
    """Yield shards finished and planned, samples, working time and rate of each stage."""
    whole = sum(stage.seconds for stage in stored.stages.values())
    for name, stage in stored.stages.items():
        if planned := max(stage.planned, stage.shards):
            yield {
                "stage": name,
                "shards": stage.shards,
                "planned": planned,
                "rows": stage.rows,
                "seconds": stage.seconds,
                "rate": _ratio(stage.rows, stage.seconds),
                "share": _ratio(stage.seconds, whole) or 0.0,
            }
