"""What `segmint setup` leaves on a real Prefect server, and what `segmint doctor` says of one that
lacks it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.blocks import open_store
from infra.clusters import gpu_slot
from infra.fleet import POOL, missing, set_up
from infra.settings import Settings, SettingsError, StoreSettings
from testbed.fleet import Prefect

SETTINGS = Settings(
    compute={"runner": "dask-local", "limit": "segmint-gpu", "gpus": 2}, store={"block": "store"}
)


@pytest.fixture(autouse=True)
def client(fleet: Prefect, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not telling")
    with temporary_settings({PREFECT_API_URL: fleet.url}), get_client(sync_client=True) as client:
        yield client


def made(slots: int | None = None) -> dict[str, list[str]]:
    done = set_up(SETTINGS, slots, without_password=True)
    return {
        how: [each.what for each in done if each.how == how]
        for how in ("made", "changed", "unchanged")
    }


def test_setup_makes_everything_once_and_mends_what_was_touched(client: SyncPrefectClient) -> None:
    lacking = list(missing(SETTINGS))
    assert [text for text in lacking if "deploy --all" in text and "nightly/nightly" in text]
    first = made()
    assert not first["changed"] and not first["unchanged"]
    assert {"work pool segmint", "concurrency limit segmint-gpu of 2", "block secret/store"} < set(
        first["made"]
    )
    assert made() == {"made": [], "changed": [], "unchanged": first["made"]}
    (late,) = client.read_automations_by_name("segmint: a run is late")
    client.delete_automation(late.id)
    (crashed,) = client.read_automations_by_name("segmint: a crashed run goes on")
    client.pause_automation(crashed.id)
    told = list(missing(SETTINGS))
    assert "automation 'segmint: a run is late' is missing: `segmint setup`" in told
    assert "automation 'segmint: a crashed run goes on' is off: `segmint setup`" in told
    again = made(slots=8)
    assert again["made"] == ["automation 'segmint: a run is late'"]
    assert again["changed"] == [
        "concurrency limit segmint-gpu of 8",
        "automation 'segmint: a crashed run goes on'",
    ]
    left = [text for text in missing(SETTINGS) if "deploy --all" not in text]
    assert left == [f"no worker serves work pool {POOL}: `prefect worker start --pool {POOL}`"]


def test_a_notification_block_that_is_not_there_is_an_error() -> None:
    unknown = SETTINGS.model_copy(
        update={"alarm": SETTINGS.alarm.model_copy(update={"notify": "slack-webhook/nobody"})}
    )
    with pytest.raises(
        SettingsError,
        match=r"alarm\.notify: there is no block 'slack-webhook/nobody'.*under Blocks",
    ):
        set_up(unknown, without_password=True)


def test_credentials_come_from_the_block_and_show_nowhere(tmp_path: Path) -> None:
    made()
    store = open_store(SETTINGS.store.model_copy(update={"url": "s3://bucket/prefix"}))
    assert store.options == {"key": "mine", "secret": "not telling"}
    assert "not telling" not in f"{store!r} {SETTINGS!r} {SETTINGS.resolved()}"


def test_a_block_that_is_not_there_or_holds_no_options_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        SettingsError, match=r"store\.block: no Secret block 'unknown'.*make it in Prefect's UI"
    ):
        open_store(StoreSettings(block="unknown"))
    Secret(value=cast(Any, "a password")).save("password")
    with pytest.raises(
        SettingsError, match=r"store\.block: no Secret block 'password' with a JSON object"
    ) as error:
        open_store(StoreSettings(block="password"))
    assert "a password" not in str(error.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    other = SETTINGS.model_copy(update={"store": StoreSettings(block="other")})
    with pytest.raises(
        SettingsError, match=r"store\.block: there is no Secret block 'other', and no credentials"
    ):
        set_up(other, without_password=True)


def test_a_slot_is_waited_for_while_the_server_is_away(fleet: Prefect) -> None:
    made()
    fleet.kill()
    back = threading.Timer(1.0, fleet.start)
    back.start()
    with gpu_slot(SETTINGS.compute):
        back.join()


def test_a_training_holds_a_slot_per_gpu(client: SyncPrefectClient) -> None:
    made()
    with gpu_slot(SETTINGS.compute, gpus=2):
        (limit,) = client.read_global_concurrency_limits()
        assert limit.active_slots == 2


def test_more_gpus_than_slots_are_an_error_at_once() -> None:
    made(slots=2)
    with (
        pytest.raises(SettingsError, match=r"train\.gpus is 3, more than the slots.*--limit 3"),
        gpu_slot(SETTINGS.compute, gpus=3),
    ):
        pass


def test_a_server_that_goes_away_ends_no_work_that_holds_a_slot(fleet: Prefect) -> None:
    made()
    with gpu_slot(SETTINGS.compute):
        fleet.kill()
    fleet.start()
