"""Select: which samples may be published; every rejection has one reason.

Follows DiffuMask's pre-filters and "count, rank, prune" (ICCV 2023, noise learning), and
Free-Mask's rule that only classes count which occur. By itself a sample is judged by its label's
agreement with a second label of the same image; with `select.folds`, `tasks.select.noise_learning`
ranks those that pass by what cross-validated networks predict.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.blocks import open_store
from infra.settings import SelectSettings, Settings
from infra.store import Marker, Store, read_marker, read_shard, write_shard
from models.scenes import IGNORE, components
from tasks.plan.table import Plan
from tasks.run.progress import Report
from tasks.run.stages import over_shards
from tasks.schemas import Ranking
from tasks.select.ranking import clear_bars, read_ranking

__all__ = [
    "LOSS_UNIT",
    "REASONS",
    "Reason",
    "judge_rows",
    "screen",
    "select",
    "sure_labels",
]

Images = NDArray[Any]
Labels = NDArray[np.uint8]

Reason = Literal[
    "nan",
    "black",
    "absent",
    "ignored",
    "missing class",
    "area",
    "components",
    "confidence",
    "disagreement",
    "rank",
]
REASONS: dict[Reason, str] = {  # the first that holds is given
    "nan": "the model gave numbers that are not finite",
    "black": "the image is black or of one colour",
    "absent": "a phrase of the prompt is attended to everywhere alike: what it names is not to be seen",
    "ignored": "too much of the label is unsure",
    "missing class": "a class of the prompt has no pixel",
    "area": "a class of the prompt is too small, the foreground too large, or there is one in a row without classes",
    "components": "a class lies in too many pieces, or its largest piece is a small part of it",
    "confidence": "the labelled pixels are too uncertain",
    "disagreement": "a second label of the same image is too different",
    "rank": "a network that did not see it trusts the labels of others of its class more",
}

SPECK = 0.001  # of the image; smaller pieces are not counted
BLACK = 8  # brightest 8-bit level of an image that counts as black
LOSS_UNIT = (
    1 / 32
)  # of stored held-out losses: 255 stands for 8 and more, probabilities under 0.0004
FLAT = (
    3  # 8-bit levels that each channel of a blank image spans at most; drawn snow spans 14 and more
)


def judge_rows(
    images: Images,
    labels: Labels,
    table: pd.DataFrame,
    settings: SelectSettings,
    ids: Mapping[str, int],
) -> pd.DataFrame:
    """Verdicts on images (B, H, W, 3), 0..255, with labels (B, H, W), one row each.

    `table` holds `row`, `id`, `kind` and `classes` as planned (no classes: a negative),
    `confidence` and `consistency` in [0, 1] and perhaps `finite` (False: the model gave NaN) and
    `contrast` (NaN: not measured); `ids` the label value of each name. The pieces of composed rows
    are not judged, since their sources' were. Returned: `row`, `id`, `keep`, `reason` (one of
    `REASONS`, "" if kept), `score` (confidence x consistency, 1 for negatives), `confidence`,
    `consistency`, `coverage` and `ignored` (shares of the image), `components` and `largest` (of
    the worst class). Raises `ValueError` for shapes that do not fit and for label values that no
    class has.
    """
    _check(images, labels, table, ids)
    planned = _planned(table["classes"], ids)
    columns = table[["row", "id", "confidence", "consistency"]].reset_index(drop=True)
    columns = columns.join(_measure(labels, planned))
    failed = _failures(images, table, columns, settings, np.asarray(~planned.any(1)))
    reasons = np.array(["", *failed])
    first = np.where(np.any([*failed.values()], 0), 1 + np.argmax([*failed.values()], 0), 0)
    score = np.where(planned.any(1), columns["confidence"] * columns["consistency"], 1.0)
    verdict = {"keep": first == 0, "reason": reasons[first], "score": np.nan_to_num(score)}
    return pd.concat(
        [
            columns[["row", "id"]],
            pd.DataFrame(verdict),
            columns.drop(columns=["row", "id", "least"]),
        ],
        axis=1,
    )


def _check(images: Images, labels: Labels, table: pd.DataFrame, ids: Mapping[str, int]) -> None:
    if images.shape != (*labels.shape, 3) or len(labels) != len(table):
        raise ValueError(
            f"images {images.shape}, labels {labels.shape} and a table of {len(table)} rows do not fit: "
            f"(B, H, W, 3), (B, H, W) and B are needed; make the shard again"
        )
    known = np.isin(np.arange(IGNORE + 1), [0, IGNORE, *ids.values()])
    wrong = ~known[labels].reshape(len(labels), -1).all(1)
    if wrong.any():
        index = int(np.argmax(wrong))
        value = int(labels[index][~known[labels[index]]][0])
        raise ValueError(
            f"label of {table['id'].iloc[index]} holds {value}; valid are 0, {IGNORE} and the vocabulary's ids "
            f"{sorted(ids.values())}; make it with this vocabulary"
        )


def _planned(classes: pd.Series, ids: Mapping[str, int]) -> NDArray[np.bool_]:
    """Which label values each row's classes have (B, 256)."""
    planned = np.zeros((len(classes), IGNORE + 1), np.bool_)
    for row, names in enumerate(classes):
        planned[row, [ids[name] for name in names]] = True
    return planned


