"""Checkpoints: reads and writes trained networks in the store.

    checkpoints/<name>/
        weights.safetensors, config.json   the network
        meta.json                          written last: origin, recipe, curve, checksums
        versions.json                      written first, if it is trained on several versions
        snapshot.safetensors               state of an unfinished training, to resume from

A checkpoint with a meta.json is finished.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.store import CorruptShardError, Manifest, MissingError, Store, StoreError, check_name
from infra.store.seal import check_tensors, seal_tensors
from tasks.schemas import Meta, Trained

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import Segmenter, Snapshots

__all__ = [
    "checkpoint_folder",
    "digests_of",
    "load_checkpoint",
    "load_folder",
    "read_meta",
    "snapshots_in",
    "write_folder",
]


def checkpoint_folder(name: str) -> str:
    """Return the folder of checkpoint `name` in the store.

    Raises `StoreError` for a name that cannot be part of a path.
    """
    return f"checkpoints/{check_name('checkpoint', name)}"


def read_meta(store: Store, name: str, *manifests: Manifest) -> dict[str, Any]:
    """Return the meta.json of the finished checkpoint `name`.

    Raises `MissingError` if the checkpoint does not exist or is unfinished, and `StoreError` if it
    was not trained on the versions with these `manifests`.
    """
    path = f"{checkpoint_folder(name)}/meta.json"
    if not store.exists(path):
        existing = ", ".join(store.list("checkpoints")) or "none"
        raise MissingError(f"no finished checkpoint {name!r} in {store.url}; there are: {existing}")
    meta: dict[str, Any] = store.read_json(path, Meta)
    trained = digests_of(meta)
    for manifest in manifests:
        digest = trained.get(manifest.version, "none")
        if digest != manifest.digest:
            raise StoreError(
                f"checkpoint {name!r} was trained on {manifest.version} with digest "
                f"{digest[:12]}, which now has {manifest.digest[:12]}; restore the version, "
                "or delete the checkpoint and train again"
            )
    return meta


def digests_of(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each version that a checkpoint was trained on, from its meta.json.

    The version that the training was given comes first.
    """
    listed = {each["name"]: each["digest"] for each in meta.get("versions", [])}
    return listed or {meta["version"]: meta["manifest"]}


def load_checkpoint(store: Store, name: str) -> Segmenter:
    """Return the network of the finished checkpoint `name`, on the CPU.

    Raises what `read_meta` and `load_folder` raise.
    """
    return load_folder(store, checkpoint_folder(name), read_meta(store, name))


def load_folder(store: Store, folder: str, meta: Mapping[str, Any] | None = None) -> Segmenter:
    """Return the network that `write_folder` left in `folder`, on the CPU.

    `meta` is the folder's meta.json; None reads it. Raises `CorruptShardError` with the name of the
    file whose bytes changed, and `StoreError` if the files do not describe a network.
    """
    from models.segmenters import unpack_segmenter

    checksums = (meta or store.read_json(f"{folder}/meta.json", Trained))["files"]
    files = {}
    for file, checksum in checksums.items():
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


def write_folder(
    store: Store, folder: str, segmenter: Segmenter, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a trained network to `folder` and delete the training's snapshot.

    The meta.json comes last: `meta`, with the SHA-256 of each other file as `files`. Returns it.
    """
    from models.segmenters import pack_segmenter

    files = pack_segmenter(segmenter)
    written = {**meta, "files": {file: _sha256(content) for file, content in files.items()}}
    for file, content in files.items():
        store.write_bytes(f"{folder}/{file}", content)
    store.write_json(f"{folder}/meta.json", written)
    store.delete(f"{folder}/snapshot.safetensors")
    return written


def snapshots_in(store: Store, folder: str) -> Snapshots:
    """Return how a training reads and writes its snapshot in `folder`.

    Reading raises `CorruptShardError` for a snapshot whose bytes changed.
    """
    from models.segmenters import Snapshots

    path = f"{folder}/snapshot.safetensors"

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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
