"""Failures: why shards or whole stages could not be made, and what was lost with them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from distributed import CancelledError, KilledWorker
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture

from tasks.run.layout import shard_name

__all__ = [
    "WAITS",
    "Failure",
    "Failures",
    "NightFailedError",
    "error_of",
    "failure_of",
    "is_lost",
]

WAITS = "waits for what failed"

Lost = Literal["worker", "scheduler"]


class Failure(NamedTuple):
    """Why something could not be made.

    `lost` names the Dask process that died with it, if any: then another try may succeed.
    """

    reason: str
    lost: Lost | None = None


Failures = dict[int | str, Failure]  # by shard, or by stage of the whole run


class NightFailedError(RuntimeError):
    """Some shards could not be made.

    Finished ones are kept; running the flow again makes the rest.
    """

    def __init__(self, failures: Failures) -> None:
        causes: dict[str, list[str]] = {}
        for what, failure in failures.items():
            causes.setdefault(failure.reason, []).append(_name(what))
        lines = [
            f"{', '.join(named)}: {why}" for why, named in causes.items() if not why.endswith(WAITS)
        ]
        if waiting := sum(len(named) for why, named in causes.items() if why.endswith(WAITS)):
            lines.append(f"{waiting} more wait for these")
        remedy = "Everything finished is in the store: fix the cause and start the run again"
        super().__init__(f"{'; '.join(lines)}. {remedy}")


def _name(failed: int | str) -> str:
    return failed if isinstance(failed, str) else f"shard {shard_name(failed)}"


def is_lost(what: Lost, failed: Failures) -> bool:
    """Whether a failure is due to a lost worker or to a lost Dask scheduler, as `what` says."""
    return any(failure.lost == what for failure in failed.values())


def error_of(future: PrefectFuture[Any]) -> BaseException | None:
    """The error of a task run that did not complete; None if it never started."""
    try:
        found = future.result(raise_on_failure=False)
    except UnfinishedRun:
        return None
    except Exception as error:  # Dask's own: the task could not be run
        return error
    return found if isinstance(found, BaseException) else None


def failure_of(error: BaseException | None) -> Failure:
    """The failure that an error of `error_of` stands for."""
    if isinstance(error, KilledWorker):
        tries = error.allowed_failures + 1
        died = (
            f"all {tries} workers that took it died, the last of them {error.last_worker.address}"
        )
        return Failure(f"KilledWorker: {died}; see its log (memory?)", "worker")
    if isinstance(error, CancelledError):
        return Failure("the connection to Dask's scheduler was lost", "scheduler")
    return Failure(f"{type(error).__name__}: {error}" if error else WAITS)
