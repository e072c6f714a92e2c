"""Stages: the order of a run's work, as it is handed to a flow's task runner.

A task run costs 0.1 s of Prefect and Dask, and a server becomes unreliable at some thousands of
them. So one task run takes several shards, and shards that are in the store take none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, NamedTuple

from prefect import Task, allow_failure
from prefect.futures import PrefectFuture, wait

from infra.blocks import open_store
from infra.clusters import gpu_work
from infra.settings import Settings
from infra.store import Store
from tasks.run.failures import Failure, Failures, error_of, failure_of
from tasks.run.layout import shard_folders, shard_name, version_name
from tasks.run.progress import announce
from tasks.run.shards import ShardsFailedError, ShardTask

__all__ = ["MOST_TASK_RUNS", "Futures", "Stages"]

MOST_TASK_RUNS = 1000  # of all stages of a run; half of what a Prefect server was seen to handle

_NUMBER = re.compile(r"\d+")  # of a shard; in a version, the digest of its content follows

Future = PrefectFuture[Any]
Futures = dict[int, Future]


class _Submitted(NamedTuple):
    """One task run: its stage, its shards (none: it is for the whole run) and its future."""

    stage: str
    shards: Sequence[int]
    future: Future


class Stages:
    """Submits the stages of a run to the task runner of the flow that creates it.

    Shards that are in the store are left out. Of the rest a task takes one if `alone`, else as many
    as keep the run within `MOST_TASK_RUNS`.
    """

    def __init__(self, settings: Settings, shards: Sequence[int], alone: bool) -> None:
        """`shards` are the numbers of all shards of the run."""
        self._settings = settings
        store = open_store(settings.store)
        folders = shard_folders(settings.name, version_name(settings.name, settings.identity))
        with ThreadPoolExecutor(len(folders)) as pool:
            found = list(pool.map(lambda folder: _finished(store, folder), folders.values()))
        self._done = dict(zip(folders, found, strict=True))
        left = len(set(shards) - found[-1])
        self._size = 1 if alone else max(1, -(-left * len(folders) // MOST_TASK_RUNS))
        self._submitted: list[_Submitted] = []

    def each(
        self,
        stage: ShardTask,
        shards: Sequence[int],
        after: Futures | None = None,
        whole: Iterable[Futures] = (),
        gpu: bool = False,
    ) -> Futures:
        """Submit a stage of `shards` in groups.

        A group waits for the same group of the stage `after`, and takes the shards which that
        finished. It also waits for every task in `whole`, all of which have to succeed.
        """
        futures: Futures = {}
        required = [future for stages in whole for future in stages.values()]
        for first, group in self._groups(stage.name, shards).items():
            announce(stage.name, map(shard_name, group))
            own = [allow_failure(after[first])] if after and first in after else []
            futures[first] = self._submit(stage, [group], [*own, *required], gpu, group)
        return futures

    def once(
        self, stage: Task[..., Any], *given: Any, after: Futures, gpu: bool = False
    ) -> Futures:
        """Submit a task once for the whole run, or once for each of `given`."""
        waiting = list(after.values())
        calls = [[argument] for argument in given] or [[]]
        return {
            n: self._submit(stage, arguments, waiting, gpu) for n, arguments in enumerate(calls)
        }

    def failures(self) -> Failures:
        """Wait for everything, then return what failed.

        For each shard that is its first failed stage, since the later ones depend on it.
        """
        wait([task.future for task in self._submitted])
        failed: Failures = {}
        for task in self._submitted:
            for what, failure in _failures_of(task).items():
                failed.setdefault(what, failure)
        return failed

    def _submit(
        self,
        stage: Task[..., Any],
        given: Sequence[Any],
        after: Sequence[Any],
        gpu: bool,
        shards: Sequence[int] = (),
    ) -> Future:
        with gpu_work(self._settings.compute) if gpu else nullcontext():
            future: Future = stage.submit(
                self._settings, *given, return_state=False, wait_for=after
            )
        name = stage.name if shards else " ".join(map(str, [stage.name, *given]))
        self._submitted.append(_Submitted(name, shards, future))
        return future

    def _groups(self, stage: str, shards: Sequence[int]) -> dict[int, list[int]]:
        """The shards that a stage still has to do, in groups.

        The key is the first shard of the whole group, done or not, so that it is the same at every
        stage.
        """
        done = self._done[stage]
        every = (shards[start : start + self._size] for start in range(0, len(shards), self._size))
        left = {group[0]: [shard for shard in group if shard not in done] for group in every}
        return {first: group for first, group in left.items() if group}


def _failures_of(task: _Submitted) -> Failures:
    """What failed in one task run: by shard, or by stage if it is for the whole run."""
    if task.future.state.is_completed():
        return {}
    error = error_of(task.future)
    why = failure_of(error)
    if not task.shards:
        return {task.stage: why}
    reasons = dict.fromkeys(task.shards, why.reason)
    if isinstance(error, ShardsFailedError):
        reasons = error.reasons
    return {n: Failure(f"{task.stage} {reason}", why.lost) for n, reason in reasons.items()}


def _finished(store: Store, folder: str) -> set[int]:
    """Numbers of the shards that have a marker, by one listing.

    Markers are not read here: a stage checks those of its own shards.
    """
    markers = [name for name in store.list(folder) if name.endswith(".json")]
    return {int(found[0]) for name in markers if (found := _NUMBER.match(name))}
