"""Train: trains a segmenter on a published version and writes it to the store as a checkpoint.

    checkpoints/<name>/       the network and how it was trained (see `checkpoints`)
    runs/<run>/training.json  the checkpoint's meta.json again, for the report of the version's run

A finished checkpoint is never trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from prefect import task

from infra.blocks import open_store
from infra.clusters import gpu_slot
from infra.settings import Settings
from infra.store import Manifest, SegmentationDataset, Store, read_version
from tasks.run.progress import Report
from tasks.schemas import origin_of
from tasks.train.checkpoints import (
    checkpoint_folder,
    load_checkpoint,
    read_meta,
    snapshots_in,
    write_folder,
)
from tasks.train.naming import checkpoint_name, origin_of_checkpoint, several
from tasks.train.overlap import check_disjoint
from tasks.train.pool import Pool, pool_of
from tasks.train.protocols import SYNTHETIC, Protocol, protocol_of, training_set
from tasks.train.recipe import recipe_of
from tasks.train.start import FINE_TUNING, Start, champion_start, continued, load_start
from tasks.train.versions import Chosen, chosen_versions
from tasks.train.weighting import UNWEIGHTED, Weighting, weighting_of

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from torch.utils.data import Dataset

    from models.segmenters import Segmenter, TrainingRecipe

__all__ = [
    "TrainingJob",
    "class_names",
    "finish_training",
    "report_steps",
    "train",
    "train_on_version",
    "write_to_run",
]

Row = dict[str, float]
# Bytes of a version that each loading process keeps in memory when the store is a bucket: twenty
# thousand samples of 128x128.
KEPT = 1 << 30


@dataclass(frozen=True)
class TrainingJob:
    """What is trained: a labelled set, the names of its label ids 0, 1, …, and the recipe.

    `start` holds the initial weights, of the same config and classes; None starts from random ones.
    """

    samples: Dataset[Any]
    classes: Sequence[str]
    recipe: TrainingRecipe
    start: Segmenter | None = None


def class_names(ids: Mapping[str, int]) -> tuple[str, ...]:
    """Return the class name of each label id 0, 1, …, from the id of each name.

    Id 0 is "background". An id without a name is called "unused <id>", so that the others keep
    their positions.
    """
    names = {0: "background", **{number: name for name, number in ids.items()}}
    return tuple(names.get(number, f"unused {number}") for number in range(max(names) + 1))


def train_on_version(
    store: Store,
    version: str,
    recipe: TrainingRecipe,
    protocol: Protocol = SYNTHETIC,
    *,
    versions: Chosen = "newest",
    weighting: Weighting = UNWEIGHTED,
    start: Start | None = None,
    gpus: int = 1,
    workers: int = 0,
    progress: Callable[[Row], None] | None = None,
) -> dict[str, Any]:
    """Train on a published version, unless that is done, and return the checkpoint's meta.json.

    `versions` says which others come along (`chosen_versions`), `weighting` how often each is
    drawn, `start` a checkpoint to start from. An interrupted training resumes from its snapshot,
    with any number of `gpus`. Fine-tuning starts from the same training without a protocol. Raises
    what `chosen_versions`, `Weighting.checked`, `pool_of`, `load_start`, `train_segmenter` raise.
    """
    how: dict[str, Any] = {"gpus": gpus, "workers": workers}
    data: dict[str, Any] = {"start": start, "weighting": weighting}
    manifests = weighting.checked(chosen_versions(store, version, versions))
    name = checkpoint_name(version, recipe, protocol, manifests=manifests, **data)
    folder = checkpoint_folder(name)
    if store.exists(f"{folder}/meta.json"):
        return read_meta(store, name, *manifests)
    classes = class_names(origin_of(manifests[0]).classes)
    network = None
    if protocol.kind == "fine-tune":
        first = train_on_version(store, version, recipe, versions=versions, **data, **how)
        network = load_checkpoint(store, first["checkpoint"])
    elif start:
        network = load_start(store, start, recipe, classes)
        recipe = continued(recipe)
    samples = _samples(store, folder, manifests, weighting)
    recipe = _last(recipe, protocol, samples)
    job = TrainingJob(training_set(protocol, samples, classes), classes, recipe, network)
    origin = origin_of_checkpoint(name, manifests, len(samples), protocol, **data)
    return finish_training(store, folder, job, origin, **how, progress=progress)


def _samples(
    store: Store, folder: str, manifests: Sequence[Manifest], weighting: Weighting
) -> SegmentationDataset | Pool:
    """Return the samples of the versions; several are noted first in the checkpoint's `folder`."""
    if several(manifests):
        store.write_json(f"{folder}/versions.json", several(manifests))
    elif not weighting:
        return SegmentationDataset(store.url, manifests[0].version, store.options, memory=KEPT)
    return pool_of(store, manifests, KEPT, weighting)


