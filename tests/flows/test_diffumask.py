"""Runs with DiffuMask's labels: a network learns affinities once from the run's images, then labels
are made per shard by a random walk.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.settings import Settings
from infra.store import read_shard
from tasks.report.steps import draw_steps
from tasks.report.stored_run import read_stored_run
from tasks.run.failures import NightFailedError
from tasks.run.verify import verify_stored_run
from testbed import nights

AFFINITY = "runs/night/affinity.safetensors"
STEPS = 4


def walking(folder: Path) -> Settings:
    return nights.settings(folder, refine={"method": "diffumask", "affinity_steps": STEPS})


def labels(chosen: Settings) -> np.ndarray:
    store = nights.store_of(chosen)
    return np.concatenate(
        [read_shard(store, f"runs/night/refine/{s:05d}", ["label"])[0]["label"] for s in range(4)]
    )


def test_refine_method_diffumask_labels_by_a_random_walk(folder: Path, tmp_path: Path) -> None:
    chosen = walking(folder)
    usual = nights.settings(tmp_path / "other" / "store")
    worked = nights.run(chosen)
    assert worked["learn-affinity"] == STEPS + 6  # and the seeds of each image with a class
    nights.run(usual)
    assert nights.store_of(chosen).exists(AFFINITY) and not nights.store_of(usual).exists(AFFINITY)
    assert not np.array_equal(labels(chosen), labels(usual))
    assert verify_stored_run(nights.store_of(chosen), "night") == []
    assert nights.run(chosen) == {}  # all of it is in the store


def test_the_affinity_network_is_trained_once_and_is_the_same_in_every_store(
    folder: Path, tmp_path: Path
) -> None:
    chosen, again = walking(folder), walking(tmp_path / "other" / "store")
    obstacle = folder / "runs" / "night" / "select" / "00001.parquet"
    obstacle.mkdir(parents=True)
    with pytest.raises(NightFailedError, match="shard 00001: select "):
        nights.run(chosen)
    nights.run(again)
    obstacle.rmdir()
    (folder / "runs" / "night" / "refine" / "00001.json").unlink()
    assert "learn-affinity" not in nights.run(chosen)
    assert nights.objects(folder) == nights.objects(Path(again.store.url))


def test_the_report_shows_the_walk_step_by_step(folder: Path) -> None:
    chosen = walking(folder)
    nights.run(chosen)
    stored = read_stored_run(nights.store_of(chosen), "night")
    steps = list(draw_steps(nights.store_of(chosen), stored, stored.counts.picked))
    assert len(steps) == 6
    for _, cell in steps:
        _, _, spread, seeds, walk, curve, label = cell.tiles
        assert len({tile.shape for tile in cell.tiles}) == 1
        assert not np.array_equal(spread, walk)
        assert not np.array_equal(seeds, label)
        assert np.ptp(curve) > 100
    (folder / AFFINITY).write_bytes(b"damaged")  # the page leaves out what it cannot read
    for _, cell in draw_steps(nights.store_of(chosen), stored, stored.counts.picked):
        assert len(cell.tiles) == 7 and np.array_equal(cell.tiles[3], cell.tiles[5])