def _measure(labels: Labels, planned: NDArray[np.bool_]) -> pd.DataFrame:
    """Coverage, ignored share, least share of a planned class, and pieces."""
    batch, pixels = len(labels), labels[0].size if len(labels) else 1
    flat = labels.reshape(batch, -1) + (IGNORE + 1) * np.arange(batch)[:, None]
    shares = np.bincount(flat.ravel(), minlength=batch * (IGNORE + 1)).reshape(batch, -1) / pixels
    least = np.where(planned, shares, np.inf).min(1)
    pieces = [_pieces(label) for label in labels]
    return pd.DataFrame(
        {
            "coverage": shares[:, 1:IGNORE].sum(1),
            "ignored": shares[:, IGNORE],
            "least": least,
            "components": np.array([count for count, _ in pieces], np.int64),
            "largest": np.array([share for _, share in pieces], np.float64),
        }
    )


def _pieces(label: Labels) -> tuple[int, float]:
    """Pieces, specks left out, of the class that has most, and the least share of a class in its
    largest piece.
    """
    areas: dict[int, list[int]] = {}
    for component in components(label):
        areas.setdefault(component.class_id, []).append(component.area)
    counts = [sum(area >= SPECK * label.size for area in of_class) for of_class in areas.values()]
    return max(counts, default=0), min((max(a) / sum(a) for a in areas.values()), default=1.0)


def _failures(
    images: Images,
    table: pd.DataFrame,
    measured: pd.DataFrame,
    settings: SelectSettings,
    negative: NDArray[np.bool_],
) -> dict[Reason, NDArray[np.bool_]]:
    """Which rows fail which test, the tests in the order of `REASONS`."""
    finite = table["finite"].to_numpy(bool) if "finite" in table else np.ones(len(table), np.bool_)
    brightest, darkest = (
        extreme((1, 2)).astype(np.float64) for extreme in (images.max, images.min)
    )  # (B, 3)
    contrast = (
        table["contrast"].to_numpy(np.float64)
        if "contrast" in table
        else np.full(len(table), np.nan)
    )
    low, high = settings.min_area, np.where(negative, 0.0, settings.max_area)
    value = {name: measured[name].to_numpy() for name in measured.columns}
    failed: dict[Reason, Any] = {
        "nan": ~finite | ~np.isfinite(images).all((1, 2, 3)),
        "black": (brightest <= BLACK).all(1) | (brightest - darkest <= FLAT).all(1),
        "absent": ~negative & (contrast < settings.min_contrast),
        "ignored": value["ignored"] > settings.max_ignored,
        "missing class": value["least"] == 0,
        "area": (value["least"] < low) | (value["coverage"] > high),
        "components": (table["kind"] != "composed").to_numpy()
        & (
            (value["components"] > settings.max_components)
            | (value["largest"] < settings.min_largest)
        ),
        "confidence": ~negative & ~(value["confidence"] >= settings.min_confidence),  # NaN fails
        "disagreement": ~negative & ~(value["consistency"] >= settings.min_consistency),
    }
    return {
        reason: np.asarray(failed[reason], np.bool_)
        for reason in get_args(Reason)
        if reason in failed
    }


def sure_labels(
    labels: Labels, losses: NDArray[np.floating[Any]], means: Mapping[int, float], multiple: float
) -> Labels:
    """Labels (B, H, W) with 255 where a pixel's held-out loss is over `multiple` times its class's
    mean.

    FreeMask's filter (NeurIPS 2023, section 3.3), with the run's own held-out samples in place of
    real ones.
    """
    bound = np.full(IGNORE + 1, np.inf)
    bound[list(means)] = [multiple * mean for mean in means.values()]
    return np.where(losses > bound[labels], np.uint8(IGNORE), labels)


