"""Promote: the better of champion and challenger, and the next night's budget; and the way back.

Doing it again with the same checkpoint changes nothing. `pointer` describes an entry of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from prefect import task

from infra.blocks import open_store
from infra.events import REGRESSED, emit
from infra.settings import Settings
from infra.store import MissingError, Store, StoreError
from tasks.evaluate.stored import evaluation_path, read_evaluation
from tasks.promote.contest import contest
from tasks.promote.decision import Decision
from tasks.promote.pointer import (
    Entry,
    budget_after,
    entry_of,
    last_evaluation,
    move_champion,
    read_champion,
)
from tasks.train.train import write_to_run

__all__ = ["champion_of", "promote", "roll_back", "watch_champion"]


@task(name="promote", task_run_name="promote {checkpoint}")
def promote(settings: Settings, checkpoint: str, fingerprint: str) -> dict[str, Any]:
    """Let a checkpoint, as evaluated on the set `fingerprint`, challenge the champion.

    The champion is measured on that set if it was not. The next run's budget comes from the
    evaluation of the champion, and from keep rates and survey of the run that made the challenger's
    version. It is also written to that run as budget.json, for its report.

    Returns the champion's entry with `moved` and `reason`, and two entries of `checkpoint`,
    `version` and `evaluation`: `trained`, the checkpoint that was handed in (as `challenger` too),
    and `champion`, the one that is champion now.
    """
    store = open_store(settings.store)
    challenger = entry_of(store, checkpoint, evaluation_path(checkpoint, fingerprint))
    moved, standing, reason = move_champion(
        store, lambda before: _challenged(store, settings, before, challenger)
    )
    with suppress(MissingError):  # a version that `segmint gc` deleted has no page
        write_to_run(store, challenger["version"], "budget", {"rows": standing["steering"]})
    return {
        **standing,
        "moved": moved,
        "reason": reason,
        "challenger": challenger,
        "trained": challenger,
        "champion": {name: standing[name] for name in challenger},
    }


def _challenged(
    store: Store, settings: Settings, before: Entry | None, challenger: Entry
) -> tuple[Entry, str]:
    """Return the entry after a challenge of the champion `before`, and the reason."""
    if before is None:
        decision = Decision(True, "there was no champion")
        standing = {**challenger, "before": [], "lost": [], "withdrawn": []}
    else:
        champion, decision = contest(store, settings, before, challenger)
        standing = champion
        if decision.moved:
            standing = _succeeding(store, challenger, champion)
        elif decision.compared:
            standing = _withstanding(store, champion, challenger["checkpoint"])
    budget = budget_after(store, standing["evaluation"], challenger["version"])
    return {**standing, **budget}, decision.reason


def _succeeding(store: Store, challenger: Entry, champion: Entry) -> Entry:
    """Return the challenger's entry as champion, with those before it that still exist."""
    name = challenger["checkpoint"]
    before = [each for each in champion.get("before", []) if each != name]
    if store.exists(f"checkpoints/{champion['checkpoint']}/meta.json"):
        before.append(champion["checkpoint"])
    lost = [each for each in champion.get("lost", []) if each != name]
    return {
        **challenger,
        "before": before,
        "lost": lost,
        "withdrawn": champion.get("withdrawn", []),
    }


def _withstanding(store: Store, champion: Entry, challenger: str) -> Entry:
    """Return the entry of a champion that a challenger lost to, which may follow it one day."""
    lost: list[str] = champion.get("lost", [])
    if challenger in [*lost, *champion.get("before", [])]:
        return champion
    existing = set(store.list("checkpoints"))
    return {**champion, "lost": [*(each for each in lost if each in existing), challenger]}


def champion_of(settings: Settings) -> str:
    """Return the name of the champion. Raises `StoreError` while there is none."""
    store = open_store(settings.store)
    champion = read_champion(store)
    if champion is None:
        raise StoreError(
            f"{store.url} has no champion; name a checkpoint, or let `segmint train` make one"
        )
    return str(champion["checkpoint"])


