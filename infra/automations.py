"""Automations on a Prefect server: people are notified, and a run of a killed process goes on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from infra.events import KEEP_RATE_LOW, PARTIAL, REGRESSED

__all__ = ["TAG", "automations"]

TAG = "segmint"  # of every deployment in prefect.yaml
SILENT = timedelta(minutes=6)  # without a heartbeat: two of Prefect's three-minute beats
# A worker reports a crash up to 25 s after its runner did; both reports would undo a new start.
SETTLED = timedelta(minutes=1)
_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
_ANY_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
_OURS = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}


def automations(notify: ActionTypes) -> list[AutomationCore]:
    """Return all automations. `notify` is the action of those that notify a person."""
    return [*_of_runs(notify), *_of_data(notify)]


def _of_runs(notify: ActionTypes) -> list[AutomationCore]:
    crashed = ChangeFlowRunState(
        state=StateType.CRASHED,
        name="Crashed",
        message=f"no heartbeat for {SILENT.seconds // 60} minutes",
        force=False,
    )
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED,
        name="AwaitingRetry",  # the only state name from which Prefect restarts a finished run
        message="its process was killed; the run continues from the store",
        force=False,
    )
    late = _when_run_is({"prefect.flow-run.Late"})
    failed = _when_run_is({"prefect.flow-run.Failed", "prefect.flow-run.Crashed"})
    silent = "Its process is gone and could not report it."
    return [
        _automation("a run is late", "No worker took it: is one running?", late, notify),
        _automation("a run failed or crashed", "Its state has the reason.", failed, notify),
        _automation("a silent run has crashed", silent, _silent(), crashed),
        _automation("a crashed run goes on", "Finished shards are kept.", _crashed(), again),
    ]


def _of_data(notify: ActionTypes) -> list[AutomationCore]:
    low = _when_event("segmint.dataset.*", KEEP_RATE_LOW)
    partial = _when_event("segmint.dataset.*", PARTIAL)
    regressed = _when_event("segmint.champion", REGRESSED)
    return [
        _automation("the keep rate is low", "See the run's report.", low, notify),
        _automation("a version is partial", "See its manifest.", partial, notify),
        _automation("the champion regressed", "`segmint rollback`?", regressed, notify),
    ]


def _automation(
    name: str, description: str, trigger: EventTrigger, action: ActionTypes
) -> AutomationCore:
    return AutomationCore(
        name=f"segmint: {name}",
        description=description,
        enabled=True,  # explicit, or an update leaves a paused automation off
        trigger=trigger,
        actions=[action],
    )


def _when_run_is(states: set[str]) -> EventTrigger:
    """Return the trigger for a tagged run that enters one of these states."""
    return _trigger(
        match=_ANY_RUN, match_related=_OURS, expect=states, for_each={"prefect.resource.id"}
    )


def _silent() -> EventTrigger:
    """Return the trigger for a tagged run whose heartbeats stop without an end of the run."""
    return _stuck({"prefect.flow-run.heartbeat"}, {"prefect.flow-run.heartbeat", *_ENDED}, SILENT)


def _crashed() -> EventTrigger:
    """Return the trigger for a tagged run that crashed and was not started again."""
    started = {f"prefect.flow-run.{state}" for state in ("AwaitingRetry", "Pending", "Running")}
    return _stuck({"prefect.flow-run.Crashed"}, started, SETTLED)


def _stuck(after: set[str], expect: set[str], within: timedelta) -> EventTrigger:
    run = {"match": _ANY_RUN, "match_related": _OURS, "for_each": {"prefect.resource.id"}}
    return _trigger(**run, after=after, expect=expect, posture=Posture.Proactive, within=within)


def _when_event(resource: str, event: str) -> EventTrigger:
    return _trigger(match={"prefect.resource.id": resource}, expect={event})


def _trigger(**values: Any) -> EventTrigger:
    return EventTrigger.model_validate(
        {"posture": Posture.Reactive, "threshold": 1, "within": timedelta(0)} | values
    )
