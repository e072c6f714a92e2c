"""What a configuration means: date, seed, weights and budget."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import MissingError, Store, publish_version, write_shard
from models.generators import PipelineError, pipeline_digest, pipeline_folder
from tasks.plan.resolve import for_version, resolve, resolve_date, with_weights
from tasks.plan.rows import start_run

DAY = date(2026, 1, 31)
DATED = Settings(name="x-{date}", seed=7, plan={"images": 10})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def publish(store: Store, run: str) -> str:
    """Publish a version of one sample and return its name."""
    shard = f"versions/{run}-0123abcd/data/00000"
    arrays = {"image": np.ones((1, 4, 4, 3), np.uint8), "label": np.zeros((1, 4, 4), np.uint8)}
    write_shard(store, shard, arrays, pd.DataFrame({"id": ["a"]}))
    meta = {"run": run, "classes": {"car": 1}}
    return publish_version(store, f"{run}-0123abcd", shards=[shard], meta=meta).version


def test_a_date_outside_a_flow_is_today_s_in_utc() -> None:
    today = datetime.now(UTC).date()
    assert resolve_date(DATED) in (DATED.dated(today), DATED.dated(datetime.now(UTC).date()))


def test_a_version_is_trained_with_the_seed_of_the_run_that_published_it(store: Store) -> None:
    version = publish(store, "x-2026-01-31")
    assert for_version(store, DATED, version) == DATED.dated(DAY)


@pytest.mark.parametrize("run", ["other", "x-2026-13-99", "x-2026-01-31-b"])
def test_a_version_of_another_run_is_trained_with_today_s_seed(store: Store, run: str) -> None:
    today = for_version(store, DATED, publish(store, run))
    assert today.name == resolve_date(DATED).name


def test_settings_without_a_date_stay_as_they_are(store: Store) -> None:
    settings = Settings(name="plain")
    assert (
        for_version(store, settings, publish(store, "plain")) == settings == resolve_date(settings)
    )


def test_a_version_that_does_not_exist_is_named(store: Store) -> None:
    with pytest.raises(MissingError, match="nothing-0123abcd"):
        for_version(store, DATED, "nothing-0123abcd")


def test_a_run_keeps_its_budget_when_the_champion_has_another(store: Store) -> None:
    first = start_run(store, resolve(store, Settings(plan={"images": 10})))
    champion = {"checkpoint": "c", "evaluation": {}, "budget": {"car": 3.0, "tree": 1.0}}
    store.write_json("champions/00000001.json", champion)
    assert resolve(store, Settings(plan={"images": 10})) == first
    other = resolve(store, Settings(name="other", plan={"images": 10}))
    assert other.plan.budget == {"car": 1.5, "tree": 0.5}


def test_the_generator_s_digest_is_part_of_a_resolved_configuration() -> None:
    found = with_weights(Settings())
    assert found.generator.weights == pipeline_digest(pipeline_folder("embedded"))
    assert with_weights(found) == found


def test_other_weights_than_the_settings_name_are_refused_with_the_remedy() -> None:
    with pytest.raises(PipelineError, match=r"generator\.weights is ab12, .* remove generator"):
        with_weights(Settings(generator={"weights": "ab12"}))
