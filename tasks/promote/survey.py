"""Survey: how well the champion predicts the samples of a night that it was not trained on.

    runs/<run>/survey.json    missing IoU and uncertainty of each surveyed object

Only samples tell on what background an object stands and by what words it was asked for. Their
labels are the pipeline's own, so a survey compares groups of samples and measures no quality. It is
made before the promotion, by the champion of that time: the challenger has learned these samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from prefect import task
from torch.utils.data import Subset

from infra.blocks import open_store
from infra.settings import EvaluateSettings, Settings
from infra.store import Manifest, MissingError, SegmentationDataset, Store, StoreError, read_version
from infra.store.manifest import Positions
from tasks.evaluate.evaluate import inference_of
from tasks.evaluate.measure import TRUTH, Measured, iou_of_counts, measure
from tasks.plan.table import plan_path
from tasks.promote.outcomes import survey_path
from tasks.promote.pointer import read_champion
from tasks.run.layout import version_name
from tasks.run.progress import Report
from tasks.schemas import origin_of
from tasks.train.checkpoints import load_checkpoint, read_meta
from tasks.train.train import class_names

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import Segmenter

__all__ = ["SURVEYED", "survey", "survey_version"]

SURVEYED = 500  # samples, as many as an evaluation reports on by default
_COLUMNS = {"row": "int", "kind": "str", "classes": "list[str]"}


@task(name="survey", task_run_name="survey {version}")
def survey(settings: Settings, version: str) -> bool:
    """Let the champion predict samples of a version, and write the survey to the version's run.

    Returns whether the run has a survey. It has none if there is no champion, or if the champion
    has other classes or saw any of the run's samples. A survey is made once.
    """
    store = open_store(settings.store)
    manifest = read_version(store, version)
    path = survey_path(origin_of(manifest).run)
    if store.exists(path):
        return True
    champion = read_champion(store)
    planned = store.exists(plan_path(origin_of(manifest).run))
    if not (champion and planned and _is_unseen(store, champion["checkpoint"], manifest)):
        return False
    name = champion["checkpoint"]
    objects = survey_version(store, load_checkpoint(store, name), manifest, settings.evaluate)
    store.write_json(path, {"checkpoint": name, "objects": objects})
    return True


def _is_unseen(store: Store, checkpoint: str, manifest: Manifest) -> bool:
    """Return whether a checkpoint has the classes of a version and saw no sample of its run.

    What it started from counts as well. If that was deleted, nobody knows what it saw.
    """
    origin = origin_of(manifest)
    own = version_name(origin.run, origin.identity)
    following: str | None = checkpoint
    known: set[str] = set()
    while following and following not in known:
        known.add(following)
        try:
            meta = read_meta(store, following)
        except MissingError:
            return False
        if tuple(meta["classes"]) != class_names(origin.classes):
            return False
        seen = {meta["version"], *(each["name"] for each in meta.get("versions", []))}
        # a version without some shards has the complete one's name and more
        if manifest.version in seen or any(each.startswith(own) for each in seen):
            return False
        following = (meta.get("start") or {}).get("checkpoint")
    return True


def survey_version(
    store: Store, segmenter: Segmenter, manifest: Manifest, chosen: EvaluateSettings
) -> list[dict[str, Any]]:
    """Return missing IoU (1 - IoU) and uncertainty of objects in up to `SURVEYED` samples.

    The samples are evenly spread over the version; composed ones are left out. Each object has the
    `row` of its sample in the run's plan, and `of`, its class. All objects of a class in an image
    are one. Uncertainty is the mean entropy of the object's pixels (`metrics.entropy`).
    """
    positions, rows = _picked(store, manifest)
    samples = Subset(SegmentationDataset(store.url, manifest.version, store.options), positions)
    with Report("survey", manifest.version, len(rows)) as report:
        found = measure(segmenter, samples, chosen.batch_size, report, inference_of(chosen))
    return _objects(found, rows, segmenter.classes)


def _picked(store: Store, manifest: Manifest) -> tuple[list[int], list[Mapping[str, Any]]]:
    """Return positions in a version of generated samples to survey, and their rows."""
    count = manifest.samples
    wanted = np.linspace(0, count - 1, min(SURVEYED, count)).round().astype(int).tolist()
    places = Positions(manifest.shards.values())
    tables: dict[int, pd.DataFrame] = {}
    positions, rows = [], []
    for position in wanted:
        shard, index = places.find(position)
        if shard not in tables:
            tables[shard] = _table(store, manifest, shard)
        row = tables[shard].iloc[index]
        if row["kind"] != "composed":
            positions.append(position)
            rows.append(row)
    return positions, rows


def _table(store: Store, manifest: Manifest, shard: int) -> pd.DataFrame:
    """Return columns of a shard. Raises `StoreError` for another number of rows than samples."""
    path = f"{manifest.paths[shard]}.parquet"
    table = store.read_table(path, _COLUMNS)
    samples = list(manifest.shards.values())[shard].samples
    if len(table) != samples:
        raise StoreError(
            f"{store.url}/{path} has {len(table)} rows for {samples} samples; `segmint verify` "
            "lists all damage; restore the version"
        )
    return table


def _objects(
    found: Measured, rows: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    iou = iou_of_counts(found.counts)
    objects = []
    for image, row in enumerate(rows):
        for name in [each for each in row["classes"] if each in classes[1:]]:
            index = classes.index(name)
            if pixels := int(found.counts[image, TRUTH, index]):
                missing = 1 - float(iou[image, index])
                uncertain = float(found.entropy[image, index]) / pixels
                one = {"row": int(row["row"]), "of": name}
                objects.append({**one, "missing": missing, "uncertain": uncertain})
    return objects
