"""A night whose labels are ranked by networks that never saw them: the same whoever runs it, and
however it stops.
"""

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


def learning(place: Path) -> Settings:
    plan = {"images": 8, "multi": 0.0, "negatives": 0.25}
    return nights.settings(place, select=LEARNING, plan=plan, classes=("ball", "fish"))


def test_a_night_with_noise_learning_publishes_what_the_networks_agree_with(place: Path) -> None:
    chosen = learning(place)
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
    assert set(verdicts.loc[~verdicts["keep"], "reason"]) == {"rank"}
    published, columns = [], []
    for shard in nights.SHARDS:
        arrays, table = read_shard(store, read_version(store, nights.version(chosen)).paths[shard])
        published.append(arrays["label"])
        columns += table["row"].tolist()
    assert set(columns) & set(judged["row"]) == set(verdicts.loc[verdicts["keep"], "row"])
    assert (
        np.concatenate(published) == 255
    ).any()  # the pixel filter's: the small night has no band of its own
    stored = read_stored_run(store, "night")
    picked = stored.counts.picked
    for _, cell in draw_steps(store, stored, picked[picked["row"].isin(judged["row"])]):
        assert (
            len(cell.tiles) == 7 + 2
        )  # the prediction of the network that did not see it, and where it disagrees
    assert verify_stored_run(store, "night") == []
    assert nights.run(chosen) == {}  # all of it is in the store


def test_without_all_shards_there_is_nothing_to_rank_and_nothing_is_published(place: Path) -> None:
    chosen = nights.settings(place, select=LEARNING, publish={"partial": True})
    (place / "runs/night/screen/00002.parquet").mkdir(parents=True)
    with pytest.raises(
        NightFailedError, match=r"^shard 00002: screen .*00002\.parquet.* more wait for these"
    ):
        nights.run(chosen)
    assert list_versions(nights.store_of(chosen)) == []


def test_a_night_stopped_at_a_fold_goes_on_there_and_ends_in_the_same_bytes(
    place: Path, tmp_path: Path
) -> None:
    chosen, undisturbed = learning(place), learning(tmp_path / "other" / "store")
    nights.run(undisturbed)
    folds = [f"checkpoints/{nights.version(undisturbed)}-fold-{fold}" for fold in (0, 1)]
    obstacle = place / folds[1] / "weights.safetensors"
    obstacle.mkdir(parents=True)
    with pytest.raises(NightFailedError, match="learn-fold 1: "):
        nights.run(chosen)
    first = (place / folds[0] / "meta.json").read_bytes()
    obstacle.rmdir()
    assert nights.run(chosen)["learn-fold"] <= LEARNING["fold_steps"]
    assert (place / folds[0] / "meta.json").read_bytes() == first
    assert nights.objects(place) == nights.objects(Path(undisturbed.store.url))
