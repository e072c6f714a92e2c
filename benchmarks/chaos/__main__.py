"""`python -m benchmarks.chaos`: runs all nights and states the claims."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchmarks.chaos.disturbance import disturb
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.kinds import KINDS
from benchmarks.chaos.night import Fault, Night, Outcome
from benchmarks.claims import CACHE, Claim, Size, run

SEED = 5
FAULTS = {"quick": 5, "default": 100, "full": 400}
MOST = 3  # faults of one night
FLEETS = 2  # side by side; a night waits more than it works


def main(size: Size) -> list[Claim]:
    plan = dict(enumerate(night_plan(FAULTS[size], SEED), start=1))
    folder = CACHE / "chaos"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{size}.jsonl"
    if size == "quick":
        record.unlink(missing_ok=True)
    while left := sorted(plan.keys() - {outcome.night for outcome in recorded(record)}):
        nights = iter([(number, plan[number]) for number in left])  # each is taken by one fleet
        with ThreadPoolExecutor(FLEETS) as fleets:
            count = min(FLEETS, len(left))
            running = [fleets.submit(on_fleet, nights, folder, record) for _ in range(count)]
            for fleet in running:
                fleet.result()
    return claims(list(recorded(record)))


def on_fleet(nights: Iterator[tuple[int, list[Fault]]], folder: Path, record: Path) -> None:
    """Run nights on one fleet and record the outcomes; one that is stuck is the fleet's last."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as temporary,
        Fleet(Path(temporary).resolve(), SEED) as fleet,
    ):
        undisturbed = fleet.root / "undisturbed"
        first = Night(fleet, 0, [])
        disturb(first, None, undisturbed)
        show("undisturbed", first.outcome)
        for number, faults in nights:
            night, target = Night(fleet, number, faults), fleet.root / f"night-{number}"
            try:
                disturb(night, undisturbed, target)
            except (AssertionError, RuntimeError) as stuck:
                night.outcome.hands.append(f"stuck: {stuck}")
            with record.open("a") as file:
                file.write(json.dumps(asdict(night.outcome)) + "\n")
            show(f"night {number}", night.outcome)
            if not night.outcome.seconds:
                return
            shutil.rmtree(target)


def show(name: str, outcome: Outcome) -> None:
    print(f"{name}: {outcome.seconds} s, {outcome.found or 'nothing wrong'}", flush=True)


def recorded(record: Path) -> Iterator[Outcome]:
    """Yield the nights of earlier runs of the benchmark."""
    lines = record.read_text().splitlines() if record.exists() else []
    yield from (Outcome(**json.loads(line)) for line in lines)


def night_plan(count: int, seed: int) -> Iterator[list[Fault]]:
    """Yield nights of up to `MOST` faults, all kinds equally often, in random order and moments."""
    draw = random.Random(seed)
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(count)]
    draw.shuffle(kinds)
    while kinds:
        chosen = [kinds.pop()]
        for kind in list(kinds):
            alone = any(KINDS[name].alone for name in (kind, *chosen))
            if len(chosen) < MOST and kind not in chosen and not alone:
                chosen.append(kind)
                kinds.remove(kind)
        yield sorted((fault(kind, draw) for kind in chosen), key=lambda each: each.moment)


def fault(kind: str, draw: random.Random) -> Fault:
    """Return a fault of this kind, at a random moment."""
    return Fault(kind, round(draw.uniform(*KINDS[kind].moments), 3), draw.getrandbits(32))


def claims(outcomes: list[Outcome]) -> list[Claim]:
    faults = sum(len(outcome.faults) for outcome in outcomes)
    found = Counter(
        name for outcome in outcomes for name, problems in outcome.found.items() for _ in problems
    )
    killed = [outcome for outcome in outcomes if outcome.kills]
    again = sum(outcome.again for outcome in killed) / max(
        sum(outcome.kills for outcome in killed), 1
    )
    handed = sum(len(outcome.faults) for outcome in outcomes if outcome.hands)
    found["stuck"] = sum(not outcome.seconds for outcome in outcomes)
    return [
        *(Claim(f"samples {name}", found[name], "== 0") for name in ("lost", "doubled", "corrupt")),
        Claim("versions published in part", found["partial"], "== 0"),
        Claim("nights that never ended", found["stuck"], "== 0"),
        Claim("shards computed again for each kill, mean", again, "<= 1"),
        Claim("recovery without a hand, share", 1 - handed / max(faults, 1), ">= 0.95"),
    ]


if __name__ == "__main__":
    run("chaos", main)
