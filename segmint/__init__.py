"""segmint: class names in, a published dataset with pixel labels and a trained segmenter out.

The public names, each loaded when it is first used, so that `import segmint` stays fast:

    Settings               all settings of a run, from a file, the environment and flags
    Store                  a folder or bucket with runs, versions and checkpoints
    list_versions          the published versions of a store, oldest first
    SegmentationDataset    a published version as a torch dataset
    load_segmenter         a trained segmenter of a store
    predict_probabilities  softmax per class and pixel, from a segmenter and images
    load_pipeline          a Stable Diffusion directory as a diffusers pipeline
    generate               requests → images and the attention of their words
    Request, Sampling      prompt and seed of one image; how images are sampled
    AttentionRecorder      the attention of words while any diffusers pipeline samples
    refine_labels          images and attention → label maps
    __version__            the installed version
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import infra  # noqa: F401  before torch is imported: sets how OpenMP's threads wait

if TYPE_CHECKING:
    from pathlib import Path

    from infra.settings import Settings
    from infra.store import SegmentationDataset, Store, list_versions
    from models.attention import AttentionRecorder
    from models.generators import Request, Sampling, generate, load_pipeline
    from models.masks import refine_labels
    from models.segmenters import Segmenter, predict_probabilities

    __version__: str

__all__ = [
    "AttentionRecorder",
    "Request",
    "Sampling",
    "SegmentationDataset",
    "Settings",
    "Store",
    "__version__",
    "generate",
    "list_versions",
    "load_pipeline",
    "load_segmenter",
    "predict_probabilities",
    "refine_labels",
]

_MODULES = {
    "AttentionRecorder": "models.attention",
    "Request": "models.generators",
    "Sampling": "models.generators",
    "SegmentationDataset": "infra.store",
    "Settings": "infra.settings",
    "Store": "infra.store",
    "generate": "models.generators",
    "list_versions": "infra.store",
    "load_pipeline": "models.generators",
    "predict_probabilities": "models.segmenters",
    "refine_labels": "models.masks",
}


def load_segmenter(store: Store | str | Path, checkpoint: str | None = None) -> Segmenter:
    """Return a trained segmenter of a store, in evaluation mode on the CPU.

    `store`: a `Store`, or the folder or URL of one. `checkpoint`: a name that `segmint checkpoints`
    lists; the champion if None. The files are compared with the checksums of the checkpoint's
    meta.json. `segmenter.classes` has the name of each label id, 0 = background;
    `predict_probabilities(segmenter, images)` applies it.

    Raises `StoreError` if no checkpoint is named and the store has no champion, `MissingError` if
    there is no such checkpoint, `CorruptShardError` if a file changed. A folder of weights alone,
    outside a store, is read by `models.segmenters.load_segmenter`.
    """
    from infra.store import Store, StoreError
    from tasks.promote.pointer import read_champion
    from tasks.train.checkpoints import load_checkpoint

    opened = store if isinstance(store, Store) else Store.open(str(store))
    if checkpoint is None:
        champion = read_champion(opened)
        if champion is None:
            raise StoreError(
                f"{opened.url} has no champion; name a checkpoint (`segmint checkpoints` lists "
                "them), or let `segmint train` make one"
            )
        checkpoint = str(champion["checkpoint"])
    return load_checkpoint(opened, checkpoint)


def _installed_version() -> str:
    """Return the version of the installed package; "0+unknown" where segmint is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("segmint")
    except PackageNotFoundError:  # the folder is on the path, but `pip install` never ran
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _installed_version()
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
