"""Noise learning: what networks that never saw a sample say of its label (DiffuMask, ICCV 2023,
§3.4).

The run's screened samples are dealt into folds by their row. One network a fold is trained on the
other folds; it then predicts the fold's samples. Where it would have given the label, too, the
label is probably right.

    checkpoints/<run>-<identity>-fold-<fold>/   the networks, meta.json last
    runs/<run>/hold-out/<shard>                 `loss`, `predicted` label and the scores of a shard's samples
    runs/<run>/ranking.json                     the bar of each class, and the mean loss of each label id
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from prefect import task
from torch.utils.data import Dataset

from infra.blocks import open_store
from infra.clusters import gpu_slot
from infra.settings import Settings
from infra.store import (
    Marker,
    ShardReader,
    Store,
    check_marker,
    read_marker,
    read_shard,
    write_shard,
)
from infra.store.tables import as_frame
from models.metrics import IGNORE
from tasks.plan.table import Plan
from tasks.run.progress import Report
from tasks.run.stages import over_shards
from tasks.schemas import Ranking
from tasks.select.judge import LOSS_UNIT
from tasks.select.ranking import Scores
from tasks.train.checkpoints import load_folder
from tasks.train.train import TrainingJob, class_names, finish_training, report_steps

__all__ = [
    "Screened",
    "hold_out",
    "hold_out_shard",
    "image_scores",
    "learn_fold",
    "pixel_losses",
    "rank",
]

_PLANNED = ["row", "id", "kind", "classes", "shard"]  # columns of the plan that are needed here
_PLACED = ["shard", "place", "fold"]  # and of a screened sample for training
_TEMPERATURE = 0.1  # of the soft minimum over pixels; cleanlab's for segmentation


def pixel_losses(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Cross-entropy (B, H, W) of labels under softmax (B, C, H, W); 0 where the label is 255."""
    index = np.where(labels == IGNORE, 0, labels).astype(np.int64)[:, None]
    chosen = np.take_along_axis(probabilities, index, 1)[:, 0]
    return np.where(labels == IGNORE, 0, -np.log(np.maximum(chosen, 1e-12))).astype(np.float32)


def image_scores(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], classes: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """How far each label (B, H, W) is to be trusted given held-out softmax (B, C, H, W); columns in
    [0, 1].

    `agreement`: IoU of label and prediction, the least over the row's label ids `classes` (a row
    without any: share of pixels predicted as background). `quality`: cleanlab's soft minimum over
    pixels of the label's own probability. Pixels of 255 count for neither.
    """
    predicted, counted = probabilities.argmax(1), labels != IGNORE
    agreement = [
        min(
            (_iou(p[c] == i, label[c] == i) for i in ids),
            default=float((p[c] == 0).mean()) if c.any() else 0.0,
        )
        for p, label, c, ids in zip(predicted, labels, counted, classes, strict=True)
    ]
    own = np.exp(-pixel_losses(probabilities, labels)).reshape(len(labels), -1)
    weight = np.exp((1 - own) / _TEMPERATURE) * counted.reshape(len(labels), -1)
    quality = (weight * own).sum(1) / np.maximum(weight.sum(1), 1e-12)
    return pd.DataFrame({"agreement": agreement, "quality": quality})


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


class Screened(Dataset[dict[str, Any]]):
    """Images and labels of a run's screened rows, read from their shards one by one; items as
    `LabelledItem`.

    `rows` holds `shard` and `place` (position in the shard), in the order of the items.
    """

    def __init__(self, store: Store, run: str, rows: pd.DataFrame) -> None:
        self._store, self._run = store, run
        self._where = rows[["shard", "place"]].to_numpy(np.int64)
        self._readers: dict[str, ShardReader] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, place = self._where[index]
        image = self._reader(f"synthesize/{shard:05d}").read("image", place)
        label = self._reader(f"refine/{shard:05d}").read("label", place)
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return {"image": pixels, "label": torch.from_numpy(label), "id": f"{shard}:{place}"}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def _reader(self, path: str) -> ShardReader:
        if path not in self._readers:
            self._readers[path] = ShardReader(self._store, f"runs/{self._run}/{path}")
        return self._readers[path]


def _screened(store: Store, settings: Settings) -> Iterator[pd.DataFrame]:
    """Generated rows that passed the screen, as `_passed` has them, a group of whole shards at a
    time.
    """
    for table in Plan(store, settings).columns(_PLANNED):
        rows = as_frame(table)
        rows = rows[rows["kind"] != "composed"]
        if len(rows) and len(passed := _passed(store, settings, rows)):
            yield passed


def _passed(store: Store, settings: Settings, rows: pd.DataFrame) -> pd.DataFrame:
    """Of whole shards' rows those that passed the screen:

    `row`, `id`, `classes`, `shard`, `place` in it, `fold`.
    """
    verdicts = _tables(store, _shards(settings, "screen", rows), ["row", "keep"])
    rows = rows[["row", "id", "classes", "shard"]].assign(place=rows.groupby("shard").cumcount())
    rows = rows.merge(verdicts, on="row")
    rows = rows[rows["keep"]].drop(columns="keep").sort_values("row", ignore_index=True)
    return rows.assign(fold=rows["row"] % settings.select.folds)


def _shards(settings: Settings, stage: str, rows: pd.DataFrame) -> list[str]:
    """Paths of a stage's shards that hold these rows."""
    return [f"runs/{settings.name}/{stage}/{shard:05d}" for shard in rows["shard"].unique()]


