from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import Store, write_shard
from tasks.plan.cost import estimate, measured_rate


def test_the_estimate_is_rate_times_images() -> None:
    cost = estimate(100, 10, 10, 0.5, 1000.0)
    assert (cost.seconds, cost.bytes) == (50.0, 100_000)


def test_workers_share_whole_shards() -> None:
    assert estimate(100, 10, 10, 1.0, 1.0, workers=5).seconds == 20.0
    assert estimate(100, 2, 50, 1.0, 1.0, workers=5).seconds == 50.0
    assert estimate(10, 1, 64, 1.0, 1.0).seconds == 10.0


def test_the_rate_of_many_shards_is_measured_on_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path))
    settings = Settings(name="first")
    store.write_json("runs/first/settings.json", settings.record())
    for shard in range(12):
        write_shard(
            store,
            f"runs/first/synthesize/{shard:05d}",
            {},
            pd.DataFrame({"id": ["a", "b"]}),
            seconds=3.0,
        )
    monkeypatch.setattr("tasks.plan.cost.SAMPLED", 3)
    read: Any = list[str]()
    monkeypatch.setattr(
        Store, "read_bytes", lambda store, path: read.append(path) or store.place.get(path)
    )
    rate = measured_rate(store, settings)
    assert rate is not None
    assert rate.seconds == pytest.approx(1.5)
    assert len([path for path in read if "synthesize" in path]) == 3


def test_the_rate_comes_from_shards_made_with_the_same_generator(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    settings = Settings(name="first")
    assert measured_rate(store, settings) is None
    store.write_json("runs/first/settings.json", settings.record())
    table = pd.DataFrame({"id": ["a", "b"]})
    images = np.zeros((2, 8, 8, 3), np.uint8)
    write_shard(store, "runs/first/synthesize/00000", {"image": images}, table, seconds=3.0)
    write_shard(store, "runs/first/select/00000", {}, table, seconds=1.0)
    rate = measured_rate(store, Settings(name="second", plan={"images": 7}))
    assert rate is not None
    assert (rate.seconds, rate.measured_on) == (cast(Any, pytest.approx(2.0)), "first")
    assert rate.bytes > 0
    assert measured_rate(store, Settings(generator={"num_inference_steps": 3})) is None
