"""Protocols: what a segmenter learns from beside the published images, as in DiffuMask.

| protocol    | training data                                                                 |
|-------------|-------------------------------------------------------------------------------|
| synthetic   | the version                                                                   |
| joint       | the version and real labelled images, shuffled together                       |
| fine-tune   | the version, then real images alone, from the weights of the first training   |
| zero-shot   | real images whose pixels of unseen classes are 255, with objects of unseen    |
|             | classes pasted in; and the version's samples that show unseen classes, with   |
|             | the pixels of all other classes 255                                           |
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from infra.settings import Settings, SettingsError
from infra.voc import VocFolder
from models.metrics import IGNORE
from tasks.train.overlap import check_disjoint

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where a training starts
    from models.segmenters import ArraySet, LabelledItem

__all__ = [
    "COPIES",
    "SYNTHETIC",
    "CopyPaste",
    "Protocol",
    "Withheld",
    "check_sets",
    "protocol_of",
    "training_set",
]

# Makes four of five images real if the version shows unseen classes as often as a default run's.
COPIES = 3


@dataclass(frozen=True)
class Protocol:
    """What is trained on beside a version; only `kind` is set for the synthetic protocol.

    `real` is "drawn" for the first `real_images` scenes of the drawn world, or a folder in VOC
    layout, of which the split `train` is read.
    """

    kind: str = "synthetic"
    real: str = ""
    real_images: int = 0
    unseen: tuple[str, ...] = ()
    fine_tune_steps: int = 0


SYNTHETIC = Protocol()


def protocol_of(settings: Settings) -> Protocol:
    """Return the protocol of the settings.

    Fields that the protocol does not use keep their defaults, so that they change no checkpoint's
    name.
    """
    chosen = settings.train
    if chosen.protocol == "synthetic":
        return SYNTHETIC
    return Protocol(
        chosen.protocol,
        chosen.real,
        chosen.real_images if chosen.real == "drawn" else 0,
        chosen.unseen,
        chosen.fine_tune_steps if chosen.protocol == "fine-tune" else 0,
    )


def check_sets(settings: Settings) -> None:
    """Check the labelled sets of training and evaluation before anything is generated.

    Raises `SettingsError` for an unseen class that is not in the vocabulary and for a photograph
    that would be both trained on and measured on, `VocError` for a folder with missing or
    unreadable files.
    """
    names = [entry.name for entry in settings.load_vocabulary().classes]
    if strange := sorted(set(settings.train.unseen) - set(names)):
        raise SettingsError(
            f"train.unseen names {', '.join(strange)}; the classes are {', '.join(names)}"
        )
    if settings.train.protocol != "synthetic" and settings.train.real != "drawn":
        VocFolder(Path(settings.train.real), "train", names)
    if settings.evaluate.voc is not None:
        VocFolder(Path(settings.evaluate.voc), "val", names)
    check_disjoint(settings)


def _real_images(protocol: Protocol, classes: Sequence[str]) -> ArraySet:
    """Return the protocol's real training images, labelled with the ids of `classes`."""
    from models.segmenters import ArraySet, DrawnScenes

    if protocol.real == "drawn":
        return ArraySet(DrawnScenes(protocol.real_images, first=0), classes)
    return ArraySet(VocFolder(Path(protocol.real), "train", classes), classes)


def training_set(
    protocol: Protocol, synthetic: Dataset[Any], classes: Sequence[str]
) -> Dataset[Any]:
    """Return the protocol's training set; for fine-tuning, that of the second training.

    `synthetic` is the version's samples, labelled with the ids of `classes`. Raises `ValueError`
    for an unseen class that is not in `classes`, and if no sample shows any of them.
    """
    if protocol.kind == "synthetic":
        return synthetic
    real: Dataset[Any] = _real_images(protocol, classes)
    if protocol.kind == "fine-tune":
        return real
    if protocol.kind == "zero-shot":
        withheld = Withheld(real, protocol.unseen, classes)
        unseen = [classes.index(name) for name in protocol.unseen]
        synthetic = Withheld(
            _showing(synthetic, unseen, classes), set(classes[1:]) - set(protocol.unseen), classes
        )
        real = CopyPaste(withheld, synthetic, unseen)
    return ConcatDataset([synthetic, real])


def _showing(
    samples: Dataset[Any], class_ids: Sequence[int], classes: Sequence[str]
) -> Subset[Any]:
    """Return the samples whose label has one of these classes; reads all labels once."""
    wanted = torch.tensor(class_ids, dtype=torch.uint8)
    every = range(len(cast(Sized, samples)))
    chosen = [index for index in every if torch.isin(samples[index]["label"], wanted).any()]
    if not chosen:
        names = ", ".join(classes[class_id] for class_id in class_ids)
        raise ValueError(
            f"no sample of the version shows any class of train.unseen ({names}); train on a "
            "version with samples of these classes"
        )
    return Subset(samples, chosen)


class Withheld(Dataset[Any]):
    """A labelled set in which the pixels of the `hidden` classes are ignored (255)."""

    def __init__(
        self, samples: Dataset[Any], hidden: Collection[str], classes: Sequence[str]
    ) -> None:
        if strange := sorted(set(hidden) - set(classes[1:])):
            raise ValueError(
                f"train.unseen names {', '.join(strange)}; the version's classes are "
                f"{', '.join(classes[1:])}"
            )
        self._samples = samples
        self._hidden = torch.tensor([classes.index(name) for name in hidden], dtype=torch.uint8)

    def __len__(self) -> int:
        return len(cast(Sized, self._samples))

    def __getitem__(self, index: int) -> LabelledItem:
        item: LabelledItem = self._samples[index]
        hidden = torch.isin(item["label"], self._hidden)
        return {**item, "label": item["label"].masked_fill(hidden, IGNORE)}


class CopyPaste(Dataset[Any]):
    """A labelled set with objects of another set pasted into its images, as scenes are composed.

    A network that sees some classes in synthetic images alone learns to tell synthetic from real
    images, and predicts these classes in synthetic ones only. Pasting puts them into both (Ghiasi
    et al. 2021, "Simple Copy-Paste"). Each image occurs `COPIES` times, each time with another
    object of `class_ids`. An item depends on its index alone. An image for which no object is found
    stays as it is.
    """

    def __init__(
        self, samples: Dataset[Any], source: Dataset[Any], class_ids: Sequence[int]
    ) -> None:
        from models.segmenters import Objects

        self._samples = samples
        self._objects = Objects(source)
        self._class_ids = list(class_ids)

    def __len__(self) -> int:
        return COPIES * len(cast(Sized, self._samples))

    def __getitem__(self, index: int) -> LabelledItem:
        from models.segmenters import paste_object

        item = self._samples[index % len(cast(Sized, self._samples))]
        rng = np.random.default_rng([index, 3])  # a stream no drawn scene has
        image, label = paste_object(
            item["image"], item["label"], self._objects, self._class_ids, rng
        )
        return {"image": image, "label": label, "id": item["id"]}
