"""Runs with noise learning: labels are ranked by networks that never saw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import list_versions, read_shard, read_version
from tasks.report.steps import draw_steps
from tasks.report.stored_run import read_stored_run
from tasks.run.failures import NightFailedError
from tasks.run.verify import verify_stored_run
from testbed import nights

LEARNING = {"folds": 2, "fold_steps": 3, "keep": 0.5, "pixel_loss": 1.0}


def learning(folder: Path) -> Settings:
    plan = {"images": 8, "multi": 0.0, "negatives": 0.25}
    return nights.settings(folder, select=LEARNING, plan=plan, classes=("ball", "fish"))


def filtered_labels(chosen: Settings) -> dict[int, np.ndarray]:
    """Whether each pixel of a judged row's label, after the pixel filter, names a class."""
    store = nights.store_of(chosen)
    found = {}
    for shard in nights.STAGES["refine"]:
        judged = store.read_table(f"runs/night/hold-out/{shard:05d}.parquet")["row"].tolist()
        planned = store.read_table("runs/night/plan.parquet").set_index("row")["classes"]
        arrays, table = read_shard(store, f"runs/night/select/{shard:05d}", ["label"])
        for row, label in zip(table["row"], arrays["label"], strict=True):
            if row in judged and len(planned[row]):
                found[row] = (label > 0) & (label < 255)
    return found


def test_noise_learning_publishes_what_the_networks_agree_with(folder: Path) -> None:
    chosen = learning(folder)
    worked = nights.run(chosen)
    assert worked["learn-fold"] == 2 * LEARNING["fold_steps"]
    store = nights.store_of(chosen)
    judged, verdicts = (
        pd.concat(
            store.read_table(f"runs/night/{stage}/{shard:05d}.parquet")
            for shard in nights.STAGES["refine"]
        )
        for stage in ("hold-out", "select")
    )
    assert worked["hold-out"] == len(judged)
    verdicts = verdicts[verdicts["row"].isin(judged["row"])]
    rejected = verdicts[~verdicts["keep"]]
    assert set(rejected["reason"]) - {"missing class"} == {"rank"}
    emptied = {row for row, label in filtered_labels(chosen).items() if not label.any()}
    assert set(rejected.loc[rejected["reason"] == "missing class", "row"]) == emptied
    published, columns = [], []
    for shard in nights.SHARDS:
        arrays, table = read_shard(store, read_version(store, nights.version(chosen)).paths[shard])
        published.append(arrays["label"])
        columns += table["row"].tolist()
    assert set(columns) & set(judged["row"]) == set(verdicts.loc[verdicts["keep"], "row"])
    # the pixel filter's, since this run has no band of ignored pixels
    assert (np.concatenate(published) == 255).any()
    stored = read_stored_run(store, "night")
    picked = stored.counts.picked
    for _, cell in draw_steps(store, stored, picked[picked["row"].isin(judged["row"])]):
        # the prediction of the network that did not see it, and where it disagrees
        assert len(cell.tiles) == 7 + 2
    assert verify_stored_run(store, "night") == []
    assert nights.run(chosen) == {}  # all of it is in the store


def test_with_a_failed_shard_nothing_is_ranked_or_published(folder: Path) -> None:
    chosen = nights.settings(folder, select=LEARNING, publish={"partial": True})
    (folder / "runs/night/screen/00002.parquet").mkdir(parents=True)
    with pytest.raises(
        NightFailedError, match=r"^shard 00002: screen .*00002\.parquet.* more wait for these"
    ):
        nights.run(chosen)
    assert list_versions(nights.store_of(chosen)) == []


def test_a_run_stopped_at_a_fold_resumes_there_and_leaves_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    chosen, undisturbed = learning(folder), learning(tmp_path / "other" / "store")
    nights.run(undisturbed)
    folds = [f"checkpoints/{nights.version(undisturbed)}-fold-{fold}" for fold in (0, 1)]
    obstacle = folder / folds[1] / "weights.safetensors"
    obstacle.mkdir(parents=True)
    with pytest.raises(NightFailedError, match="learn-fold 1: "):
        nights.run(chosen)
    first = (folder / folds[0] / "meta.json").read_bytes()
    obstacle.rmdir()
    assert nights.run(chosen)["learn-fold"] <= LEARNING["fold_steps"]
    assert (folder / folds[0] / "meta.json").read_bytes() == first
    assert nights.objects(folder) == nights.objects(Path(undisturbed.store.url))
