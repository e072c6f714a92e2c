"""Decision: whether a challenger is better than the champion by more than chance.

Both are measured on the same images, which are not those that figures are reported on. The
challenger wins if the 95 % bootstrap interval of the mIoU difference is above 0. "Any higher mIoU"
would promote the luckiest of equal networks, again and again. It also wins by a margin that the
user sets, whatever the interval, which few images make wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluate.bootstrap import LEAST_IMAGES, LEVEL, paired_interval
from tasks.evaluate.measure import Counts

__all__ = ["Decision", "compare_counts", "other_classes", "settle"]


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes the champion, why, and whether figures were compared."""

    moved: bool
    reason: str
    compared: bool = False


def settle(champion: Mapping[str, Any], challenger: Mapping[str, Any]) -> Decision | None:
    """Return the decision if it needs no comparison of figures, else None.

    Both are entries of the log of champions. A checkpoint that was rolled back does not become the
    champion again by itself.
    """
    if champion["checkpoint"] == challenger["checkpoint"]:
        return Decision(False, "it is the champion already")
    if challenger["checkpoint"] in champion.get("withdrawn", ()):
        return Decision(
            False, "it was rolled back; `segmint rollback --to` makes it the champion again"
        )
    return None


def compare_counts(
    champion: Mapping[str, Any],
    challenger: Mapping[str, Any],
    counts: tuple[Counts, Counts],
    classes: Sequence[str],
    margin: float | None = None,
) -> Decision:
    """Return the decision on the deciding images of two evaluated entries.

    `counts` are the pixel counts (images, 3, classes) of champion and challenger there, and
    `classes` the names of their label ids. A mIoU higher by at least `margin` wins in any case.
    """
    held, offered = (entry["evaluation"] for entry in (champion, challenger))
    name = champion["checkpoint"]
    if held["fingerprint"] != offered["fingerprint"]:
        return Decision(
            False,
            f"champion {name} was measured on {held['set']} ({held['fingerprint'][:12]}), not on "
            f"{offered['set']} ({offered['fingerprint'][:12]}); {_by_hand(challenger)}",
        )
    images = len(counts[0])
    figures = (
        f"mIoU {offered['decision']['miou']:.4f} against {held['decision']['miou']:.4f} of {name} "
        f"on {offered['decision']['set']}"
    )
    gained = offered["decision"]["miou"] - held["decision"]["miou"]
    if margin is not None and gained >= margin:
        reached = f"the difference {gained:+.4f} is at least promote.margin {margin:g}"
        return Decision(True, f"{figures}: {reached}", compared=True)
    if images < LEAST_IMAGES:
        return Decision(
            False,
            f"{figures}: {images} images are too few to tell, {LEAST_IMAGES} are needed; "
            f"{_by_hand(challenger)}",
        )
    known = np.isin(list(classes), offered["known"])
    found = paired_interval(*counts, known)
    verdict = "is above 0" if found.low > 0 else "is not above 0"
    ends = f"interval of the difference {found.low:+.4f} to {found.high:+.4f} {verdict}"
    return Decision(found.low > 0, f"{figures}: {LEVEL:.0%} {ends}", compared=True)


def other_classes(
    champion: Mapping[str, Any], challenger: Mapping[str, Any], differing: list[str]
) -> Decision:
    """Return the decision on a champion with other classes, which cannot be compared."""
    return Decision(
        False,
        f"champion {champion['checkpoint']} has other classes (in one of the two only: "
        f"{', '.join(differing) or 'none, but in another order'}); {_by_hand(challenger)}",
    )


def _by_hand(challenger: Mapping[str, Any]) -> str:
    name = challenger["checkpoint"]
    return f"`segmint rollback --to {name}` makes {name} the champion"
