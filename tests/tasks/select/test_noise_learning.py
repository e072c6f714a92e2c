"""Noise learning: networks that never saw a sample find the labels that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from infra.settings import Settings, SettingsError
from infra.store import Store, read_shard, write_shard
from models.embedded import world
from models.metrics import IGNORE
from tasks.plan.rows import make_plan
from tasks.plan.table import stored_plan
from tasks.select.judge import drop_high_losses
from tasks.select.noise_learning import hold_out, learn_fold, rank
from tasks.select.ranking import read_ranking
from tasks.select.scores import LOSS_UNIT, image_scores, pixel_losses
from tasks.select.select import screen, select

CLASSES = ("ball",)
FAULTY = 8  # every which row is mislabelled


def one_hot(labels: np.ndarray, sure: float) -> np.ndarray:
    """Softmax (B, 3, H, W) that gives `sure` to each label."""
    rest = np.full((len(labels), 3, *labels.shape[1:]), (1 - sure) / 2, np.float32)
    np.put_along_axis(rest, labels[:, None].astype(np.int64), sure, 1)
    return rest


LABELS = np.zeros((2, 8, 8), np.uint8)
LABELS[:, 2:6, 2:6] = 1


def test_a_label_that_the_network_would_have_given_has_full_scores() -> None:
    scores = image_scores(one_hot(LABELS, 1.0), LABELS, [[1], [1]])
    assert scores.to_dict("list") == {"agreement": [1, 1], "quality": [1, 1]}


def test_agreement_is_the_worst_class_s_iou_and_quality_falls_with_the_pixels_that_differ() -> None:
    wrong = LABELS.copy()
    wrong[1, 2:6, 2:4] = 2
    scores = image_scores(one_hot(LABELS, 0.9), wrong, [[1], [1, 2]])
    assert scores["agreement"].tolist() == [1, 0]
    assert scores["quality"][0] == pytest.approx(0.9, abs=1e-3)
    assert scores["quality"][1] < 0.5


def test_pixels_without_a_label_count_for_nothing() -> None:
    ignored = np.where(LABELS == 1, np.uint8(IGNORE), LABELS)
    found = one_hot(np.full_like(LABELS, 2), 0.9)
    found[:, :, 0] = one_hot(LABELS, 0.9)[:, :, 0]
    assert (pixel_losses(found, ignored)[ignored == IGNORE] == 0).all()
    blank = np.full_like(LABELS, IGNORE)
    assert image_scores(found, blank, [[1], []]).to_dict("list") == {
        "agreement": [0, 0],
        "quality": [0, 0],
    }


def test_a_negative_agrees_as_far_as_nothing_is_seen_in_it() -> None:
    found = one_hot(LABELS, 0.9)
    nothing = np.zeros_like(LABELS)
    assert image_scores(found, nothing, [[], []])["agreement"].tolist() == [0.75, 0.75]


def test_the_pixel_filter_takes_what_is_over_its_class_s_multiple() -> None:
    losses = np.where(LABELS == 1, 0.5, 0.1).astype(np.float32)
    losses[0, 0, 0] = 0.13
    losses[0, 3, 3] = 0.62
    found = drop_high_losses(LABELS, losses, {0: 0.1, 1: 0.5}, 1.25)
    assert np.argwhere(found == IGNORE).tolist() == [[0, 0, 0]]
    found = drop_high_losses(LABELS, losses, {0: 0.1, 1: 0.5}, 1.2)
    assert np.argwhere(found == IGNORE).tolist() == [[0, 0, 0], [0, 3, 3]]
    assert (drop_high_losses(LABELS, losses, {}, 1.0) == LABELS).all()


def test_one_fold_is_refused() -> None:
    with pytest.raises(SettingsError, match="1 fold leaves nothing to train on"):
        Settings(select={"folds": 1})


@pytest.fixture(scope="module")
def learned_run(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run of drawn scenes with exact labels, every eighth of them shifted, through all of noise
    learning.
    """
    settings = Settings(
        seed=3,
        store={"url": str(tmp_path_factory.mktemp("store"))},
        classes=CLASSES,
        plan={"images": 96, "multi": 0.0, "negatives": 0.1, "shard_size": 32},
        select={"folds": 2, "fold_steps": 120, "keep": 0.8, "pixel_loss": 3.0},
    )
    store = Store.open(settings.store.url)
    plan = make_plan(settings, settings.load_vocabulary())
    store.write_bytes("runs/nightly/plan.parquet", stored_plan([plan]))
    for shard, rows in plan.groupby("shard"):
        drawings = [
            world.draw_scene(
                world.sample_scene(np.random.default_rng(r.seed), r.classes, r.background)
            )
            for r in rows.itertuples()
        ]
        image, label = (
            np.stack([getattr(d, field)[::2, ::2] for d in drawings])
            for field in ("image", "label")
        )
        faulty = np.asarray(rows["row"] % FAULTY == 0)
        label[faulty] = np.roll(label[faulty], 20, axis=2)
        table = rows[["row", "id"]]
        finite = np.ones(len(rows), np.bool_)
        write_shard(
            store, f"runs/nightly/synthesize/{shard:05d}", {"image": image, "finite": finite}, table
        )
        scores = table.assign(confidence=0.9, consistency=0.9)
        write_shard(store, f"runs/nightly/refine/{shard:05d}", {"label": label}, scores)
    shards = range(plan["shard"].max() + 1)
    for shard in shards:
        screen.shard(settings, shard)
    for fold in range(2):
        learn_fold.fn(settings, fold)
    for shard in shards:
        hold_out.shard(settings, shard)
    rank.fn(settings)
    for shard in shards:
        select.shard(settings, shard)
    return settings


