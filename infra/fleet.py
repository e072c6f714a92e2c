"""What a Prefect server needs beside the deployments: created idempotently, and checked.

That is a work pool, a concurrency limit for GPUs, a block with the store's credentials, and
`infra.automations`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
)
from prefect.events.actions import ActionTypes, DoNothing, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from infra.access import require_password
from infra.automations import automations
from infra.settings import Settings, SettingsError

__all__ = ["DEPLOYMENTS", "LEASES", "POOL", "Done", "missing", "set_up"]

POOL = "segmint"  # the pool that prefect.yaml deploys to
DEPLOYMENTS = tuple(
    f"{name}/{name}" for name in ("nightly", "retrain", "evaluate", "compare", "rollback", "gc")
)
LEASES = "prefect.server.concurrency.lease_storage.filesystem"  # the alternative is Redis
# options of s3fs by the environment variables that hold them
_VARIABLES = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
}


class Done(NamedTuple):
    """One object on the server: what it is, and what `set_up` did with it."""

    what: str
    how: Literal["made", "changed", "unchanged"]


def set_up(
    settings: Settings, slots: int | None = None, without_password: bool = False
) -> list[Done]:
    """Create or update everything on the server at PREFECT_API_URL. A repetition changes nothing.

    `slots` is the number of slots of the GPU limit. None keeps an existing limit, and gives a new
    one as many as the settings' GPUs. Raises `SettingsError` for a notification block that does not
    exist, for missing credentials, and for a server without a password, unless `without_password`.
    """
    if not without_password:
        require_password(PREFECT_API_URL.value())
    with get_client(sync_client=True) as client:
        done = [_pool(client)]
        if settings.compute.limit:
            fewest = max(settings.compute.gpus, 1)
            done.append(_limit(client, settings.compute.limit, slots, fewest))
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
    return Done(f"work pool {POOL}", "unchanged")


def _limit(client: SyncPrefectClient, name: str, slots: int | None, fewest: int) -> Done:
    try:
        found = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=slots or fewest)
        )
        return Done(f"concurrency limit {name} of {slots or fewest}", "made")
    if slots is None or found.limit == slots:
        return Done(f"concurrency limit {name} of {found.limit}", "unchanged")
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots))
    return Done(f"concurrency limit {name} of {slots}", "changed")


def _block(client: SyncPrefectClient, name: str) -> Done:
    """Make a block of the environment's credentials, unless the block exists."""
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
                f"store.block: there is no Secret block {name!r}, and no credentials to make it "
                f"of; set {' and '.join(list(_VARIABLES.values())[:2])} for this command, or make "
                "it in Prefect's UI"
            ) from None
        Secret(value=SecretStr(json.dumps(held))).save(name)
        return Done(f"block secret/{name}", "made")
    return Done(f"block secret/{name}", "unchanged")


def _notification(client: SyncPrefectClient, slug: str | None) -> ActionTypes:
    """Return the action that notifies a person through the block type/name; without one, none."""
    if slug is None:
        return DoNothing()
    kind, _, name = slug.partition("/")
    try:
        found = client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise SettingsError(
            f"alarm.notify: there is no block {slug!r} on the server; make one in Prefect's UI "
            "under Blocks and give it as type/name, such as slack-webhook/team"
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
        return Done(f"automation {wanted.name!r}", "unchanged")
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
    """Yield what the server lacks for runs with these settings, each with its remedy."""
    with get_client(sync_client=True) as client:
        yield from _missing_workers(client)
        if _leases(client).endswith(".memory"):
            yield (
                "a restarted server forgets who holds a concurrency limit, and ends those runs: "
                f"set PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={LEASES} for the server"
            )
        limit = settings.compute.limit
        if limit and not _exists(client.read_global_concurrency_limit_by_name, limit):
            yield f"no concurrency limit {limit}: `segmint setup`"
        block = settings.store.block
        if block and not _exists(client.read_block_document_by_name, block, "secret"):
            yield f"no block secret/{block}: `segmint setup`"
        yield from _missing_automations(client)
        for name in DEPLOYMENTS:
            if not _exists(client.read_deployment_by_name, name):
                yield f"no deployment {name}: `prefect --no-prompt deploy --all`"


def _missing_workers(client: SyncPrefectClient) -> Iterator[str]:
    try:
        client.read_work_pool(POOL)
        workers = client.read_workers_for_work_pool(POOL)
    except ObjectNotFound:
        yield f"no work pool {POOL}: `segmint setup`"
        return
    if not any(worker.status == "ONLINE" for worker in workers):
        yield f"no worker serves work pool {POOL}: `prefect worker start --pool {POOL}`"


def _missing_automations(client: SyncPrefectClient) -> Iterator[str]:
    for wanted in automations(DoNothing()):
        found = _named(client, wanted.name)
        if found is None or not found.enabled:
            state = "off" if found else "missing"
            yield f"automation {wanted.name!r} is {state}: `segmint setup`"


def _leases(client: SyncPrefectClient) -> str:
    """Return where the server keeps the leases of concurrency limits."""
    answer = client._client.get("/admin/settings")  # Prefect's client has no method for it
    return str(answer.json()["server"]["concurrency"]["lease_storage"])


def _exists(read: Callable[..., Any], *names: str) -> bool:
    try:
        read(*names)
    except ObjectNotFound:
        return False
    return True