def screen_shard(settings: Settings, shard: int) -> Marker:
    """Judge each of one generated shard's samples by itself, before folds learn from them; or find
    that done.
    """
    store, path = _place(settings, "screen", shard)
    if (marker := read_marker(store, path)) is not None:
        return marker
    start = time.monotonic()
    _, verdicts = _judge(store, settings, shard, Plan(store, settings).of_shard(shard), "screen")
    return write_shard(store, path, {}, verdicts, _count(verdicts), time.monotonic() - start)


def select_shard(settings: Settings, shard: int) -> Marker:
    """Judge one shard's samples, generated or composed, unless that is in the store.

    After noise learning the ranking has its say on generated ones, and `label` is there again
    without the pixels of high loss.
    """
    store, path = _place(settings, "select", shard)
    if (marker := read_marker(store, path)) is not None:
        return marker
    start, arrays, rows = time.monotonic(), {}, Plan(store, settings).of_shard(shard)
    labels, verdicts = _judge(store, settings, shard, rows, "select")
    run, multiple = f"runs/{settings.name}", settings.select.pixel_loss
    if settings.select.folds and read_marker(store, f"{run}/hold-out/{shard:05d}") is not None:
        found, judged = read_shard(
            store, f"{run}/hold-out/{shard:05d}", [] if multiple is None else ["loss"]
        )
        ranking = read_ranking(store, run)
        verdicts = _ranked(verdicts, judged.merge(rows[["row", "classes"]], on="row"), ranking)
        if multiple is not None:
            losses = np.zeros(labels.shape, np.float32)
            losses[pd.Index(verdicts["row"]).get_indexer(judged["row"])] = found[
                "loss"
            ] * np.float32(LOSS_UNIT)
            arrays["label"] = sure_labels(labels, losses, ranking.losses, multiple)
    return write_shard(store, path, arrays, verdicts, _count(verdicts), time.monotonic() - start)


def _place(settings: Settings, stage: str, shard: int) -> tuple[Store, str]:
    store = open_store(settings.store)
    return store, f"runs/{settings.name}/{stage}/{shard:05d}"


def _judge(
    store: Store, settings: Settings, shard: int, rows: pd.DataFrame, stage: str
) -> tuple[Labels, pd.DataFrame]:
    """Labels of a shard, whose rows are planned so, and the verdict on each of its samples by
    itself.
    """
    with Report(stage, f"{shard:05d}", len(rows)) as report:
        images, labels, table = _read(store, f"runs/{settings.name}", shard, rows)
        verdicts = judge_rows(
            images, labels, table, settings.select, settings.load_vocabulary().ids
        )
        report(len(verdicts))
    return labels, verdicts


def _count(verdicts: pd.DataFrame) -> dict[str, Any]:
    reasons = verdicts.loc[~verdicts["keep"], "reason"].value_counts().sort_index()
    return {
        "kept": int(verdicts["keep"].sum()),
        "rejected": {name: int(count) for name, count in reasons.items()},
    }


def _ranked(verdicts: pd.DataFrame, judged: pd.DataFrame, ranking: Ranking) -> pd.DataFrame:
    """Verdicts after the ranking, with `agreement` and `quality` of `judged` rows; the latter is
    their score.
    """
    beaten = verdicts["row"].isin(
        judged.loc[~clear_bars(judged.assign(score=judged["quality"]), ranking.bars), "row"]
    )
    found = (
        judged.set_index("row")[["agreement", "quality"]]
        .reindex(verdicts["row"])
        .reset_index(drop=True)
    )
    return verdicts.assign(
        keep=verdicts["keep"] & ~beaten,
        reason=verdicts["reason"].mask(beaten, "rank"),
        score=found["quality"].fillna(verdicts["score"]),
        agreement=found["agreement"],
        quality=found["quality"],
    )


def _read(
    store: Store, run: str, shard: int, rows: pd.DataFrame
) -> tuple[Images, Labels, pd.DataFrame]:
    """Images, labels and columns of a shard, from the stages that made them."""
    composed = bool((rows["kind"] == "composed").all())
    stages = ("compose", "compose") if composed else ("synthesize", "refine")
    paths = [f"{run}/{stage}/{shard:05d}" for stage in stages]
    pictures, _ = read_shard(store, paths[0], ["image"] if composed else ["image", "finite"])
    labels, columns = read_shard(store, paths[1], ["label"])
    measured = columns.reindex(columns=["row", "id", "confidence", "consistency", "contrast"])
    table = measured.merge(rows[["row", "kind", "classes"]], on="row")
    return pictures["image"], labels["label"], table.assign(finite=pictures.get("finite", True))


screen = over_shards("screen", screen_shard)


select = over_shards("select", select_shard)
