"""One run with its faults, from its start to the judgement on its bucket."""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.chaos import checker
from benchmarks.chaos.kinds import KINDS
from benchmarks.chaos.night import ROWS, Night, download

__all__ = ["disturb"]


def disturb(night: Night, reference: Path | None, target: Path) -> None:
    """Run a night with its faults, copy its bucket to `target`, and compare it with `reference`.

    Without a reference the bucket is compared with itself. The result is in `night.outcome`. Raises
    `AssertionError` or `RuntimeError` if the night does not end.
    """
    begun = time.monotonic()
    night.fleet.dask.log.write_text("")
    for fault in night.faults:
        KINDS[fault.kind].before(night, random.Random(fault.seed))
    night.flow_run = night.start()
    for fault in night.faults:
        night.wait_for(fault)
        _strike(night, fault.kind, fault.seed)
    night.end(night.flow_run)
    for fault in night.faults:
        KINDS[fault.kind].after(night, random.Random(fault.seed))
    night.end_retraining()
    night.outcome.again = sum(count - 1 for count in night.begun().values())
    download(night.bucket, target)
    found = checker.check(target, reference or target, frozenset(night.without))
    night.outcome.found = {name: problems for name, problems in asdict(found).items() if problems}
    night.outcome.seconds = round(time.monotonic() - begun, 1)


def _strike(night: Night, kind: str, seed: int) -> None:
    moment = f"{night.done()} of {ROWS} rows, {len(night.trainings('RUNNING'))} trainings"
    effect = KINDS[kind].strike(night, random.Random(seed))
    night.outcome.kills += KINDS[kind].kills
    night.outcome.fired.append(f"{kind} at {moment}: {effect}")
    print(f"  night {night.outcome.night}: {night.outcome.fired[-1]}", flush=True)
