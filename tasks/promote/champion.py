"""Promote: the better of champion and challenger, and what each class gets of the next night; and
the way back.

    champion.json   checkpoint, version, evaluation: the best so far · budget: the next night's share of each class
                    before: champions before it, the last one last · withdrawn: checkpoints that were rolled back

The pointer moves only between evaluations of the same set. Doing it again with the same checkpoint
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import task

from infra.blocks import open_store
from infra.events import MOVED, REGRESSED, tell
from infra.settings import Settings
from infra.store import MissingError, Store, StoreError, read_version
from tasks.evaluate.evaluate import evaluation_path
from tasks.promote.budget import keep_rates, next_budget
from tasks.schemas import Champion, Compared, origin_of
from tasks.train.checkpoints import read_meta

__all__ = [
    "CHAMPION",
    "Decision",
    "champion_of",
    "decide",
    "promote",
    "read_champion",
    "roll_back",
    "watch_champion",
]

CHAMPION = "champion.json"


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes the champion's place, and why."""

    moved: bool
    reason: str


def decide(champion: Mapping[str, Any] | None, challenger: Mapping[str, Any]) -> Decision:
    """Compare two entries of `checkpoint` and `evaluation`; `champion` None is a vacant place.

    The challenger wins by a higher `miou` on the set with the same fingerprint, and on no other
    ground; one that was rolled back does not come back by itself.
    """
    if champion is None:
        return Decision(True, "there was no champion")
    if champion["checkpoint"] == challenger["checkpoint"]:
        return Decision(False, "it is the champion already")
    if challenger["checkpoint"] in champion.get("withdrawn", ()):
        return Decision(
            False, "it was rolled back; `segmint rollback --to` makes it the champion again"
        )
    held, offered = champion["evaluation"], challenger["evaluation"]
    if held["fingerprint"] != offered["fingerprint"]:
        return Decision(
            False,
            f"champion {champion['checkpoint']} was measured on {held['set']} ({held['fingerprint'][:12]}), not on "
            f"{offered['set']} ({offered['fingerprint'][:12]}); evaluate it on that, then promote again",
        )
    sign = ">" if offered["miou"] > held["miou"] else "<="
    return Decision(
        sign == ">",
        f"mIoU {offered['miou']:.4f} {sign} {held['miou']:.4f} of {champion['checkpoint']}",
    )


@task(name="promote", task_run_name="promote-{checkpoint}")
def promote(settings: Settings, checkpoint: str, fingerprint: str) -> dict[str, Any]:
    """Let a checkpoint, as evaluated on the set `fingerprint`, challenge the champion, and write
    champion.json.

    The champion is taken as evaluated on that same set, if it was. The budget comes from the IoU of
    who stands and the keep rates of the run that the challenger's version came from. Returned:
    champion.json as it stands, with `moved`, `reason` and the `challenger` (its `checkpoint`,
    `version` and `evaluation`).
    """
    store = open_store(settings.store)
    challenger = _entry(store, checkpoint, evaluation_path(checkpoint, fingerprint))
    before = read_champion(store)
    champion = _on_same_set(store, before, fingerprint)
    decision = decide(champion, challenger)
    standing = _succeeding(challenger, champion) if decision.moved or champion is None else champion
    standing = {
        **standing,
        "budget": _budget(store, standing["evaluation"]["iou"], challenger["version"]),
    }
    if standing != before:
        store.write_json(CHAMPION, standing)
    if decision.moved:
        _tell_moved(standing, decision.reason)
    return {
        **standing,
        "moved": decision.moved,
        "reason": decision.reason,
        "challenger": challenger,
    }


def read_champion(store: Store) -> dict[str, Any] | None:
    """champion.json, None while the place is vacant."""
    champion: dict[str, Any] | None = (
        store.read_json(CHAMPION, Champion) if store.exists(CHAMPION) else None
    )
    return champion


def champion_of(settings: Settings) -> str:
    """The champion's checkpoint. Raises `StoreError` while the place is vacant."""
    store = open_store(settings.store)
    champion = read_champion(store)
    if champion is None:
        raise StoreError(
            f"{store.url} has no champion; name a checkpoint, or let `segmint train` make one"
        )
    return str(champion["checkpoint"])


