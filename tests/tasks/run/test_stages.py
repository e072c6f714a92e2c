"""What could not be made is told so that a person can read it, and so that the flow knows what to
try again.
"""

from __future__ import annotations

from tasks.run.failures import WAITS, Failure, NightFailedError, is_lost


def test_a_cause_that_shards_share_is_told_once() -> None:
    away = Failure("the connection to Dask's scheduler was lost", "scheduler")
    told = str(
        NightFailedError(
            {1: away, 2: away, 3: Failure(f"select {WAITS}"), "rank": Failure("KeyError: 'row'")}
        )
    )
    assert told.startswith(
        "shard 00001, shard 00002: the connection to Dask's scheduler was lost; rank: KeyError: 'row'"
    )
    assert "1 more wait for these" in told


def test_a_failure_tells_what_was_lost_whatever_its_words_are() -> None:
    told = Failure("ValueError: KilledWorker: is a word like others")
    assert not is_lost("worker", {1: told})
    assert is_lost("worker", {1: told, 2: Failure("all workers that took it died", "worker")})
    assert not is_lost("scheduler", {2: Failure("all workers that took it died", "worker")})
