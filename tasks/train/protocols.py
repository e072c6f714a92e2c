"""Protocols: what a segmenter learns from beside the published pictures; those of DiffuMask's
experiments.

synthetic   the version alone
joint       the version and real labelled pictures, shuffled together
fine-tune   the version first, then real pictures alone, from the weights that this gave
zero-shot   real pictures whose pixels of unseen classes are 255; these classes come from the version alone: from its
            samples that show them, of which all other classes are 255, and their objects, pasted into the real pictures
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

# so that four of five pictures are real, where a version shows unseen classes as often as a night's
# does
COPIES = 3


@dataclass(frozen=True)
class Protocol:
    """What is trained on beside a version; `real` and those after it say nothing of the synthetic
    protocol.

    `real` is "drawn" for the first `real_images` scenes of the drawn world, or a folder in VOC
    layout, split `train`.
    """

    kind: str = "synthetic"
    real: str = ""
    real_images: int = 0
    unseen: tuple[str, ...] = ()
    fine_tune_steps: int = 0


SYNTHETIC = Protocol()


def protocol_of(settings: Settings) -> Protocol:
    """What the settings say of training; what a protocol does not use cannot make two of one."""
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
    """Raise `SettingsError` for an unseen class that is none, and `VocError` unless folders hold
    all that they list.
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


def _real_pictures(protocol: Protocol, classes: Sequence[str]) -> ArraySet:
    """The protocol's real pictures to train on, labelled with the ids of `classes`."""
    from models.segmenters import ArraySet, DrawnScenes

    if protocol.real == "drawn":
        return ArraySet(DrawnScenes(protocol.real_images, first=0), classes)
    return ArraySet(VocFolder(Path(protocol.real), "train", classes), classes)


def training_set(
    protocol: Protocol, synthetic: Dataset[Any], classes: Sequence[str]
) -> Dataset[Any]:
    """What the protocol trains on, the last time if twice.

    Raises `ValueError` for an unseen class that is not in `classes`, and if no sample shows any of
    them.
    """
    if protocol.kind == "synthetic":
        return synthetic
    real: Dataset[Any] = _real_pictures(protocol, classes)
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
    """Those of the samples whose label has one of these classes; all labels are read for it once."""
    wanted = torch.tensor(class_ids, dtype=torch.uint8)
    every = range(len(cast(Sized, samples)))
    chosen = [index for index in every if torch.isin(samples[index]["label"], wanted).any()]
    if not chosen:
        names = ", ".join(classes[class_id] for class_id in class_ids)
        raise ValueError(
            f"no sample of the version shows {names}, of train.unseen; publish some that do"
        )
    return Subset(samples, chosen)


class Withheld(Dataset[Any]):
    """A labelled set of which the pixels of some classes, the `hidden` ones, are 255."""

    def __init__(
        self, samples: Dataset[Any], hidden: Collection[str], classes: Sequence[str]
    ) -> None:
        if strange := sorted(set(hidden) - set(classes[1:])):
            raise ValueError(
                f"train.unseen names {', '.join(strange)}, but there are {', '.join(classes[1:])}"
            )
        self._samples = samples
        self._hidden = torch.tensor([classes.index(name) for name in hidden], dtype=torch.uint8)

    def __len__(self) -> int:
        return len(cast(Sized, self._samples))

    def __getitem__(self, index: int) -> LabelledItem:
        item: LabelledItem = self._samples[index]
        return {
            **item,
            "label": item["label"].masked_fill(torch.isin(item["label"], self._hidden), IGNORE),
        }


class CopyPaste(Dataset[Any]):
    """A labelled set into whose pictures objects of another set's samples are pasted, as scenes are
    composed.

    A network that sees classes in synthetic pictures alone learns to tell the two sorts of pictures
    apart, and looks for these classes in the one sort only: pasted, they are in both (Ghiasi et al.
    2021, "Simple Copy-Paste"). Each picture is there `COPIES` times, with another object of
    `class_ids` every time. What an item is depends on its index alone; one for which no sample was
    found is as it was.
    """

    def __init__(
        self, samples: Dataset[Any], source: Dataset[Any], class_ids: Sequence[int]
    ) -> None:
        self._samples, self._source, self._class_ids = samples, source, list(class_ids)

    def __len__(self) -> int:
        return COPIES * len(cast(Sized, self._samples))

    def __getitem__(self, index: int) -> LabelledItem:
        from models.segmenters import paste_object

        item = self._samples[index % len(cast(Sized, self._samples))]
        rng = np.random.default_rng([index, 3])  # a stream no drawn scene has
        image, label = paste_object(
            item["image"], item["label"], self._source, self._class_ids, rng
        )
        return {"image": image, "label": label, "id": item["id"]}
