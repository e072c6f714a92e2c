"""Select: with `pixel_loss` the label is judged as it will be published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import Store, read_shard, write_shard
from models.metrics import IGNORE
from tasks.plan.rows import start_run
from tasks.publish.samples import kept_samples
from tasks.select.scores import LOSS_UNIT
from tasks.select.select import select

SIDE = 64
CAR = 1
RUN = "runs/nightly"
HIGH = 255  # a stored loss of 8 and more
MEANS = {"0": 0.1, "1": 0.5}  # held-out loss of background and car


def car_label() -> np.ndarray:
    """A car of 14 % of the image."""
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[20:44, 20:44] = CAR
    return label


def losses_on(*boxes: tuple[slice, slice]) -> np.ndarray:
    """Stored losses that are high in these boxes and low elsewhere."""
    losses = np.ones((SIDE, SIDE), np.uint8)
    for box in boxes:
        losses[box] = HIGH
    return losses


LOSSES = {
    "sound": losses_on(),
    "half the car": losses_on(np.s_[20:32, 20:44]),
    "all of the car": losses_on(np.s_[20:44, 20:44]),
    "all but a few pixels of the car": losses_on(np.s_[20:43, 20:44]),
    "half of the image": losses_on(np.s_[:, :20], np.s_[:, 44:]),
    "low quality": losses_on(),
}
QUALITY = [0.9, 0.8, 0.2, 0.8, 0.8, 0.1]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run of one shard with a row for each entry of `LOSSES`, up to its final verdicts."""
    settings = Settings(
        store={"url": str(tmp_path)},
        classes=("car",),
        plan={"images": len(LOSSES), "multi": 0, "negatives": 0},
        select={"folds": 2, "pixel_loss": 1.25},
    )
    store = Store.open(str(tmp_path))
    start_run(store, settings)
    rows = store.read_table(f"{RUN}/plan.parquet")[["row", "id"]]
    draw = np.random.default_rng(0)
    image = draw.integers(40, 200, (len(rows), SIDE, SIDE, 3), dtype=np.uint8)
    finite = np.ones(len(rows), np.bool_)
    label = np.stack([car_label()] * len(rows))
    trust = rows.assign(confidence=0.9, consistency=0.8)
    write_shard(store, f"{RUN}/synthesize/00000", {"image": image, "finite": finite}, rows)
    write_shard(store, f"{RUN}/refine/00000", {"label": label}, trust)
    scores = rows.assign(agreement=0.9, quality=QUALITY)
    write_shard(store, f"{RUN}/hold-out/00000", {"loss": np.stack([*LOSSES.values()])}, scores)
    bars = {"car": {"score": 0.3, "row": 0}}
    store.write_json(f"{RUN}/ranking.json", {"bars": bars, "losses": MEANS})
    return settings


def judged(settings: Settings) -> tuple[np.ndarray, pd.DataFrame]:
    select.shard(settings, 0)
    arrays, verdicts = read_shard(Store.open(settings.store.url), f"{RUN}/select/00000")
    return arrays["label"], verdicts.set_axis(LOSSES, axis=0)


def test_a_sample_whose_class_loses_every_pixel_is_rejected(settings: Settings) -> None:
    labels, verdicts = judged(settings)
    assert not (labels[2] == CAR).any()
    assert verdicts["reason"]["all of the car"] == "missing class"
    assert not verdicts["keep"]["all of the car"]


def test_a_class_that_becomes_too_small_and_too_many_ignored_pixels_are_rejected(
    settings: Settings,
) -> None:
    _, verdicts = judged(settings)
    assert verdicts["reason"]["all but a few pixels of the car"] == "area"
    assert verdicts["reason"]["half of the image"] == "ignored"


def test_the_measures_are_those_of_the_filtered_label(settings: Settings) -> None:
    labels, verdicts = judged(settings)
    assert verdicts["keep"]["half the car"]
    assert verdicts["ignored"]["half the car"] == pytest.approx(12 * 24 / SIDE**2)
    assert verdicts["coverage"]["half the car"] == pytest.approx(12 * 24 / SIDE**2)
    np.testing.assert_array_equal(verdicts["ignored"], (labels == IGNORE).mean((1, 2)))


def test_a_sample_that_fails_a_test_keeps_that_reason_and_rank_comes_last(
    settings: Settings,
) -> None:
    _, verdicts = judged(settings)
    assert verdicts["reason"]["low quality"] == "rank"
    assert verdicts["quality"]["all of the car"] < 0.3  # below the threshold as well
    assert list(verdicts["keep"]) == [True, True, False, False, False, False]


def test_only_what_still_shows_its_class_is_published(settings: Settings) -> None:
    select.shard(settings, 0)
    store = Store.open(settings.store.url)
    rows = store.read_table(f"{RUN}/plan.parquet")
    arrays, table = kept_samples(store, settings.name, 0, rows)
    assert list(table["row"]) == [0, 1]
    assert all((label == CAR).any() for label in arrays["label"])


def test_without_a_pixel_filter_the_label_of_refine_is_judged(settings: Settings) -> None:
    learning = settings.select.model_copy(update={"pixel_loss": None})
    select.shard(settings.model_copy(update={"select": learning}), 0)
    arrays, verdicts = read_shard(Store.open(settings.store.url), f"{RUN}/select/00000")
    assert arrays == {}
    assert (verdicts["ignored"] == 0).all()
    assert list(verdicts["reason"]) == ["", "", "rank", "", "", "rank"]


def test_losses_are_stored_so_that_the_bound_of_a_class_can_be_told_apart() -> None:
    assert 1 * LOSS_UNIT < 1.25 * MEANS["0"] < 1.25 * MEANS["1"] < HIGH * LOSS_UNIT
