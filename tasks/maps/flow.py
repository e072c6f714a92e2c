"""Flow: the trained SemFlow that a run draws with, from its checkpoint in the store."""

from __future__ import annotations

import hashlib
import json
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from infra.settings import Settings, SettingsError
from infra.store import Store, StoreError
from tasks.train.checkpoints import load_checkpoint, read_meta
from tasks.train.train import class_names

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import Segmenter

__all__ = ["flow_digest", "load_flow"]

_loading = threading.Lock()  # threads of a process wait for one network instead of loading two


def flow_digest(store: Store, settings: Settings) -> str:
    """Return the SHA-256 of the checksums of the checkpoint's files.

    Raises `SettingsError` for a checkpoint that does not exist, is unfinished, or is another one
    than `generator.weights` says.
    """
    generator = settings.generator
    try:
        meta = read_meta(store, str(generator.flow))
    except StoreError as error:
        raise SettingsError(
            f"generator.path = {generator.path!r}: {error}; give 'semflow:' and the name of a "
            "trained SemFlow"
        ) from error
    found = hashlib.sha256(json.dumps(meta["files"], sort_keys=True).encode()).hexdigest()
    if generator.weights not in (None, found):
        raise SettingsError(
            f"generator.weights is {generator.weights}, but the digest of checkpoint "
            f"{generator.flow} is {found}; remove generator.weights, or set generator.path to the "
            "checkpoint with that digest"
        )
    return found


def load_flow(store: Store, settings: Settings) -> Segmenter:
    """Return the flow of `generator.path`, loaded once per process.

    Raises what `flow_digest` and `load_checkpoint` raise, and `SettingsError` for a checkpoint that
    is no SemFlow or has other classes than the vocabulary.
    """
    from models.segmenters import is_flow

    generator = settings.generator
    found = flow_digest(store, settings)
    with _loading:
        segmenter = _loaded(store, str(generator.flow), found)
    if not is_flow(segmenter):
        raise SettingsError(
            f"generator.path = {generator.path!r} is a {segmenter.config['model']['type']}, which "
            "draws no images; give a checkpoint that was trained with train.model = 'semflow'"
        )
    classes = class_names(settings.load_vocabulary().ids)
    if segmenter.classes != classes:
        raise SettingsError(
            f"generator.path = {generator.path!r} has the classes {', '.join(segmenter.classes)}, "
            f"and the vocabulary has {', '.join(classes)}; set vocabulary and classes to those of "
            "the checkpoint, or train a SemFlow on these classes"
        )
    return segmenter


@lru_cache(maxsize=1)
def _loaded(store: Store, checkpoint: str, digest: str) -> Segmenter:
    return load_checkpoint(store, checkpoint)
