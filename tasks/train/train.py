"""Train: a published version → a segmenter's checkpoint in the store, tied to the bytes it was
trained on.

    checkpoints/<name>/weights.safetensors, config.json   the segmenter
    checkpoints/<name>/meta.json                          written last: version, its digest, recipe, curve, checksums
    checkpoints/<name>/snapshot.safetensors               while the training runs: what a restart goes on from
    runs/<run>/training.json                              meta.json again, for the report of the version's run

A checkpoint with its meta.json is finished and never trained again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from prefect import task

from infra.blocks import open_store
from infra.clusters import gpu_slot
from infra.settings import Settings
from infra.store import (
    CorruptShardError,
    Manifest,
    MissingError,
    SegmentationDataset,
    Store,
    StoreError,
    check_name,
    read_version,
)
from infra.store.seal import check_tensors, seal_tensors
from tasks.run.progress import Report
from tasks.schemas import Meta, Trained, origin_of
from tasks.train.protocols import SYNTHETIC, Protocol, protocol_of, training_set
from tasks.train.recipe import recipe_of

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from torch.utils.data import Dataset

    from models.segmenters import Segmenter, TrainingRecipe

__all__ = [
    "advance",
    "checkpoint_name",
    "class_names",
    "finish_training",
    "load_checkpoint",
    "load_folder",
    "read_meta",
    "tell_run",
    "train",
    "train_on_version",
]

Row = dict[str, float]
KEPT = (
    1 << 30
)  # bytes of a bucket's version that each loading process keeps; twenty thousand samples of 128x128
FINE_TUNING = 0.3  # of the learning rate: the weights are good already


def class_names(ids: Mapping[str, int]) -> tuple[str, ...]:
    """Name of each label id 0, 1, … from `ids` by name; 0 is the background, an id that nothing has
    is called so.
    """
    names = {0: "background", **{number: name for name, number in ids.items()}}
    return tuple(names.get(number, f"unused {number}") for number in range(max(names) + 1))


def checkpoint_name(version: str, recipe: TrainingRecipe, protocol: Protocol = SYNTHETIC) -> str:
    """Name of what a recipe makes of a version by a protocol: the same three always have the same
    one.
    """
    made_by = {} if protocol == SYNTHETIC else {"protocol": asdict(protocol)}
    canonical = json.dumps(asdict(recipe) | made_by, sort_keys=True)
    return f"{version}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def train_on_version(
    store: Store,
    version: str,
    recipe: TrainingRecipe,
    protocol: Protocol = SYNTHETIC,
    *,
    workers: int = 0,
    progress: Callable[[Row], None] | None = None,
) -> dict[str, Any]:
    """Train on a published version, or take an interrupted training up, or find it finished; return
    the meta.json.

    Fine-tuning starts from the version's own checkpoint by the same recipe, which is made if it is
    not there. Raises `MissingError` for a version that is not published, `CorruptShardError` if its
    bytes changed, and what `train_segmenter` raises.
    """
    manifest, name = read_version(store, version), checkpoint_name(version, recipe, protocol)
    folder = f"checkpoints/{name}"
    if store.exists(f"{folder}/meta.json"):
        return read_meta(store, name, manifest)
    samples = SegmentationDataset(store.url, version, store.options, memory=KEPT)
    classes = class_names(origin_of(manifest).classes)
    origin = {
        "checkpoint": name,
        "version": version,
        "manifest": manifest.digest,
        "samples": manifest.samples,
        "protocol": asdict(protocol),
    }
    start = None
    if protocol.kind == "fine-tune":
        first = train_on_version(store, version, recipe, workers=workers)
        start, crop = load_checkpoint(store, first["checkpoint"]), tuple(samples[0]["label"].shape)
        rate = recipe.learning_rate * FINE_TUNING
        recipe = replace(
            recipe, steps=protocol.fine_tune_steps, learning_rate=rate, crop=recipe.crop or crop
        )
    chosen = training_set(protocol, samples, classes)
    return finish_training(
        store,
        folder,
        chosen,
        classes,
        recipe,
        origin,
        start=start,
        workers=workers,
        progress=progress,
    )


def finish_training(
    store: Store,
    folder: str,
    samples: Dataset[Any],
    classes: Sequence[str],
    recipe: TrainingRecipe,
    origin: Mapping[str, Any],
    *,
    start: Segmenter | None = None,
    workers: int = 0,
    progress: Callable[[Row], None] | None = None,
) -> dict[str, Any]:
    """Train, or take an interrupted training up, and leave weights, config and meta.json in
    `folder` of the store.

    It begins with the weights of `start`, if given. Returns the meta.json: what `origin` says, and
    how training went.
    """
    from models.segmenters import pack_segmenter, train_segmenter

    snapshots = _snapshots(store, f"{folder}/snapshot.safetensors")
    trained = train_segmenter(
        samples,
        classes,
        recipe,
        start=start,
        workers=workers,
        progress=progress,
        snapshots=snapshots,
    )
    files = pack_segmenter(trained.segmenter)
    meta = {
        **origin,
        "classes": classes,
        "recipe": asdict(recipe),
        "precision": trained.precision,
        "curve": trained.curve,
        "seconds": trained.seconds,
        "files": {file: _sha256(content) for file, content in files.items()},
    }
    for file, content in files.items():
        store.write_bytes(f"{folder}/{file}", content)
    store.write_json(f"{folder}/meta.json", meta)
    store.delete(f"{folder}/snapshot.safetensors")
    return meta


def _snapshots(store: Store, path: str) -> Any:
    from models.segmenters import Snapshots

    def read() -> bytes | None:
        if not store.exists(path):
            return None
        content = store.read_bytes(path)
        try:
            check_tensors(content)
        except ValueError as error:
            raise CorruptShardError(
                f"{store.url}/{path}: {error}; delete it to train from the beginning"
            ) from error
        return content

    return Snapshots(read, lambda content: store.write_bytes(path, seal_tensors(content)))


def read_meta(store: Store, name: str, manifest: Manifest | None = None) -> dict[str, Any]:
    """A finished checkpoint's meta.json.

    Raises `MissingError` without one, `StoreError` if not of this `manifest`.
    """
    path = f"checkpoints/{check_name('checkpoint', name)}/meta.json"
    if not store.exists(path):
        there = ", ".join(store.list("checkpoints")) or "none"
        raise MissingError(f"no finished checkpoint {name!r} in {store.url}; there are: {there}")
    meta: dict[str, Any] = store.read_json(path, Meta)
    if manifest and meta["manifest"] != manifest.digest:
        raise StoreError(
            f"checkpoint {name!r} was trained on {meta['version']} with digest {meta['manifest'][:12]}, which now has "
            f"{manifest.digest[:12]}; restore the version, or delete the checkpoint and train again"
        )
    return meta


def load_checkpoint(store: Store, name: str) -> Segmenter:
    """The segmenter of a finished checkpoint.

    Raises `CorruptShardError` naming the file whose bytes changed.
    """
    return load_folder(store, f"checkpoints/{name}", read_meta(store, name))


def load_folder(store: Store, folder: str, meta: Mapping[str, Any] | None = None) -> Segmenter:
    """The segmenter that `finish_training` left in `folder`;

    `meta` is its meta.json, read if not given.
    """
    from models.segmenters import unpack_segmenter

    files = {}
    for file, checksum in (meta or store.read_json(f"{folder}/meta.json", Trained))[
        "files"
    ].items():
        path = f"{folder}/{file}"
        files[file] = store.read_bytes(path) if store.exists(path) else b""
        if _sha256(files[file]) != checksum:
            raise CorruptShardError(
                f"{path} is not what was written; delete {folder} and train again"
            )
    try:
        return unpack_segmenter(files)
    except ValueError as error:
        raise StoreError(f"{store.url}/{folder}: {error}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@task(name="train", task_run_name="train-{version}")
def train(settings: Settings, version: str) -> str:
    """Train the settings' segmenter on a version, unless that is done; return the checkpoint's
    name.
    """
    store = open_store(settings.store)
    recipe = recipe_of(settings.train, settings.seed)
    protocol, workers = protocol_of(settings), settings.train.workers
    steps = recipe.steps + protocol.fine_tune_steps
    with gpu_slot(settings.compute), Report("train", version, steps) as report:
        if protocol.kind == "fine-tune":
            train_on_version(store, version, recipe, workers=workers, progress=advance(report))
        meta = train_on_version(
            store, version, recipe, protocol, workers=workers, progress=advance(report)
        )
    tell_run(store, version, "training", meta)
    return str(meta["checkpoint"])


def advance(report: Report) -> Callable[[Row], None]:
    """Tells `report` of the steps done, from the rows of a training's curve."""
    done = 0

    def tell(row: Row) -> None:
        nonlocal done
        report(int(row["step"]) - done)
        done = int(row["step"])

    return tell


def tell_run(store: Store, version: str, what: str, value: Mapping[str, Any]) -> None:
    """Leave `value` as <what>.json with the run that the version came from, if that is still in the
    store.
    """
    run = f"runs/{origin_of(read_version(store, version)).run}"
    if store.exists(f"{run}/settings.json"):
        store.write_json(f"{run}/{what}.json", value)
