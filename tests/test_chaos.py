"""Which faults `benchmarks.chaos` has in store."""

from __future__ import annotations

from benchmarks.chaos.__main__ import night_plan
from benchmarks.chaos.kinds import KINDS


def test_a_plan_has_all_kinds_as_often_and_is_the_same_for_a_seed() -> None:
    plan = list(night_plan(100, seed=5))
    assert plan == list(night_plan(100, seed=5)) != list(night_plan(100, seed=6))
    counts = [sum(fault.kind == kind for faults in plan for fault in faults) for kind in KINDS]
    assert set(counts) == {7, 8}
    assert all(len(faults) == 1 for faults in plan if any(KINDS[fault.kind].alone for fault in faults))
