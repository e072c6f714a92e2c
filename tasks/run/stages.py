"""Shards: one task run takes one stage of several of them, and each of these fails by itself.

A task run costs 0.1 s of Prefect and Dask, and a server wobbles at some thousands of them. So ten
thousand shards are no more than `MOST_TASK_RUNS` of them, and shards that are in the store are
none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

from distributed import CancelledError, KilledWorker
from prefect import Task, allow_failure, task
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.runtime import task_run

from infra.blocks import open_store
from infra.clusters import gpu_work
from infra.logs import located
from infra.settings import Settings
from infra.store import Marker, Store
from tasks.run.progress import announce, give_up

__all__ = [
    "MOST_TASK_RUNS",
    "Failure",
    "Failures",
    "Futures",
    "NightFailedError",
    "ShardsFailedError",
    "Stages",
    "lost",
    "over_shards",
]

MOST_TASK_RUNS = 1000  # of all stages of a run; half of what a server was seen to bear

_NUMBER = re.compile(r"\d+")  # of a shard; in a version's names more follows
WAITS = "waits for what failed"

Future = PrefectFuture[Any]
Futures = dict[int, Future]
OneShard = Callable[[Settings, int], Marker]
ShardTask = Task[[Settings, list[int]], None]


class Failure(NamedTuple):
    """Why something could not be made; and what was lost that it was made with, so that it may be
    made with another.
    """

    reason: str
    lost: Literal["worker", "scheduler"] | None = None


Failures = dict[int | str, Failure]  # by shard, or by stage of the whole run


class NightFailedError(RuntimeError):
    """Some shards could not be made.

    Finished ones are kept; running the flow again makes the rest.
    """

    def __init__(self, failures: Failures) -> None:
        causes: dict[str, list[str]] = {}
        for what, failure in failures.items():
            causes.setdefault(failure.reason, []).append(_name(what))
        told = [
            f"{', '.join(named)}: {why}" for why, named in causes.items() if not why.endswith(WAITS)
        ]
        if waiting := sum(len(named) for why, named in causes.items() if why.endswith(WAITS)):
            told.append(f"{waiting} more wait for these")
        remedy = "Everything finished is in the store: mend the cause and start the run again"
        super().__init__(f"{'; '.join(told)}. {remedy}")


class ShardsFailedError(RuntimeError):
    """Some shards of a task failed; `reasons` by shard."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(reasons)
        super().__init__(
            "; ".join(f"{_name(shard)}: {reason}" for shard, reason in self.reasons.items())
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardsFailedError, (self.reasons,)  # it comes back from Dask's workers


def _name(failed: int | str) -> str:
    return failed if isinstance(failed, str) else f"shard {failed:05d}"


def over_shards(name: str, make: OneShard) -> ShardTask:
    """The Prefect task that does stage `name` of a list of shards, whatever becomes of the others
    of the list.

    Raises `ShardsFailedError` at its end if there were errors.
    """

    def stage(settings: Settings, shards: list[int]) -> None:
        failed: dict[int, str] = {}
        for shard in shards:
            with located(run=settings.name, stage=name, shard=f"{shard:05d}"):
                try:
                    make(settings, shard)
                except Exception as error:
                    get_run_logger().exception(
                        "run %s, stage %s, shard %05d", settings.name, name, shard
                    )
                    give_up(name, f"{shard:05d}")
                    failed[shard] = f"{type(error).__name__}: {error}"
        if failed:
            raise ShardsFailedError(failed)

    return task(name=name, task_run_name=lambda: _run_name(name))(stage)


def _run_name(name: str) -> str:
    shards = task_run.parameters["shards"]
    return f"{name}-{shards[0]}" + (f"-{shards[-1]}" if len(shards) > 1 else "")


class Stages:
    """The stages of a run as they are handed to the task runner of the flow that this is made in.

    Shards that are in the store already are left out. Of the rest a task takes one if `alone`, else
    so many that the run stays within `MOST_TASK_RUNS`.
    """

    def __init__(
        self, settings: Settings, folders: Mapping[str, str], shards: Sequence[int], alone: bool
    ) -> None:
        """`folders` are those of the stages in the store, the last of them that of the last;

        `shards` are all.
        """
        self._settings = settings
        store = open_store(settings.store)
        with ThreadPoolExecutor(len(folders)) as pool:
            found = list(pool.map(lambda folder: _finished(store, folder), folders.values()))
        self._done = dict(zip(folders, found, strict=True))
        left = len(set(shards) - found[-1])
        self._size = 1 if alone else max(1, -(-left * len(folders) // MOST_TASK_RUNS))
        self._submitted: list[
            tuple[str, Sequence[int], Future]
        ] = []  # stage, shards (none: of the whole run)

    def each(
        self,
        stage: ShardTask,
        shards: Sequence[int],
        after: Futures | None = None,
        whole: Iterable[Futures] = (),
        gpu: bool = False,
    ) -> Futures:
        """Submit a stage of `shards`, a group after its own of the stage `after` and after all that
        is in `whole`.

        A group goes on with what its stage before it could make; what needs the whole run does
        without nothing.
        """
        futures: Futures = {}
        every = [future for stages in whole for future in stages.values()]
        for first, group in self._groups(stage.name, shards).items():
            announce(stage.name, [f"{shard:05d}" for shard in group])
            own = [allow_failure(after[first])] if after and first in after else []
            futures[first] = self._submit(stage, [group], [*own, *every], gpu, group)
        return futures

    def once(
        self, stage: Task[..., Any], *given: Any, after: Futures, gpu: bool = False
    ) -> Futures:
        """Submit what is done once for the whole run, or once for each of `given`."""
        waiting = list(after.values())
        calls = [[argument] for argument in given] or [[]]
        return {
            n: self._submit(stage, arguments, waiting, gpu) for n, arguments in enumerate(calls)
        }

    def failures(self) -> Failures:
        """Wait for everything; then what failed.

        Of each shard the first stage counts, for the others could not but fail.
        """
        wait([future for _, _, future in self._submitted])
        failed: Failures = {}
        for stage, shards, future in self._submitted:
            if future.state.is_completed():
                continue
            error = _error(future)
            why = _failure(error)
            reasons = (
                error.reasons
                if isinstance(error, ShardsFailedError)
                else dict.fromkeys(shards, why.reason)
            )
            for shard, reason in reasons.items():
                failed.setdefault(shard, Failure(f"{stage} {reason}", why.lost))
            if not shards:
                failed.setdefault(stage, why)
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
        self._submitted.append((name, shards, future))
        return future

    def _groups(self, stage: str, shards: Sequence[int]) -> dict[int, list[int]]:
        """What is left to do of a stage, in groups by the first shard that theirs would have at any
        stage.
        """
        done = self._done[stage]
        every = (shards[start : start + self._size] for start in range(0, len(shards), self._size))
        left = {group[0]: [shard for shard in group if shard not in done] for group in every}
        return {first: group for first, group in left.items() if group}


def _finished(store: Store, folder: str) -> set[int]:
    """Numbers of the shards with a marker, by one listing; whoever reads a marker checks it."""
    markers = [name for name in store.list(folder) if name.endswith(".json")]
    return {int(found[0]) for name in markers if (found := _NUMBER.match(name))}


def lost(what: Literal["worker", "scheduler"], failed: Failures) -> bool:
    """Whether something was given up because every worker that took it died, or because Dask's
    scheduler did.
    """
    return any(failure.lost == what for failure in failed.values())


def _error(future: Future) -> BaseException | None:
    try:
        found = future.result(raise_on_failure=False)
    except UnfinishedRun:
        return None
    except Exception as error:  # Dask's own: the task could not be run
        return error
    return found if isinstance(found, BaseException) else None


def _failure(error: BaseException | None) -> Failure:
    if isinstance(error, KilledWorker):
        died = f"all {error.allowed_failures + 1} workers that took it died, the last of them {error.last_worker.address}"
        return Failure(f"KilledWorker: {died}; see its log (memory?)", "worker")
    if isinstance(error, CancelledError):
        return Failure("the connection to Dask's scheduler was lost", "scheduler")
    return Failure(f"{type(error).__name__}: {error}" if error else WAITS)
