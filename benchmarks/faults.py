"""Does selection find labels that are wrong? Drawn scenes with exact labels, a tenth of them
spoiled, in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.claims import CACHE, Claim, Size, run
from infra.settings import Settings
from infra.store import Store, read_marker, read_shard, write_shard
from models.embedded import world
from tasks.plan.rows import make_plan
from tasks.select.judge import screen_shard, select_shard
from tasks.select.noise_learning import hold_out_shard, learn_fold, rank

SHARE = 0.1  # of the rows that name a class
SHIFT, DILATION = 10, 4  # pixels of 128
_SIZES = {"quick": (60, 20), "default": (1200, 600), "full": (6000, 6000)}  # rows, steps a fold

Labels = NDArray[np.uint8]
Fault = Callable[[Labels, np.random.Generator], Labels]


def swapped(label: Labels, rng: np.random.Generator) -> Labels:
    """One class under another's name."""
    old = rng.choice(_classes(label))
    new = rng.choice(
        [i for i in range(1, len(world.vocabulary()["classes"]) + 1) if i not in _classes(label)]
    )
    return np.where(label == old, np.uint8(new), label)


def shifted(label: Labels, rng: np.random.Generator) -> Labels:
    """All of it moved, to one of four sides."""
    rows, columns = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])[rng.integers(4)] * SHIFT
    padded = np.pad(label, SHIFT)[SHIFT - rows :, SHIFT - columns :]
    return padded[: label.shape[0], : label.shape[1]]


def dilated(label: Labels, rng: np.random.Generator) -> Labels:
    """Every object wider."""
    return np.asarray(
        cv2.dilate(label, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * DILATION + 1,) * 2))
    )


def missing(label: Labels, rng: np.random.Generator) -> Labels:
    """One class not labelled at all."""
    return np.where(label == rng.choice(_classes(label)), np.uint8(0), label)


FAULTS: tuple[Fault, ...] = (swapped, shifted, dilated, missing)


def _classes(label: Labels) -> list[int]:
    return [int(i) for i in np.unique(label) if i]


def main(size: Size) -> list[Claim]:
    images, steps = _SIZES[size]
    settings = Settings(
        name=f"faults-{size}",
        seed=99,
        store={"url": str(CACHE / "store")},
        plan={"images": images, "multi": 0.4, "negatives": 0.05, "shard_size": 100},
        select={"folds": 3, "fold_steps": steps, "keep": 0.9, "pixel_loss": 4.0},
    )
    store, run_name = Store.open(settings.store.url), f"runs/{settings.name}"
    plan = make_plan(settings, settings.load_vocabulary())
    store.write_table(f"{run_name}/plan.parquet", plan)
    truth, planted = plant(store, run_name, plan)
    shards = sorted(int(shard) for shard in plan["shard"].unique())
    folds = range(settings.select.folds)
    for stage, numbers in (
        (screen_shard, shards),
        (learn_fold.fn, folds),
        (hold_out_shard, shards),
    ):
        for number in numbers:
            stage(settings, number)
            print(f"{stage.__name__} {number} done", flush=True)
    rank.fn(settings)
    for shard in shards:
        select_shard(settings, shard)
    verdicts = pd.concat(
        store.read_table(f"{run_name}/select/{shard:05d}.parquet") for shard in shards
    )
    # what the screen turned down was found out at once
    score = verdicts.set_index("row")["score"].where(
        verdicts.set_index("row")["reason"].isin(["", "rank"]), 0.0
    )
    named = plan.loc[plan["classes"].map(len) > 0, "row"]
    faulty = planted.reindex(named).notna().to_numpy()
    for fault in FAULTS:
        chosen = np.asarray(~faulty | (planted.reindex(named) == fault.__name__))
        found = auroc(-score[named[chosen]], faulty[chosen])
        print(
            f"{fault.__name__}: {int((planted == fault.__name__).sum())} planted, AUROC {found:.3f}"
        )
    return [
        Claim(
            "planted faults by the selection's score, AUROC",
            auroc(-score[named], faulty),
            ">= 0.95",
        ),
        Claim(
            "wrong pixels by their held-out loss, AUROC",
            pixels_found(store, run_name, shards, truth),
            ">= 0.85",
        ),
    ]


def plant(store: Store, run_name: str, plan: pd.DataFrame) -> tuple[dict[int, Labels], pd.Series]:
    """Write drawn images with their labels, of which some are spoiled; returns exact labels and
    faults, by row.
    """
    rng, truth, planted = np.random.default_rng(0), {}, {}
    for shard, rows in plan.groupby("shard"):
        images, labels = [], []
        for row in rows.itertuples():
            scene = world.sample_scene(np.random.default_rng(row.seed), row.classes, row.background)
            drawing = world.draw_scene(scene)
            label = truth[row.row] = drawing.label
            if _classes(label) and rng.random() < SHARE:
                able = FAULTS if len(_classes(label)) > 1 else FAULTS[:-1]
                fault = able[rng.integers(len(able))]
                planted[row.row], label = fault.__name__, fault(label, rng)
            images.append(drawing.image)
            labels.append(label)
        table = rows[["row", "id"]]
        write(
            store,
            f"{run_name}/synthesize/{shard:05d}",
            table,
            image=images,
            finite=[True] * len(rows),
        )
        scored = table.assign(confidence=1.0, consistency=1.0)
        write(store, f"{run_name}/refine/{shard:05d}", scored, label=labels)
    return truth, pd.Series(planted)


def write(store: Store, path: str, table: pd.DataFrame, **fields: list[object]) -> None:
    """A shard, unless an earlier run of the benchmark wrote it."""
    if read_marker(store, path) is None:
        write_shard(store, path, {name: np.stack(values) for name, values in fields.items()}, table)


def pixels_found(
    store: Store, run_name: str, shards: Iterable[int], truth: dict[int, Labels]
) -> float:
    """AUROC of the held-out loss over all pixels of screened rows, wrong ones against right ones."""
    losses, wrong = [], []
    for shard in shards:
        arrays, rows = read_shard(store, f"{run_name}/hold-out/{shard:05d}", ["loss"])
        labels, labelled = read_shard(store, f"{run_name}/refine/{shard:05d}", ["label"])
        places = pd.Index(labelled["row"]).get_indexer(rows["row"])
        losses.append(arrays["loss"].ravel())
        wrong.append(
            (labels["label"][places] != np.stack([truth[row] for row in rows["row"]])).ravel()
        )
    return auroc(np.concatenate(losses), np.concatenate(wrong))


def auroc(scores: NDArray[np.floating] | pd.Series, positive: NDArray[np.bool_]) -> float:
    """Chance that a positive has the higher score of two, ties counting half."""
    ranks, count = rankdata(scores), int(positive.sum())
    return float((ranks[positive].mean() - (count + 1) / 2) / (len(positive) - count))


if __name__ == "__main__":
    run("faults", main)
