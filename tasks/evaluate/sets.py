"""Sets: the labelled images of an evaluation, in two disjoint parts.

One part decides whether a checkpoint becomes the champion, the other gives the figures that are
reported. The figure by which a checkpoint wins is too high: the best of 100 equal networks measures
0.010 mIoU above their mean. The reported images have no influence on the decision.

    drawn world    held-out scenes; the deciding part is another range of seeds, of the same number
    VOC folder     split `val`; an image decides if the first bit of its pixels' SHA-256 is 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.settings import EvaluateSettings
from infra.voc import VocFolder
from tasks.evaluate.measure import Measured, content_of

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from torch.utils.data import Dataset

    from models.segmenters import ArraySet

__all__ = ["EvaluationSet", "chosen_set", "divide", "drawn_truth", "reported_positions"]

# Offset of the deciding scenes' seeds from the first held-out one; no evaluation draws that many.
DECIDING = 1 << 32


@dataclass(frozen=True)
class EvaluationSet:
    """Labelled images, the classes that they can show, and which of them decide.

    `decides` returns (images,) from the SHA-256 of each image's pixels. `largest` is the path,
    height and width of the image of most pixels, None if all are small.
    """

    samples: Dataset[Any]
    images: int
    known: tuple[str, ...]
    reported_name: str
    deciding_name: str
    decides: Callable[[Sequence[bytes]], NDArray[np.bool_]]
    largest: tuple[Path, int, int] | None = None


def drawn_truth(count: int, classes: Sequence[str], first: int = 0) -> ArraySet:
    """Return `count` held-out scenes of the drawn world, labelled with the ids of `classes`.

    `first` is the offset of the first scene's seed in the held-out range.
    """
    from models.embedded.world import HELD_OUT
    from models.segmenters import ArraySet, DrawnScenes

    return ArraySet(DrawnScenes(count, HELD_OUT + first), classes)


def chosen_set(chosen: EvaluateSettings, classes: Sequence[str]) -> EvaluationSet:
    """Return the set that the settings name, labelled with the ids of `classes`.

    Label ids of a folder are matched by name if it has a `classes.txt`.
    """
    from torch.utils.data import ConcatDataset

    from models.segmenters import ArraySet

    if chosen.voc is not None:
        name = f"{Path(chosen.voc).name} val"
        folder = VocFolder(Path(chosen.voc), "val", classes)
        photographs = ArraySet(folder, classes)
        return EvaluationSet(
            photographs,
            len(photographs),
            photographs.known,
            f"{name}, reporting half",
            f"{name}, deciding half",
            _by_first_bit,
            folder.largest(),
        )
    reported = drawn_truth(chosen.images, classes)
    deciding = drawn_truth(chosen.images, classes, DECIDING)
    return EvaluationSet(
        ConcatDataset([reported, deciding]),
        2 * chosen.images,
        reported.known,
        f"{chosen.images} drawn scenes",
        f"{chosen.images} other drawn scenes",
        lambda contents: np.arange(len(contents)) >= chosen.images,
    )


def reported_positions(of: EvaluationSet, images: int) -> NDArray[np.intp]:
    """Return where the reported images of a set are in it (images,), in their order.

    `images` is how many an evaluation reported: all of them if the set was not divided. Reads the
    set once more, unless it is that small.
    """
    if images == of.images:
        return np.arange(images)
    contents = [content_of(of.samples[index]) for index in range(of.images)]
    return np.flatnonzero(~of.decides(contents))


def _by_first_bit(contents: Sequence[bytes]) -> NDArray[np.bool_]:
    return np.array([content[0] >= 0x80 for content in contents], bool)


def divide(measured: Measured, of: EvaluationSet) -> tuple[Measured, Measured, EvaluationSet]:
    """Return the reported and the deciding part of a measured set, and the set with their names.

    A set so small that one part has no labelled pixel is not divided: all its images decide and are
    reported, and the names say so.
    """
    decides = of.decides(measured.contents)
    reported = measured.part(~decides)
    deciding = measured.part(decides)
    if reported.labelled and deciding.labelled:
        return reported, deciding, of
    whole = f"{of.reported_name.partition(',')[0]}, too small to divide"
    return measured, measured, replace(of, reported_name=whole, deciding_name=whole)
