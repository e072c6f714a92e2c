"""Select: the tasks that judge a run's samples, shard by shard.

`screen` judges generated samples before noise learning learns from them. `select` gives the final
verdict on generated and on composed samples.

    runs/<run>/screen/<shard>        verdicts, with `select.folds` only
    runs/<run>/select/<shard>        verdicts; with `select.pixel_loss` also the filtered `label`
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.store import read_marker
from tasks.run.progress import Report
from tasks.run.shards import Made, ShardJob, over_shards
from tasks.schemas import Ranking
from tasks.select.judge import drop_high_losses, judge_rows
from tasks.select.ranking import pass_thresholds, read_ranking
from tasks.select.scores import LOSS_UNIT

__all__ = ["screen", "select"]

Labels = NDArray[np.uint8]
_MEASURES = ["row", "id", "confidence", "consistency", "contrast"]


def _screen(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    images, labels, table = _read(job, rows)
    verdicts = _judge(job, images, labels, table)
    return Made({}, verdicts, _counts(verdicts))


def _select(job: ShardJob, rows: pd.DataFrame, report: Report) -> Made:
    """Verdicts of a shard.

    After noise learning, generated samples have to pass the ranking as well. With
    `select.pixel_loss` their labels first lose the pixels of high loss, and are judged as they
    will be published.
    """
    images, labels, table = _read(job, rows)
    settings = job.settings.select
    if not settings.folds or read_marker(job.store, job.path("hold-out")) is None:
        verdicts = _judge(job, images, labels, table)
        return Made({}, verdicts, _counts(verdicts))
    ranking = read_ranking(job.store, f"runs/{job.settings.name}")
    stored, held_out = job.read("hold-out", [] if settings.pixel_loss is None else ["loss"])
    arrays = {}
    if settings.pixel_loss is not None:
        losses = _losses(stored["loss"], held_out, table, labels)
        labels = drop_high_losses(labels, losses, ranking.losses, settings.pixel_loss)
        arrays["label"] = labels
    verdicts = _judge(job, images, labels, table)
    verdicts = _ranked(verdicts, held_out.merge(rows[["row", "classes"]], on="row"), ranking)
    return Made(arrays, verdicts, _counts(verdicts))


def _judge(
    job: ShardJob, images: NDArray[Any], labels: Labels, table: pd.DataFrame
) -> pd.DataFrame:
    ids = job.settings.load_vocabulary().ids
    return judge_rows(images, labels, table, job.settings.select, ids)


def _read(job: ShardJob, rows: pd.DataFrame) -> tuple[NDArray[Any], Labels, pd.DataFrame]:
    """Images, labels and columns of a shard, from the stages that made them."""
    composed = bool((rows["kind"] == "composed").all())
    made, _ = job.read(
        "compose" if composed else "synthesize", ["image"] if composed else ["image", "finite"]
    )
    labelled, columns = job.read("compose" if composed else "refine", ["label"])
    measured = columns.reindex(columns=_MEASURES).assign(
        measured="measured" in columns, finite=made.get("finite", True)
    )
    table = measured.merge(rows[["row", "kind", "classes"]], on="row")
    return made["image"], labelled["label"], table


def _losses(
    stored: NDArray[np.uint8], held_out: pd.DataFrame, table: pd.DataFrame, labels: Labels
) -> NDArray[np.float32]:
    """Held-out loss of every pixel, (B, H, W); 0 for rows that failed the screen."""
    losses = np.zeros(labels.shape, np.float32)
    positions = pd.Index(table["row"]).get_indexer(held_out["row"])
    losses[positions] = stored * np.float32(LOSS_UNIT)
    return losses


def _ranked(verdicts: pd.DataFrame, held_out: pd.DataFrame, ranking: Ranking) -> pd.DataFrame:
    """Verdicts with `agreement` and `quality` of `held_out` rows; quality becomes their score.

    A row that passed every other test and misses the threshold of a class is rejected as "rank".
    """
    passed = pass_thresholds(held_out.assign(score=held_out["quality"]), ranking.bars)
    missed = verdicts["row"].isin(held_out.loc[~passed, "row"])
    scores = held_out.set_index("row")[["agreement", "quality"]]
    found = scores.reindex(verdicts["row"]).reset_index(drop=True)
    return verdicts.assign(
        keep=verdicts["keep"] & ~missed,
        reason=verdicts["reason"].mask(verdicts["keep"] & missed, "rank"),
        score=found["quality"].fillna(verdicts["score"]),
        agreement=found["agreement"],
        quality=found["quality"],
    )


def _counts(verdicts: pd.DataFrame) -> dict[str, Any]:
    reasons = verdicts.loc[~verdicts["keep"], "reason"].value_counts().sort_index()
    return {
        "kept": int(verdicts["keep"].sum()),
        "rejected": {name: int(count) for name, count in reasons.items()},
    }


screen = over_shards("screen", _screen)
select = over_shards("select", _select)
