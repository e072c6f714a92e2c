"""Does noise learning find wrong labels that the screen lets through?

A run gets drawn scenes with exact labels, a tenth of them spoiled. Its plan agrees with the spoiled
labels: it names the wrong class, and does not name one that has no label. So no test of a sample by
itself can see a swapped or a missing class. Only samples that pass the screen count. Noise learning
has its default settings.

Two baselines without a network stand beside each figure: the image's gradient along the label's
edge, for samples; closeness to the label's edge, for pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.claims import CACHE, Claim, Size, run
from benchmarks.sources import TRAINING, Code, key
from infra.settings import Settings
from infra.store import Store, read_marker, read_shard, write_shard
from models.embedded import world
from tasks.plan.rows import make_plan
from tasks.plan.table import stored_plan
from tasks.run.layout import shard_path
from tasks.select.noise_learning import hold_out, learn_fold, rank
from tasks.select.select import screen, select

SHARE = 0.1  # of the rows that name a class
SHIFT = 10  # pixels of 128
DILATION = 4  # pixels of 128
FOLDS = 3
IMAGES = {"quick": 60, "default": 1200, "full": 6000}
STEPS = {"quick": 20, "full": 6000}  # per fold; the default size takes the settings' own number
SHARD = 100  # rows
CODE = Code(
    (
        "benchmarks.faults",
        "tasks.select.noise_learning",
        "tasks.select.select",
        *TRAINING.modules,
    ),
    within=(*TRAINING.within, "tasks.select"),
)

Labels = NDArray[np.uint8]
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Spoiled:
    """A label with a fault, and the class ids that the plan names to agree with it."""

    label: Labels
    classes: list[int]


Fault = Callable[[Labels, np.random.Generator], Spoiled]


def swapped(label: Labels, rng: np.random.Generator) -> Spoiled:
    """One class under another's name, which the plan gives as well."""
    old = rng.choice(_classes(label))
    count = len(world.vocabulary()["classes"])
    new = rng.choice([i for i in range(1, count + 1) if i not in _classes(label)])
    return _agreeing(np.where(label == old, np.uint8(new), label))


def shifted(label: Labels, rng: np.random.Generator) -> Spoiled:
    """All of the label moved to one of four sides."""
    down, right = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])[rng.integers(4)] * SHIFT
    padded = np.pad(label, SHIFT)[SHIFT - down :, SHIFT - right :]
    moved = padded[: label.shape[0], : label.shape[1]]
    return Spoiled(moved, _classes(label))


def dilated(label: Labels, rng: np.random.Generator) -> Spoiled:
    """Every object wider."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * DILATION + 1,) * 2)
    return Spoiled(np.asarray(cv2.dilate(label, disc)), _classes(label))


def missing(label: Labels, rng: np.random.Generator) -> Spoiled:
    """One of several classes without a label, and not named by the plan either."""
    return _agreeing(np.where(label == rng.choice(_classes(label)), np.uint8(0), label))


FAULTS: tuple[Fault, ...] = (swapped, shifted, dilated, missing)


def _classes(label: Labels) -> list[int]:
    return [int(i) for i in np.unique(label) if i]


def _agreeing(label: Labels) -> Spoiled:
    return Spoiled(label, _classes(label))


@dataclass(frozen=True)
class Planted:
    """Everything known of the planted run, by row: images, exact labels, stored labels, and the
    name of the fault, "" where there is none.
    """

    images: dict[int, Images]
    truth: dict[int, Labels]
    labels: dict[int, Labels]
    faults: pd.Series[str]


def main(size: Size) -> list[Claim]:
    settings = settings_of(size)
    store = Store.open(settings.store.url)
    plan = make_plan(settings, settings.load_vocabulary())
    planted = plant(plan, settings)
    write_run(store, settings, plan, planted)
    shards = sorted(int(shard) for shard in plan["shard"].unique())
    judge(settings, shards)
    passed = verdicts_of(store, settings, shards)
    named = plan.loc[plan["classes"].map(len) > 0, "row"]
    passed = passed[passed.index.isin(named)]
    return [
        Claim(
            "faults that the screen lets through, by the selection's score, AUROC",
            samples_found(passed["score"], planted),
            ">= 0.98",
        ),
        Claim(
            "wrong pixels of the same samples, by their held-out loss, AUROC",
            pixels_found(store, settings, shards, planted),
            ">= 0.95",
        ),
    ]


def settings_of(size: Size) -> Settings:
    """Return the settings of a run that no other code has made a part of."""
    learning = {"folds": FOLDS} | ({"fold_steps": STEPS[size]} if size in STEPS else {})
    settings = Settings(
        seed=99,
        store={"url": str(CACHE / "store")},
        plan={"images": IMAGES[size], "multi": 0.4, "negatives": 0.05, "shard_size": SHARD},
        select=learning,
    )
    made_by = key(settings.identity, code=CODE.digest())
    return settings.model_copy(update={"name": f"faults-{size}-{made_by}"})


def plant(plan: pd.DataFrame, settings: Settings) -> Planted:
    """Draw the plan's rows and spoil some of the labels; sets `classes` in the plan accordingly."""
    rng = np.random.default_rng(0)
    names = {number: name for name, number in settings.load_vocabulary().ids.items()}
    images: dict[int, Images] = {}
    truth: dict[int, Labels] = {}
    labels: dict[int, Labels] = {}
    faults: dict[int, str] = {}
    for index, row in enumerate(plan.itertuples()):
        scene = world.sample_scene(np.random.default_rng(row.seed), row.classes, row.background)
        drawing = world.draw_scene(scene)
        images[row.row] = drawing.image
        truth[row.row] = labels[row.row] = drawing.label
        present = _classes(drawing.label)
        if present and rng.random() < SHARE:
            able = FAULTS if len(present) > 1 else FAULTS[:-1]
            fault = able[rng.integers(len(able))]
            spoiled = fault(drawing.label, rng)
            labels[row.row] = spoiled.label
            faults[row.row] = fault.__name__
            plan.at[index, "classes"] = [names[number] for number in spoiled.classes]
    return Planted(images, truth, labels, pd.Series(faults, plan["row"], dtype=str).fillna(""))