def _last(
    recipe: TrainingRecipe, protocol: Protocol, samples: SegmentationDataset | Pool
) -> TrainingRecipe:
    """Return the recipe of the last training; only fine-tuning has one of its own.

    Its crops stay as large as the version's images.
    """
    if protocol.kind != "fine-tune":
        return recipe
    return replace(
        recipe,
        steps=protocol.fine_tune_steps,
        learning_rate=recipe.learning_rate * FINE_TUNING,
        crop=recipe.crop or tuple(samples[0]["label"].shape),
    )


def finish_training(
    store: Store,
    folder: str,
    job: TrainingJob,
    origin: Mapping[str, Any],
    *,
    gpus: int = 1,
    workers: int = 0,
    progress: Callable[[Row], None] | None = None,
) -> dict[str, Any]:
    """Run a training to its end, or resume it, and write the network to `folder` of the store.

    `gpus` processes share each batch, and `workers` load the data of each. `progress` gets the rows
    of the curve. Returns the meta.json: `origin`, and how the training went.
    """
    from models.segmenters import Execution, train_segmenter

    snapshots = snapshots_in(store, folder)
    execution = Execution(gpus=gpus, workers=workers, progress=progress, snapshots=snapshots)
    trained = train_segmenter(job.samples, job.classes, job.recipe, execution, start=job.start)
    meta = {
        **origin,
        "classes": job.classes,
        "recipe": asdict(job.recipe),
        "precision": trained.precision,
        "weights": trained.weights,
        "validation": trained.validation,
        "curve": trained.curve,
        "seconds": trained.seconds,
    }
    return write_folder(store, folder, trained.segmenter, meta)


@task(name="train", task_run_name="train {version}")
def train(settings: Settings, version: str, *, in_report: bool = True) -> str:
    """Train on a version as the settings say, unless that is done; return the checkpoint's name.

    The report of the version's run shows the last training with `in_report`. Raises `SettingsError`
    for a photograph that would be both trained on and measured on.
    """
    check_disjoint(settings)
    store = open_store(settings.store)
    recipe = recipe_of(settings.train, settings.seed)
    protocol = protocol_of(settings)
    chosen: dict[str, Any] = {
        "versions": settings.train.versions,
        "weighting": weighting_of(settings.train),
        "start": _start(settings, store, version, recipe, protocol),
        "gpus": settings.train.gpus,
        "workers": settings.train.workers,
    }
    steps = recipe.steps + protocol.fine_tune_steps
    unit = f"{version} {settings.train.model}"  # a comparison trains several models on a version
    with gpu_slot(settings.compute, settings.train.gpus), Report("train", unit, steps) as report:
        follow = report_steps(report)
        if protocol.kind == "fine-tune":
            train_on_version(store, version, recipe, **chosen, progress=follow)
            follow = report_steps(report)
        meta = train_on_version(store, version, recipe, protocol, **chosen, progress=follow)
    if in_report:
        write_to_run(store, version, "training", meta)
    return str(meta["checkpoint"])


def _start(
    settings: Settings, store: Store, version: str, recipe: TrainingRecipe, protocol: Protocol
) -> Start | None:
    """Return the champion if the settings start from it."""
    if settings.train.start == "scratch":
        return None
    data: dict[str, Any] = {
        "manifests": chosen_versions(store, version, settings.train.versions),
        "weighting": weighting_of(settings.train),
    }
    return champion_start(
        store, lambda start: checkpoint_name(version, recipe, protocol, start=start, **data)
    )


def report_steps(report: Report) -> Callable[[Row], None]:
    """Return a callback for the rows of a curve that reports the steps done since the last row."""
    done = 0

    def follow(row: Row) -> None:
        nonlocal done
        report(int(row["step"]) - done)
        done = int(row["step"])

    return follow


def write_to_run(store: Store, version: str, name: str, value: Mapping[str, Any]) -> None:
    """Write `value` as <name>.json to the run that made the version, if the run still exists."""
    run = f"runs/{origin_of(read_version(store, version)).run}"
    if store.exists(f"{run}/settings.json"):
        store.write_json(f"{run}/{name}.json", value)
