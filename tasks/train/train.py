"""Train: trains a segmenter on a published version and writes it to the store as a checkpoint.

    checkpoints/<name>/       the network and how it was trained (see `checkpoints`)
    runs/<run>/training.json  the checkpoint's meta.json again, for the report of the version's run

A finished checkpoint is never trained again.
"""

from __future__ import annotations

import hashlib
import json
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
from tasks.train.overlap import check_disjoint
from tasks.train.protocols import SYNTHETIC, Protocol, protocol_of, training_set
from tasks.train.recipe import recipe_of

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from torch.utils.data import Dataset

    from models.segmenters import Segmenter, TrainingRecipe

__all__ = [
    "TrainingJob",
    "checkpoint_name",
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
FINE_TUNING = 0.3  # of the learning rate: the weights are good already


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


def checkpoint_name(version: str, recipe: TrainingRecipe, protocol: Protocol = SYNTHETIC) -> str:
    """Return the name of the checkpoint of a version, a recipe and a protocol.

    Equal arguments give equal names: the version, and 8 hex digits of the others' SHA-256.
    """
    made_by = {} if protocol == SYNTHETIC else {"protocol": asdict(protocol)}
    weights = [(file.sha256, file.part) for file in recipe.weights]  # wherever the files lie
    canonical = json.dumps(recipe.identity() | {"weights": weights} | made_by, sort_keys=True)
    return f"{version}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def train_on_version(
    store: Store,
    version: str,
    recipe: TrainingRecipe,
    protocol: Protocol = SYNTHETIC,
    *,
    gpus: int = 1,
    workers: int = 0,
    progress: Callable[[Row], None] | None = None,
) -> dict[str, Any]:
    """Train on a published version, unless that is done, and return the checkpoint's meta.json.

    An interrupted training resumes from its snapshot, also with another number of `gpus`, which
    neither its weights nor its name depend on. Fine-tuning starts from the checkpoint of the
    same version and recipe without a protocol, which is trained first if it does not exist.

    Raises `MissingError` for a version that is not published, `CorruptShardError` if its bytes
    changed, and what `train_segmenter` raises.
    """
    manifest = read_version(store, version)
    name = checkpoint_name(version, recipe, protocol)
    if store.exists(f"{checkpoint_folder(name)}/meta.json"):
        return read_meta(store, name, manifest)
    samples = SegmentationDataset(store.url, version, store.options, memory=KEPT)
    classes = class_names(origin_of(manifest).classes)
    start = None
    if protocol.kind == "fine-tune":
        first = train_on_version(store, version, recipe, gpus=gpus, workers=workers)
        start = load_checkpoint(store, first["checkpoint"])
        recipe = _fine_tuning(recipe, protocol, tuple(samples[0]["label"].shape))
    job = TrainingJob(training_set(protocol, samples, classes), classes, recipe, start)
    origin = _origin(name, manifest, protocol)
    how: dict[str, Any] = {"gpus": gpus, "workers": workers, "progress": progress}
    return finish_training(store, checkpoint_folder(name), job, origin, **how)


def _fine_tuning(
    recipe: TrainingRecipe, protocol: Protocol, size: tuple[int, int]
) -> TrainingRecipe:
    """Return the recipe of the second training; crops stay as large as the version's images.

    `size` is (H, W) of these images, in pixels.
    """
    return replace(
        recipe,
        steps=protocol.fine_tune_steps,
        learning_rate=recipe.learning_rate * FINE_TUNING,
        crop=recipe.crop or size,
    )


def _origin(name: str, manifest: Manifest, protocol: Protocol) -> dict[str, Any]:
    """Return what a checkpoint's meta.json says of its training data."""
    return {
        "checkpoint": name,
        "version": manifest.version,
        "manifest": manifest.digest,
        "samples": manifest.samples,
        "protocol": asdict(protocol),
    }


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
def train(settings: Settings, version: str) -> str:
    """Train on a version as the settings say, unless that is done; return the checkpoint's name.

    Raises `SettingsError` for a photograph that would be both trained on and measured on.
    """
    check_disjoint(settings)
    store = open_store(settings.store)
    recipe = recipe_of(settings.train, settings.seed)
    protocol = protocol_of(settings)
    gpus = settings.train.gpus
    how: dict[str, Any] = {"gpus": gpus, "workers": settings.train.workers}
    steps = recipe.steps + protocol.fine_tune_steps
    with gpu_slot(settings.compute, gpus), Report("train", version, steps) as report:
        if protocol.kind == "fine-tune":
            train_on_version(store, version, recipe, **how, progress=report_steps(report))
        follow = report_steps(report)
        meta = train_on_version(store, version, recipe, protocol, **how, progress=follow)
    write_to_run(store, version, "training", meta)
    return str(meta["checkpoint"])


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
