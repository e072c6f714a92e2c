"""Budget: what the next night makes more of, from how this one went.

Classes get shares of the images by their IoU and uncertainty on the evaluation set, and by how many
of their samples are kept. What a prompt says beside them (background, number of classes, size,
sub-class) gets weights by the survey of the night's samples and by how many of them are kept. No
share and no weight leaves [LEAST, MOST] times an equal one, so one bad night starves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.promote.choices import Choice
from tasks.promote.outcomes import Outcome, Outcomes, keep_rates

__all__ = ["Budget", "budget_of", "next_budget", "next_weights"]

# Bounds of a share or weight, as multiples of an equal one.
LEAST = 0.5
MOST = 2.0
LEAST_NEED = 0.05  # even a perfect class goes on being made
# A class that is hardly ever kept needs other prompts or masks, not more images.
LEAST_KEPT = 0.1
# Objects whose weight an equal need has: about (0.68 / 0.11)², the spread of the need of objects
# over that of backgrounds; docs/design-notes.md, "Nights that add up".
PRIOR = 40.0

Values = Mapping[str, float | None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """The next night's shares of classes, which sum to 1, and weights of wordings around 1.

    `weights` are by field of the plan's settings and by name, those of sub-classes by class first.
    `rows` say what led to each of them, for the report.
    """

    classes: dict[str, float]
    weights: dict[str, Any]
    rows: list[dict[str, Any]]


def budget_of(measured: Mapping[str, Any], classes: Iterable[str], outcomes: Outcomes) -> Budget:
    """Return the budget after a night of these `outcomes`.

    `measured` is the evaluation of the champion, of which `iou` and `uncertainty` count; `classes`
    are the names that are planned.
    """
    kept = dict.fromkeys(classes, 1.0) | keep_rates(outcomes)
    iou, uncertainty = measured["iou"], measured.get("uncertainty", {})
    shares = next_budget(iou, kept, uncertainty)
    weights = next_weights(outcomes)
    rows = [
        {
            "what": "class",
            "name": name,
            "weight": round(share * len(shares), 3),
            "missing": None if (value := iou.get(name)) is None else 1 - value,
            "uncertain": uncertainty.get(name),
            "kept": kept[name],
        }
        for name, share in shares.items()
    ]
    rows += [_row(choice, weight, outcomes[choice]) for choice, weight in weights.items()]
    return Budget(shares, _by_field(weights), rows)


def next_budget(
    iou: Values, kept: Mapping[str, float], uncertainty: Values | None = None
) -> dict[str, float]:
    """Return the share of the next night's images of each class in `kept`; the shares sum to 1.

    Class c needs w_c = n_c / max(kept_c, LEAST_KEPT), that is its need times the images that have
    to be generated for one that is kept. n_c is its missing IoU, max(1 - IoU_c, LEAST_NEED), and
    with `uncertainty` the mean of both, each as a multiple of the mean over classes. Shares are
    w_c / Σ w, clipped to [LEAST, MOST] / number of classes, with the other shares scaled so that
    the sum stays 1. All are by class name, in [0, 1]. A class that was not measured counts as the
    mean of the others. Raises `ValueError` without any class.
    """
    names = sorted(kept)
    if not names:
        raise ValueError("no class was planned; nothing to share the next night among")
    lacking = 1 - np.array(
        [np.nan if iou.get(name) is None else iou[name] for name in names], float
    )
    unsure = np.array([(uncertainty or {}).get(name) for name in names], float)
    need = _relative(np.maximum(lacking, LEAST_NEED))
    if not np.isnan(unsure).all():
        need = (need + _relative(unsure)) / 2
    weights = need / np.maximum([kept[name] for name in names], LEAST_KEPT)
    shares = _bounded(weights)
    return {name: round(float(share), 6) for name, share in zip(names, shares, strict=True)}


def _relative(values: Floats) -> Floats:
    """Return values as multiples of their mean; unknown (NaN) ones are 1, and all without any."""
    known = values[~np.isnan(values)]
    if not known.sum():
        return np.ones(len(values))
    relative: Floats = np.nan_to_num(values / known.mean(), nan=1.0)
    return relative


def _bounded(weights: Floats) -> Floats:
    """Return shares s·weights clipped to [LEAST, MOST] / n, with the s that makes the sum 1.

    By bisection.
    """
    low, high = LEAST / len(weights), MOST / len(weights)
    bottom = 0.0
    top = high / weights.min()
    for _ in range(100):  # the sum grows with s, from below 1 to above
        middle = (bottom + top) / 2
        if np.clip(middle * weights, low, high).sum() < 1:
            bottom = middle
        else:
            top = middle
    shares: Floats = np.clip(top * weights, low, high)
    return shares


def next_weights(outcomes: Outcomes) -> dict[Choice, float]:
    """Return the weight of each choice but classes, in [LEAST, MOST]; their mean per kind is 1.

    A choice needs n / max(kept, LEAST_KEPT). n is the mean of the relative missing IoU and
    uncertainty of its objects, with PRIOR more objects of need 1, and kept the share of its rows
    that select kept, with PRIOR more rows of the kind's share. So rare choices, and those that
    nobody measured, stay near 1. A kind with a single choice has nothing to weigh.
    """
    kinds: dict[tuple[str, str], list[Choice]] = defaultdict(list)
    for choice in sorted(outcomes):
        if choice.kind != "classes":
            kinds[choice.kind, choice.of].append(choice)
    return {
        choice: weight
        for choices in kinds.values()
        if len(choices) > 1
        for choice, weight in zip(
            choices, _weights([outcomes[each] for each in choices]), strict=True
        )
    }


def _weights(outcomes: list[Outcome]) -> list[float]:
    judged = sum(each.judged for each in outcomes)
    usual = sum(each.kept for each in outcomes) / judged if judged else 1.0
    need = [
        ((each.missing + each.uncertain) / 2 + PRIOR) / (each.measured + PRIOR) for each in outcomes
    ]
    kept = [(each.kept + PRIOR * usual) / (each.judged + PRIOR) for each in outcomes]
    shares = _bounded(np.array(need) / np.maximum(kept, LEAST_KEPT))
    return [round(float(share) * len(outcomes), 3) for share in shares]


def _row(choice: Choice, weight: float, outcome: Outcome) -> dict[str, Any]:
    """Return what led to a weight, for the report."""
    measured = outcome.measured
    return {
        "what": f"{choice.kind} of {choice.of}" if choice.of else choice.kind,
        "name": choice.name or "none",
        "weight": weight,
        "measured": measured,
        "missing": outcome.missing / measured if measured else None,
        "uncertain": outcome.uncertain / measured if measured else None,
        "kept": outcome.kept / outcome.judged if outcome.judged else None,
    }


def _by_field(weights: Mapping[Choice, float]) -> dict[str, Any]:
    """Return weights by field of the plan, and by class for sub-classes."""
    found: dict[str, Any] = {}
    for (field, name, of), weight in weights.items():
        group = found.setdefault(field, {})
        (group.setdefault(of, {}) if of else group)[name] = weight
    return found
