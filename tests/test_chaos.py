"""A short run of `benchmarks.chaos`: a disturbed night on real servers leaves the same bucket as an
undisturbed one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import night_plan
from benchmarks.chaos.disturbance import disturb
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.kinds import KINDS
from benchmarks.chaos.night import Fault, Night, undisturbed_night


@pytest.mark.server
@pytest.mark.slow
def test_a_night_loses_worker_bucket_and_scheduler_and_nothing_else(tmp_path: Path) -> None:
    faults = [
        Fault("worker killed", 0.2, 1),
        Fault("S3 killed", 0.5, 4),
        Fault("scheduler killed", 0.7, 1),
    ]
    with Fleet(tmp_path / "fleet", seed=1) as fleet:
        reference = undisturbed_night(fleet, tmp_path / "undisturbed")
        night = Night(fleet, 1, faults)
        disturb(night, reference, tmp_path / "night")
    outcome = night.outcome
    assert outcome.found == {}
    assert outcome.hands == []
    assert outcome.kills == 2
    assert len(outcome.fired) == 3


def test_a_plan_has_all_kinds_as_often_and_is_the_same_for_a_seed() -> None:
    plan = list(night_plan(100, seed=5))
    assert plan == list(night_plan(100, seed=5)) != list(night_plan(100, seed=6))
    counts = [sum(fault.kind == kind for faults in plan for fault in faults) for kind in KINDS]
    assert set(counts) == {7, 8}
    assert all(
        len(faults) == 1 for faults in plan if any(KINDS[fault.kind].alone for fault in faults)
    )