@task(name="watch-champion")
def watch_champion(settings: Settings, checkpoint: str, found: Mapping[str, Any]) -> bool:
    """Emit an event if this evaluation says that the champion got worse than when it became
    champion; return whether.

    Only a set of the same name tells: the same pictures always give the same figure, a set that
    grew may not.
    """
    champion = read_champion(open_store(settings.store))
    if (
        champion is None
        or champion["checkpoint"] != checkpoint
        or champion["evaluation"]["set"] != found["set"]
    ):
        return False
    lost = champion["evaluation"]["miou"] - found["miou"]
    if lost <= settings.alarm.regression:
        return False
    tell(
        REGRESSED,
        "champion",
        checkpoint,
        {"miou": found["miou"], "lost": lost, "set": found["set"]},
    )
    return True


@task(name="roll-back")
def roll_back(settings: Settings, to: str | None = None) -> dict[str, Any]:
    """Make an earlier champion the champion again, the last one unless `to` names a checkpoint;
    return champion.json.

    Whoever stood is withdrawn: no repeated training or event brings it back, only another
    `roll_back` to it. Raises `StoreError` if there is nothing to go back to, `MissingError` for a
    checkpoint that is not in the store.
    """
    store = open_store(settings.store)
    champion = read_champion(store)
    before: list[str] = champion.get("before", []) if champion else []
    if champion is None or not (to or before):
        raise StoreError(
            f"{store.url} has no earlier champion; name a checkpoint, one of `checkpoints/`"
        )
    name = to or before[-1]
    if name == champion["checkpoint"]:
        return champion
    entry = _entry(
        store, name, _last_evaluation(store, name, champion["evaluation"]["fingerprint"])
    )
    withdrawn = [each for each in champion.get("withdrawn", []) if each != name]
    entry |= {
        "before": before[: before.index(name)] if name in before else before,
        "withdrawn": [*withdrawn, champion["checkpoint"]],
        "budget": _budget(store, entry["evaluation"]["iou"], entry["version"]),
    }
    store.write_json(CHAMPION, entry)
    _tell_moved(entry, f"{champion['checkpoint']} was rolled back")
    return entry


def _succeeding(challenger: dict[str, Any], champion: dict[str, Any] | None) -> dict[str, Any]:
    """The challenger's entry as champion, with the ones before it."""
    if champion is None:
        return challenger
    before = [name for name in champion.get("before", []) if name != challenger["checkpoint"]]
    withdrawn = champion.get("withdrawn", [])
    return {**challenger, "before": [*before, champion["checkpoint"]], "withdrawn": withdrawn}


def _tell_moved(entry: Mapping[str, Any], reason: str) -> None:
    tell(MOVED, "champion", entry["checkpoint"], {"version": entry["version"], "reason": reason})


def _budget(store: Store, iou: Mapping[str, float | None], version: str) -> dict[str, float]:
    try:
        origin = origin_of(read_version(store, version))
    except MissingError:  # `segmint gc` took it, so nobody knows what was kept
        return next_budget(iou, {name: 1.0 for name in iou if name != "background"})
    return next_budget(iou, dict.fromkeys(origin.classes, 1.0) | keep_rates(store, origin.run))


def _entry(store: Store, checkpoint: str, evaluation: str) -> dict[str, Any]:
    version = read_meta(store, checkpoint)["version"]
    return {
        "checkpoint": checkpoint,
        "version": version,
        "evaluation": store.read_json(evaluation, Compared),
    }


def _last_evaluation(store: Store, checkpoint: str, fingerprint: str) -> str:
    """Path of a checkpoint's evaluation on the set with that fingerprint; else of any one that it
    has.
    """
    read_meta(store, checkpoint)  # raises for a name that is no checkpoint
    wanted, folder = (
        evaluation_path(checkpoint, fingerprint),
        f"checkpoints/{checkpoint}/evaluations",
    )
    if store.exists(wanted):
        return wanted
    if not (found := store.list(folder)):
        raise StoreError(
            f"checkpoint {checkpoint!r} was never evaluated; `segmint evaluate {checkpoint}` does it"
        )
    return f"{folder}/{found[-1]}"


def _on_same_set(
    store: Store, champion: dict[str, Any] | None, fingerprint: str
) -> dict[str, Any] | None:
    """The champion with its evaluation on that set, if there is one."""
    if champion is None:
        return None
    path = evaluation_path(champion["checkpoint"], fingerprint)
    return (
        {**champion, **_entry(store, champion["checkpoint"], path)}
        if store.exists(path)
        else champion
    )
