"""Noise learning: what networks that never saw a sample predict for it (DiffuMask, section 3.4).

The run's screened samples are divided into folds by their row. One network per fold is trained on
the other folds and then predicts the samples of its own. A label that this network would also have
given is probably right.

    checkpoints/<run>-<identity>-fold-<fold>/   the networks, meta.json last
    runs/<run>/hold-out/<shard>                 `loss`, `predicted` label and scores of samples
    runs/<run>/ranking.json                     threshold of each class, mean loss of each label id
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from prefect import task

from infra.blocks import open_store
from infra.clusters import gpu_slot
from infra.settings import Settings, TrainSettings
from infra.store import Store, check_marker
from tasks.run.layout import version_name
from tasks.run.progress import Report
from tasks.run.shards import Made, ShardJob, over_shards
from tasks.schemas import Ranking
from tasks.select.ranking import Scores
from tasks.select.scores import LOSS_UNIT, image_scores, pixel_losses
from tasks.select.screened import Screened, columns_of, passed_rows, paths_of, screened_rows
from tasks.train.checkpoints import load_folder
from tasks.train.recipe import recipe_of
from tasks.train.train import TrainingJob, class_names, finish_training, report_steps

if TYPE_CHECKING:
    from models.segmenters import TrainingRecipe  # torch and mmseg: seconds

__all__ = ["hold_out", "learn_fold", "rank"]

_PLACED = ["shard", "place", "fold"]  # columns of a screened row that training needs

Batch = tuple[pd.DataFrame, NDArray[np.float32]]


def fold_folder(settings: Settings, fold: int) -> str:
    """Folder in the store of the network that judges a fold."""
    return f"checkpoints/{version_name(settings.name, settings.identity)}-fold-{fold}"


@task(name="learn-fold", task_run_name="learn-fold {fold}")
def learn_fold(settings: Settings, fold: int) -> str:
    """Train the network that judges this fold on all others, unless stored; return its folder.

    The network, batch size and learning rate are the defaults of `TrainSettings`, not those of the
    run: a run may train another segmenter without becoming another dataset. It trains on one GPU:
    folds can train side by side.
    """
    store = open_store(settings.store)
    folder = fold_folder(settings, fold)
    if store.exists(f"{folder}/meta.json"):
        return folder
    samples = _other_folds(store, settings, fold)
    recipe = _recipe(settings)
    with gpu_slot(settings.compute), Report("learn-fold", str(fold), recipe.steps) as report:
        job = TrainingJob(samples, class_names(settings.load_vocabulary().ids), recipe)
        origin = {"fold": fold, "samples": len(samples)}
        finish_training(store, folder, job, origin, progress=report_steps(report))
    return folder


def _recipe(settings: Settings) -> TrainingRecipe:
    """The default training, without pasted objects: a network learns each label as it is."""
    steps = settings.select.fold_steps
    train = TrainSettings().model_copy(update={"steps": steps, "paste": 0.0})
    recipe = recipe_of(train, settings.seed)
    return replace(recipe, warmup=min(recipe.warmup, steps // 5))


def _other_folds(store: Store, settings: Settings, fold: int) -> Screened:
    """The screened samples of all folds but one. Raises `ValueError` if there are none."""
    none = pd.DataFrame(columns=_PLACED, dtype=np.int64)
    rows = pd.concat([none, *(rows[_PLACED] for rows in screened_rows(store, settings))])
    samples = Screened(store, settings.name, rows[rows["fold"] != fold])
    if not len(samples):
        raise ValueError(
            f"no sample of the other folds passed the screen, so fold {fold} has nothing to learn "
            f"from; fix the generator or loosen the select settings, and use another run name"
        )
    return samples


def _screened_of_shard(job: ShardJob) -> pd.DataFrame:
    return passed_rows(job.store, job.settings, job.plan.of_shard(job.shard))


def _hold_out(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    """Losses, predictions and scores of screened rows, each by the network of its own fold."""
    images = job.read("synthesize", ["image"])[0]["image"][rows["place"]]
    labels = job.read("refine", ["label"])[0]["label"][rows["place"]]
    ids = job.settings.load_vocabulary().ids
    losses = np.zeros(labels.shape, np.uint8)
    predicted = np.zeros(labels.shape, np.uint8)
    tables = [rows[["row", "id"]].iloc[:0].assign(agreement=0.0, quality=0.0)]
    for batch, found in _predictions(job, rows, images):
        loss = pixel_losses(found, labels[batch.index])
        losses[batch.index] = np.minimum(loss / LOSS_UNIT, 255).round()
        predicted[batch.index] = found.argmax(1)
        classes = [[ids[name] for name in names] for names in batch["classes"]]
        scores = image_scores(found, labels[batch.index], classes)
        tables.append(batch[["row", "id"]].reset_index(drop=True).join(scores))
        report(len(batch))
    table = pd.concat(tables).sort_values("row", ignore_index=True)
    known = [0, *ids.values()]
    return Made({"loss": losses, "predicted": predicted}, table, _sums(losses, labels, known))


def _predictions(job: ShardJob, rows: pd.DataFrame, images: NDArray[np.uint8]) -> Iterator[Batch]:
    """Batches of rows of one fold, with the softmax (B, C, H, W) of that fold's network."""
    from models.segmenters import predict_probabilities  # torch and mmseg: seconds

    size = job.settings.evaluate.batch_size
    for fold, of_fold in rows.groupby("fold"):
        network = load_folder(job.store, fold_folder(job.settings, fold))
        for begin in range(0, len(of_fold), size):
            batch = of_fold.iloc[begin : begin + size]
            pixels = torch.from_numpy(images[batch.index]).permute(0, 3, 1, 2).contiguous()
            yield batch, predict_probabilities(network, pixels).numpy()


def _sums(
    losses: NDArray[np.uint8], labels: NDArray[np.uint8], known: list[int]
) -> dict[str, dict[str, Any]]:
    """Number of pixels and sum of held-out losses of each label value."""
    return {
        "pixels": {str(i): int((labels == i).sum()) for i in known},
        "loss": {str(i): float(losses[labels == i].sum(dtype=np.int64) * LOSS_UNIT) for i in known},
    }


hold_out = over_shards("hold-out", _hold_out, rows=_screened_of_shard, gpu=True)


@task(name="rank", task_run_name="rank")
def rank(settings: Settings) -> None:
    """Write the threshold of each class and the mean held-out loss of each label id.

    A row's score is its quality. Of each class the share `select.keep` with the highest scores
    stays; with "auto" all stay but those far below the others. Agreement, which the paper uses,
    says less about networks that have learnt little: for planted faults that the screen lets
    through, its AUROC is 0.918, that of quality 0.996 (`benchmarks.faults`, 600 steps per fold).
    """
    store = open_store(settings.store)
    scores = Scores()
    loss: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    for rows in screened_rows(store, settings):
        paths = paths_of(settings, "hold-out", rows)
        held_out = rows.merge(columns_of(store, paths, ["row", "quality"]), on="row")
        scores.add(held_out.rename(columns={"quality": "score"}))
        with ThreadPoolExecutor(store.place.readers) as pool:
            for marker in pool.map(lambda path: check_marker(store, path), paths):
                loss.update(marker.stats["loss"])
                pixels.update(marker.stats["pixels"])
    means = {int(label): loss[label] / max(1, count) for label, count in pixels.items()}
    ranking = Ranking(bars=scores.thresholds(settings.select.keep), losses=means)
    store.write_json(f"runs/{settings.name}/ranking.json", ranking.model_dump(mode="json"))