def write_run(store: Store, settings: Settings, plan: pd.DataFrame, planted: Planted) -> None:
    """Write plan, images and labels as a run's first stages do; finished shards stay."""
    store.write_bytes(f"runs/{settings.name}/plan.parquet", stored_plan([plan]))
    for shard, rows in plan.groupby("shard"):
        number = int(shard)
        table = rows[["row", "id"]]
        images = np.stack([planted.images[row] for row in rows["row"]])
        labels = np.stack([planted.labels[row] for row in rows["row"]])
        generated = {"image": images, "finite": np.ones(len(rows), np.bool_)}
        scored = table.assign(confidence=1.0, consistency=1.0)
        for stage, arrays, columns in (
            ("synthesize", generated, table),
            ("refine", {"label": labels}, scored),
        ):
            path = shard_path(settings.name, stage, number)
            if read_marker(store, path) is None:
                write_shard(store, path, arrays, columns)


def judge(settings: Settings, shards: list[int]) -> None:
    """Run the stages from the screen to the selection; what is in the store is not made again."""
    screen.fn(settings, shards)
    for fold in range(settings.select.folds):
        learn_fold.fn(settings, fold)
        print(f"network of fold {fold} trained", flush=True)
    hold_out.fn(settings, shards)
    rank.fn(settings)
    select.fn(settings, shards)


def verdicts_of(store: Store, settings: Settings, shards: list[int]) -> pd.DataFrame:
    """Return the verdicts on the rows that the screen lets through, by row."""
    tables = [
        store.read_table(f"{shard_path(settings.name, 'select', shard)}.parquet")
        for shard in shards
    ]
    verdicts = pd.concat(tables).set_index("row")
    return verdicts[verdicts["reason"].isin(["", "rank"])]


def samples_found(score: pd.Series[float], planted: Planted) -> float:
    """Print the AUROC of each fault, and the baseline's; return that of all of them."""
    edges = pd.Series(
        {row: edge_gradient(planted.images[row], planted.labels[row]) for row in score.index}
    )
    faults = planted.faults[score.index]
    for fault in FAULTS:
        counted = faults.isin(["", fault.__name__])
        is_faulty = (faults[counted] != "").to_numpy()
        total = int((planted.faults == fault.__name__).sum())
        print(f"{fault.__name__}: {is_faulty.sum()} of {total} pass the screen", flush=True)
        if is_faulty.any():
            by_score = auroc(-score[counted], is_faulty)
            by_edge = auroc(-edges[counted], is_faulty)
            print(f"  AUROC {by_score:.3f}, gradient along the edge {by_edge:.3f}", flush=True)
    is_faulty = (faults != "").to_numpy()
    found = auroc(-score, is_faulty)
    baseline = auroc(-edges, is_faulty)
    print(f"samples: AUROC {found:.3f}, gradient along the edge {baseline:.3f}", flush=True)
    return found


def pixels_found(store: Store, settings: Settings, shards: list[int], planted: Planted) -> float:
    """Print and return the AUROC of the held-out loss, wrong pixels against right ones, over all
    pixels of the rows that pass the screen; print the baseline's.
    """
    losses, near, wrong = [], [], []
    for row, loss in held_out_losses(store, settings, shards):
        losses.append(loss.ravel())
        near.append(-edge_distance(planted.labels[row]).ravel())
        wrong.append((planted.labels[row] != planted.truth[row]).ravel())
    positive = np.concatenate(wrong)
    found = auroc(np.concatenate(losses), positive)
    baseline = auroc(np.concatenate(near), positive)
    print(f"pixels: AUROC {found:.3f}, closeness to the edge {baseline:.3f}", flush=True)
    return found


def held_out_losses(
    store: Store, settings: Settings, shards: list[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield each row that passed the screen, and its stored loss (H, W)."""
    for shard in shards:
        path = shard_path(settings.name, "hold-out", shard)
        arrays, rows = read_shard(store, path, ["loss"])
        yield from zip(rows["row"], arrays["loss"], strict=True)


def edge_gradient(image: Images, label: Labels) -> float:
    """Return the mean gradient of the grey image along the label's edge; inf without an edge."""
    edge = label_edge(label)
    if not edge.any():
        return float("inf")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return float(np.hypot(across, down)[edge].mean())


def edge_distance(label: Labels) -> NDArray[np.float32]:
    """Return each pixel's distance to the label's edge, the image's diagonal if there is none."""
    edge = label_edge(label)
    if not edge.any():
        return np.full(label.shape, np.hypot(*label.shape), np.float32)
    return np.asarray(cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 5))


def label_edge(label: Labels) -> NDArray[np.bool_]:
    """Return the pixels with another label among their eight neighbours."""
    square = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(label, square) != cv2.erode(label, square))


def auroc(scores: NDArray[np.floating] | pd.Series[float], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive has the higher score of two; ties count half."""
    ranks = rankdata(scores)
    count = int(positive.sum())
    return float((ranks[positive].mean() - (count + 1) / 2) / (len(positive) - count))


if __name__ == "__main__":
    run("faults", main)