@pytest.fixture(scope="module")
def verdicts(learned_run: Settings) -> pd.DataFrame:
    store = Store.open(learned_run.store.url)
    tables = pd.concat(
        store.read_table(f"runs/nightly/select/{shard:05d}.parquet") for shard in range(3)
    )
    plan = store.read_table("runs/nightly/plan.parquet")
    return tables.merge(plan[["row", "classes"]], on="row").assign(
        faulty=lambda t: t["row"] % FAULTY == 0
    )


def test_held_out_networks_find_the_labels_that_are_off(verdicts: pd.DataFrame) -> None:
    objects = verdicts[(verdicts["classes"].map(len) > 0) & verdicts["agreement"].notna()]
    ranks = rankdata(-objects["score"])
    faulty = objects["faulty"].to_numpy()
    auroc = (ranks[faulty].mean() - (faulty.sum() + 1) / 2) / (~faulty).sum()
    assert auroc > 0.8
    pruned = objects[objects["reason"] == "rank"]
    assert pruned["faulty"].mean() > 2 * objects["faulty"].mean()


def test_each_class_keeps_the_share_that_was_asked_for(verdicts: pd.DataFrame) -> None:
    single = verdicts[(verdicts["classes"].map(len) == 1) & verdicts["agreement"].notna()]
    for _, rows in single.groupby(single["classes"].map(lambda names: names[0])):
        assert rows["keep"].sum() == int(0.8 * len(rows))


def test_pixels_that_the_networks_deny_are_left_out_of_the_label(
    learned_run: Settings, verdicts: pd.DataFrame
) -> None:
    store = Store.open(learned_run.store.url)
    left_out = 0
    for shard in range(3):
        before, after = (
            read_shard(store, f"runs/nightly/{stage}/{shard:05d}", ["label"])[0]["label"]
            for stage in ("refine", "select")
        )
        assert ((after == before) | (after == IGNORE)).all()
        rows = read_shard(store, f"runs/nightly/hold-out/{shard:05d}")[1]["row"]
        assert set(
            verdicts.loc[verdicts["agreement"].notna() & verdicts["row"].isin(rows), "row"]
        ) == set(rows)
        losses = (
            read_shard(store, f"runs/nightly/hold-out/{shard:05d}", ["loss"])[0]["loss"] * LOSS_UNIT
        )
        assert losses.shape[0] == len(rows)
        left_out += int((after == IGNORE).sum())
    assert left_out > 0


def test_a_finished_fold_is_not_trained_again(learned_run: Settings) -> None:
    store = Store.open(learned_run.store.url)
    first, second = (
        f"checkpoints/nightly-{learned_run.identity[:8]}-fold-{fold}" for fold in (0, 1)
    )
    before = store.read_bytes(f"{first}/meta.json")
    assert learn_fold.fn(learned_run, 0) == first
    assert store.read_bytes(f"{first}/meta.json") == before
    learnt = [store.read_json(f"{folder}/meta.json")["samples"] for folder in (first, second)]
    assert sum(learnt) == sum(
        len(store.read_table(f"runs/nightly/hold-out/{shard:05d}.parquet")) for shard in range(3)
    )


def test_a_shard_of_which_nothing_passes_the_screen_is_judged_by_nobody(tmp_path: Path) -> None:
    settings = Settings(
        store={"url": str(tmp_path)},
        classes=CLASSES,
        plan={"images": 4, "multi": 0.0, "negatives": 0.0},
        select={"folds": 2},
    )
    store = Store.open(settings.store.url)
    plan = make_plan(settings, settings.load_vocabulary())
    store.write_bytes("runs/nightly/plan.parquet", stored_plan([plan]))
    rows = plan[["row", "id"]]
    black = np.zeros((4, 8, 8, 3), np.uint8)
    write_shard(
        store,
        "runs/nightly/synthesize/00000",
        {"image": black, "finite": np.ones(4, np.bool_)},
        rows,
    )
    label = np.zeros((4, 8, 8), np.uint8)
    sure = rows.assign(confidence=0.9, consistency=0.9)
    write_shard(store, "runs/nightly/refine/00000", {"label": label}, sure)
    screen.shard(settings, 0)
    assert hold_out.shard(settings, 0).ids == ()
    rank.fn(settings)
    assert read_ranking(store, "runs/nightly").bars == {}
    assert select.shard(settings, 0).stats == {"kept": 0, "rejected": {"black": 4}}
    with pytest.raises(
        ValueError,
        match=r"no sample of the other folds passed the screen.*loosen the select settings",
    ):
        learn_fold.fn(settings, 0)