@task(name="watch-champion", task_run_name="watch-champion {checkpoint}")
def watch_champion(settings: Settings, checkpoint: str, found: Mapping[str, Any]) -> bool:
    """Emit an event if an evaluation says that the champion got worse; return whether it does.

    Worse means that its mIoU is lower than when it became champion, by more than
    `alarm.regression`, on a set of the same name. Only images that were added or changed can
    lower it, because the same images always give the same figure.
    """
    champion = read_champion(open_store(settings.store))
    if champion is None or champion["checkpoint"] != checkpoint:
        return False
    if champion["evaluation"]["set"] != found["set"]:
        return False
    lost = champion["evaluation"]["miou"] - found["miou"]
    if lost <= settings.alarm.regression:
        return False
    payload = {"miou": found["miou"], "lost": lost, "set": found["set"]}
    emit(REGRESSED, "champion", checkpoint, payload)
    return True


@task(name="roll-back", task_run_name="roll-back")
def roll_back(settings: Settings, to: str | None = None) -> dict[str, Any]:
    """Withdraw the champion, make another checkpoint the champion, and return its entry.

    `to` None stands for the best that was not withdrawn: the champion before this one, or a
    challenger that lost to this one but beats that one. If a promotion replaced the champion
    meanwhile, the better one stays. A withdrawn checkpoint becomes champion again only if
    `roll_back` names it. Raises `StoreError` if there is nothing to go back to, `MissingError` for
    a checkpoint that is not in the store.
    """
    store = open_store(settings.store)
    seen = read_champion(store)
    if seen is None:
        raise _nothing_before(store)

    def decide(champion: Entry | None) -> tuple[Entry, str]:
        reason = f"{seen['checkpoint']} was rolled back"
        return _without(store, settings, champion or seen, seen["checkpoint"], to), reason

    return move_champion(store, decide)[1]


def _without(store: Store, settings: Settings, champion: Entry, seen: str, to: str | None) -> Entry:
    """Return the entry after the champion that was `seen` is withdrawn.

    `champion` may have replaced it since then; it is withdrawn as well if `to` names another one.
    """
    current = champion["checkpoint"]
    gone = {seen, current} - {to} if to else {seen}
    withdrawn = [name for name in champion.get("withdrawn", []) if name != to]
    if current not in gone and gone <= set(withdrawn):
        return champion
    rest = {
        "before": [name for name in champion.get("before", []) if name not in gone],
        "lost": [name for name in champion.get("lost", []) if name not in gone],
        "withdrawn": withdrawn + sorted(gone - set(withdrawn)),
    }
    if current not in gone:
        return {**champion, **rest}
    name = to or _next_best(store, settings, champion, rest)
    return _chosen(store, champion, rest, name, by_hand=to is not None)


def _chosen(
    store: Store, champion: Entry, rest: Mapping[str, list[str]], name: str, by_hand: bool
) -> Entry:
    """Return the entry of checkpoint `name` after the champion; `rest` is what remains of it."""
    path = last_evaluation(store, name, champion["evaluation"]["fingerprint"])
    entry = entry_of(store, name, path)
    before = rest["before"]
    lost = [] if by_hand else [each for each in rest["lost"] if each != name]
    return {
        **entry,
        "before": before[: before.index(name)] if name in before else before,
        "lost": lost,
        "withdrawn": rest["withdrawn"],
        **budget_after(store, entry["evaluation"], entry["version"]),
    }


def _next_best(
    store: Store, settings: Settings, champion: Entry, rest: Mapping[str, list[str]]
) -> str:
    """Return the champion before this one, or the best challenger since that beats it.

    Only figures on this champion's set count. Raises `StoreError` without any.
    """
    fingerprint = champion["evaluation"]["fingerprint"]
    earlier = rest["before"][-1:]
    found = [
        entry_of(store, name, evaluation_path(name, fingerprint))
        for name in [*earlier, *rest["lost"]]
        if read_evaluation(store, name, fingerprint)
    ]
    measured = {each["checkpoint"]: each for each in found}
    best = sorted(found, key=lambda each: each["evaluation"]["decision"]["miou"], reverse=True)
    for challenger in best:
        name: str = challenger["checkpoint"]
        if not earlier or name in earlier:
            return name
        if earlier[0] in measured:
            _, decision = contest(store, settings, measured[earlier[0]], challenger)
            if decision.moved:
                return name
    if not earlier:
        raise _nothing_before(store)
    return earlier[0]


def _nothing_before(store: Store) -> StoreError:
    return StoreError(
        f"{store.url} has no earlier champion; name a checkpoint, one of `checkpoints/`"
    )
