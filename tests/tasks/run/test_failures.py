"""Failures of a run: the message a person reads, and what the flow tries again."""

from __future__ import annotations

from tasks.run.failures import WAITS, Failure, NightFailedError, is_lost


def test_a_cause_that_shards_share_is_named_once() -> None:
    lost = Failure("the connection to Dask's scheduler was lost", "scheduler")
    waiting = Failure(f"select {WAITS}")
    error = NightFailedError({1: lost, 2: lost, 3: waiting, "rank": Failure("KeyError: 'row'")})
    assert str(error).startswith(
        "shard 00001, shard 00002: the connection to Dask's scheduler was lost; "
        "rank: KeyError: 'row'"
    )
    assert "1 more wait for these" in str(error)


def test_a_failure_says_what_was_lost_whatever_its_words_are() -> None:
    quoted = Failure("ValueError: KilledWorker: is a word like others")
    killed = Failure("all workers that took it died", "worker")
    assert not is_lost("worker", {1: quoted})
    assert is_lost("worker", {1: quoted, 2: killed})
    assert not is_lost("scheduler", {2: killed})
