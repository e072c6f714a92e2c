"""What a Prefect server needs to know of segmint beside its deployments: made idempotently, and
checked.

A work pool, a concurrency limit for GPUs, a block of store credentials, and automations: somebody
is told of what goes wrong, and a run whose process was killed goes on by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from infra.events import KEEP_RATE_LOW, PARTIAL, REGRESSED
from infra.settings import Settings, SettingsError

__all__ = ["DEPLOYMENTS", "LEASES", "POOL", "TAG", "Done", "automations", "missing", "set_up"]

POOL = "segmint"  # that prefect.yaml deploys to
TAG = "segmint"  # of every deployment of prefect.yaml
DEPLOYMENTS = tuple(
    f"{name}/{name}" for name in ("nightly", "retrain", "evaluate", "compare", "rollback", "gc")
)
LEASES = "prefect.server.concurrency.lease_storage.filesystem"  # the other is Redis
SILENT = timedelta(minutes=6)  # without a heartbeat: two of Prefect's three-minute beats
SETTLED = timedelta(
    minutes=1
)  # a worker reports a crash up to 25 s after its runner did; both would undo a new start
_ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
_ANY_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
_OURS = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
# options of s3fs by the variables that hold them
_VARIABLES = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
}


class Done(NamedTuple):
    """One thing on the server: what it is, and whether it was made, changed or there."""

    what: str
    how: Literal["made", "changed", "there"]


def automations(notify: ActionTypes) -> list[AutomationCore]:
    """All automations; `notify` is what those do that tell a person."""
    late, failed = (
        {"prefect.flow-run.Late"},
        {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
    )
    crashed = ChangeFlowRunState(
        state=StateType.CRASHED,
        name="Crashed",
        message=f"no heartbeat for {SILENT.seconds // 60} minutes",
        force=False,
    )
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED,
        name="AwaitingRetry",  # the only name that a finished run may be scheduled again by
        message="its process was killed; goes on from the store",
        force=False,
    )
    return [
        _automation("a run is late", "No worker took it: is one running?", _of_run(late), notify),
        _automation("a run failed or crashed", "Its state says why.", _of_run(failed), notify),
        _automation(
            "a silent run has crashed",
            "Its process is gone and could not say so.",
            _silent(),
            crashed,
        ),
        _automation(
            "a crashed run goes on", "Finished shards are not made again.", _crashed(), again
        ),
        _automation(
            "the keep rate is low",
            "See the run's report.",
            _of("segmint.dataset.*", KEEP_RATE_LOW),
            notify,
        ),
        _automation(
            "a version is partial", "See its manifest.", _of("segmint.dataset.*", PARTIAL), notify
        ),
        _automation(
            "the champion regressed",
            "`segmint rollback`?",
            _of("segmint.champion", REGRESSED),
            notify,
        ),
    ]


def _automation(
    name: str, description: str, trigger: EventTrigger, action: ActionTypes
) -> AutomationCore:
    return AutomationCore(
        name=f"segmint: {name}",
        description=description,
        enabled=True,  # said, or an update leaves one off that somebody paused
        trigger=trigger,
        actions=[action],
    )


def _of_run(states: set[str]) -> EventTrigger:
    """Whenever a run of ours gets one of these states."""
    return _trigger(
        match=_ANY_RUN, match_related=_OURS, expect=states, for_each={"prefect.resource.id"}
    )


def _silent() -> EventTrigger:
    """Whenever a run of ours that sent heartbeats sends no more, and no end."""
    return _stuck({"prefect.flow-run.heartbeat"}, {"prefect.flow-run.heartbeat", *_ENDED}, SILENT)


def _crashed() -> EventTrigger:
    """Whenever a run of ours has crashed and nobody has started it again."""
    started = {f"prefect.flow-run.{state}" for state in ("AwaitingRetry", "Pending", "Running")}
    return _stuck({"prefect.flow-run.Crashed"}, started, SETTLED)


def _stuck(after: set[str], expect: set[str], within: timedelta) -> EventTrigger:
    run = {"match": _ANY_RUN, "match_related": _OURS, "for_each": {"prefect.resource.id"}}
    return _trigger(**run, after=after, expect=expect, posture=Posture.Proactive, within=within)


def _of(resource: str, event: str) -> EventTrigger:
    return _trigger(match={"prefect.resource.id": resource}, expect={event})


def _trigger(**values: Any) -> EventTrigger:
    return EventTrigger.model_validate(
        {"posture": Posture.Reactive, "threshold": 1, "within": timedelta(0)} | values
    )


def set_up(settings: Settings, slots: int | None = None) -> list[Done]:
    """Make or mend everything on the server that PREFECT_API_URL names; doing it again changes
    nothing.

    `slots` are those of the GPU limit; None leaves a limit as it is, and gives a new one as many as
    the settings' GPUs. Raises `SettingsError` for a notification block that is not there, and for
    credentials that are nowhere.
    """
    with get_client(sync_client=True) as client:
        done = [_pool(client)]
        if settings.compute.limit:
            done.append(
                _limit(client, settings.compute.limit, slots, max(settings.compute.gpus, 1))
            )
        if settings.store.block:
            done.append(_block(client, settings.store.block))
        notify = _notification(client, settings.alarm.notify)
        return [*done, *(_put(client, automation) for automation in automations(notify))]


def _pool(client: SyncPrefectClient) -> Done:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        return Done(f"work pool {POOL}", "made")
    return Done(f"work pool {POOL}", "there")


def _limit(client: SyncPrefectClient, name: str, slots: int | None, fewest: int) -> Done:
    try:
        found = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=slots or fewest)
        )
        return Done(f"concurrency limit {name} of {slots or fewest}", "made")
    if slots is None or found.limit == slots:
        return Done(f"concurrency limit {name} of {found.limit}", "there")
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots))
    return Done(f"concurrency limit {name} of {slots}", "changed")


def _block(client: SyncPrefectClient, name: str) -> Done:
    """The store's credentials, taken from the environment once; a block that is there stays as it
    is.
    """
    try:
        client.read_block_document_by_name(name, "secret")
    except ObjectNotFound:
        held = {
            option: os.environ[variable]
            for option, variable in _VARIABLES.items()
            if variable in os.environ
        }
        if not held:
            raise SettingsError(
                f"store.block: there is no Secret block {name!r}, and no credentials to make it of; set "
                f"{' and '.join(list(_VARIABLES.values())[:2])} for this command, or make it in Prefect's UI"
            ) from None
        Secret(value=SecretStr(json.dumps(held))).save(name)
        return Done(f"block secret/{name}", "made")
    return Done(f"block secret/{name}", "there")


def _notification(client: SyncPrefectClient, slug: str | None) -> ActionTypes:
    """What tells a person: the notification block called type/name; nothing without one."""
    if slug is None:
        return DoNothing()
    kind, _, name = slug.partition("/")
    try:
        found = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise SettingsError(
            f"alarm.notify: there is no block {slug!r} on the server; make one in Prefect's UI under Blocks and name "
            f"it as type/name, such as slack-webhook/team"
        ) from None
    return SendNotification(
        block_document_id=found.id,
        subject="{{ automation.name }}",
        body="{{ event.event }} of {{ event.resource.name }}: {{ event.payload }}",
    )


def _put(client: SyncPrefectClient, wanted: AutomationCore) -> Done:
    found = _named(client, wanted.name)
    if found is None:
        client.create_automation(wanted)
        return Done(f"automation {wanted.name!r}", "made")
    if _content(found) == _content(wanted):
        return Done(f"automation {wanted.name!r}", "there")
    client.update_automation(found.id, wanted)
    return Done(f"automation {wanted.name!r}", "changed")


def _named(client: SyncPrefectClient, name: str) -> Automation | None:
    return next(iter(client.read_automations_by_name(name)), None)


def _content(automation: AutomationCore) -> dict[str, Any]:
    fields = {"name", "description", "enabled", "trigger", "actions"}
    dumped: dict[str, Any] = automation.model_dump(mode="json", include=fields)
    trigger = {name: value for name, value in dumped["trigger"].items() if name != "id"}
    ordered = {name: sorted(trigger[name]) for name in ("after", "expect", "for_each")}
    return {**dumped, "trigger": trigger | ordered}


def missing(settings: Settings) -> Iterator[str]:
    """What the server lacks of all that runs need, each with its remedy."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
            if not any(
                worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(POOL)
            ):
                yield f"no worker serves work pool {POOL}: `prefect worker start --pool {POOL}`"
        except ObjectNotFound:
            yield f"no work pool {POOL}: `segmint setup`"
        if _leases(client).endswith(".memory"):
            yield (
                "a server that is started again has forgotten who holds a concurrency limit, and ends those runs: set "
                f"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={LEASES} for the server"
            )
        if settings.compute.limit and not _there(
            client.read_global_concurrency_limit_by_name, settings.compute.limit
        ):
            yield f"no concurrency limit {settings.compute.limit}: `segmint setup`"
        if settings.store.block and not _there(
            client.read_block_document_by_name, settings.store.block, "secret"
        ):
            yield f"no block secret/{settings.store.block}: `segmint setup`"
        for wanted in automations(DoNothing()):
            found = _named(client, wanted.name)
            if found is None or not found.enabled:
                yield f"automation {wanted.name!r} is {'off' if found else 'missing'}: `segmint setup`"
        for name in DEPLOYMENTS:
            if not _there(client.read_deployment_by_name, name):
                yield f"no deployment {name}: `prefect --no-prompt deploy --all`"


def _leases(client: SyncPrefectClient) -> str:
    """Where the server keeps the leases of concurrency limits."""
    answer = client._client.get("/admin/settings")  # Prefect's client has no method for it
    return str(answer.json()["server"]["concurrency"]["lease_storage"])


def _there(read: Any, *names: str) -> bool:
    try:
        read(*names)
    except ObjectNotFound:
        return False
    return True
