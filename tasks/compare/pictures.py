"""Pictures: the images that the segmenters of a comparison disagree most about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.vocabulary import Vocabulary
from tasks.report.images import Image8, Palette, default_colour, enlarge, overlay
from tasks.report.sheets import data_uri, encode, strip

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import Inference, LabelledItem, Segmenter

__all__ = ["MOST", "Picture", "palette_for", "predict_into"]

MOST = 8  # on a page
_HEIGHT = 256  # of a tile, pixels: sharp on a high-resolution screen
_BYTES = 120_000  # at most, for the tiles of one picture, so that a page stays under 3 MB


@dataclass
class Picture:
    """An image of the set, its truth, and the label map of each segmenter, all uint8 (H, W)."""

    name: str
    image: Image8
    truth: NDArray[np.uint8]
    said: list[NDArray[np.uint8]] = field(default_factory=list)

    @classmethod
    def of(cls, item: LabelledItem) -> Picture:
        """Return an item of a labelled set, without predictions."""
        pixels = np.ascontiguousarray(item["image"].permute(1, 2, 0).numpy())
        return cls(item["id"], pixels, item["label"].numpy())

    def numbers(self) -> set[int]:
        """Return the label ids that truth and predictions show."""
        return {int(each) for label in (self.truth, *self.said) for each in np.unique(label)}

    def cell(self, palette: Palette) -> dict[str, Any]:
        """Return the tiles side by side: image, truth, predictions. `src` is a `data:` URI."""
        shown = enlarge(self.image, _HEIGHT)
        labels = [enlarge(label, _HEIGHT) for label in (self.truth, *self.said)]
        tiles = strip([shown, *(overlay(shown, label, palette) for label in labels)])
        uri = data_uri(encode(tiles, _BYTES))
        return {"id": self.name, "src": uri, "width": tiles.shape[1], "height": tiles.shape[0]}


def predict_into(pictures: Iterable[Picture], segmenter: Segmenter, inference: Inference) -> None:
    """Append a segmenter's label map to each picture."""
    import torch

    from models.segmenters import predict_probabilities

    for picture in pictures:
        image = torch.from_numpy(picture.image.transpose(2, 0, 1).copy())[None]
        chances = predict_probabilities(segmenter, image, inference=inference)
        picture.said.append(chances[0].argmax(0).to(torch.uint8).numpy())


def palette_for(classes: Sequence[str], vocabulary: Vocabulary) -> Mapping[int, Any]:
    """Return the colour of each label id: the vocabulary's where it has the class."""
    known = {entry.name: entry.palette for entry in vocabulary.classes if entry.palette}
    return {
        number: known.get(name) or default_colour(number)
        for number, name in enumerate(classes)
        if number  # the background is not tinted
    }