def _tables(store: Store, shards: Sequence[str], columns: list[str]) -> pd.DataFrame:
    """These columns of the shards at these paths, as one table."""
    with ThreadPoolExecutor(store.place.readers) as pool:
        return pd.concat(
            pool.map(lambda shard: store.read_table(f"{shard}.parquet")[columns], shards)
        )


def _folder(settings: Settings, fold: int) -> str:
    return f"checkpoints/{settings.name}-{settings.identity[:8]}-fold-{fold}"


@task(name="learn-fold", task_run_name="learn-fold-{fold}")
def learn_fold(settings: Settings, fold: int) -> str:
    """Train the network that judges this fold on all the others, unless it is in the store; return
    its folder.
    """
    from models.segmenters import TrainingRecipe

    store, folder = open_store(settings.store), _folder(settings, fold)
    if store.exists(f"{folder}/meta.json"):
        return folder
    rows = pd.concat(
        [
            pd.DataFrame(columns=_PLACED, dtype=np.int64),
            *(r[_PLACED] for r in _screened(store, settings)),
        ]
    )
    samples = Screened(store, settings.name, rows[rows["fold"] != fold])
    if not len(samples):
        raise ValueError(
            f"no sample of the other folds passed the screen, so fold {fold} has nothing to learn from; "
            f"mend the generator or loosen the select settings, and take another name"
        )
    # not the settings' recipe: that may change without making another dataset
    steps = settings.select.fold_steps
    recipe = TrainingRecipe(steps=steps, warmup=min(100, steps // 5), seed=settings.seed % 2**32)
    with gpu_slot(settings.compute), Report("learn-fold", str(fold), recipe.steps) as report:
        names = class_names(settings.load_vocabulary().ids)
        origin = {"fold": fold, "samples": len(samples)}
        job = TrainingJob(samples, names, recipe)
        finish_training(store, folder, job, origin, progress=report_steps(report))
    return folder


def hold_out_shard(settings: Settings, shard: int) -> Marker:
    """Judge one shard's screened samples, each by the network of its own fold, unless that is in
    the store.
    """
    from models.segmenters import predict_probabilities

    store, run = open_store(settings.store), f"runs/{settings.name}"
    path = f"{run}/hold-out/{shard:05d}"
    if (marker := read_marker(store, path)) is not None:
        return marker
    start = time.monotonic()
    rows = _passed(store, settings, Plan(store, settings).of_shard(shard))
    images = read_shard(store, f"{run}/synthesize/{shard:05d}", ["image"])[0]["image"][
        rows["place"]
    ]
    labels = read_shard(store, f"{run}/refine/{shard:05d}", ["label"])[0]["label"][rows["place"]]
    ids, tables = (
        settings.load_vocabulary().ids,
        [rows[["row", "id"]].iloc[:0].assign(agreement=0.0, quality=0.0)],
    )
    losses, predicted = np.zeros(labels.shape, np.uint8), np.zeros(labels.shape, np.uint8)
    with gpu_slot(settings.compute), Report("hold-out", f"{shard:05d}", len(rows)) as report:
        for fold, of_fold in rows.groupby("fold"):
            network = load_folder(store, _folder(settings, fold))
            for begin in range(0, len(of_fold), settings.evaluate.batch_size):
                batch = of_fold.iloc[begin : begin + settings.evaluate.batch_size]
                pixels = torch.from_numpy(images[batch.index]).permute(0, 3, 1, 2).contiguous()
                found = predict_probabilities(network, pixels).numpy()
                loss = pixel_losses(found, labels[batch.index])
                losses[batch.index] = np.minimum(loss / LOSS_UNIT, 255).round()
                predicted[batch.index] = found.argmax(1)
                classes = [[ids[name] for name in names] for names in batch["classes"]]
                scores = image_scores(found, labels[batch.index], classes)
                tables.append(batch[["row", "id"]].reset_index(drop=True).join(scores))
                report(len(batch))
    table = pd.concat(tables).sort_values("row", ignore_index=True)
    known = [0, *ids.values()]
    stats = {
        "pixels": {str(i): int((labels == i).sum()) for i in known},
        "loss": {str(i): float(losses[labels == i].sum(dtype=np.int64) * LOSS_UNIT) for i in known},
    }
    arrays = {"loss": losses, "predicted": predicted}
    return write_shard(store, path, arrays, table, stats, time.monotonic() - start)


@task(name="rank")
def rank(settings: Settings) -> None:
    """Write by what the run's screened rows are judged: a bar a class, and each label id's mean
    held-out loss.

    A row's score is its quality; of each class the share `select.keep` with the highest stays, or
    with "auto" all but those far below the others. Agreement, the paper's choice, tells less of
    networks that have learnt little: planted faults that the screen lets through have AUROC 0.51
    after 600 steps a fold and 0.92 after 2 400, by quality 0.95 and 0.99 (`benchmarks.faults`).
    """
    store, scores, loss, pixels = (
        open_store(settings.store),
        Scores(),
        Counter[str](),
        Counter[str](),
    )
    for rows in _screened(store, settings):
        shards = _shards(settings, "hold-out", rows)
        judged = rows.merge(_tables(store, shards, ["row", "quality"]), on="row")
        scores.add(judged.rename(columns={"quality": "score"}))
        with ThreadPoolExecutor(store.place.readers) as pool:
            for marker in pool.map(lambda shard: check_marker(store, shard), shards):
                loss.update(marker.stats["loss"])
                pixels.update(marker.stats["pixels"])
    means = {int(label): loss[label] / max(1, count) for label, count in pixels.items()}
    ranking = Ranking(bars=scores.bars(settings.select.keep), losses=means)
    store.write_json(f"runs/{settings.name}/ranking.json", ranking.model_dump(mode="json"))


hold_out = over_shards("hold-out", hold_out_shard)
