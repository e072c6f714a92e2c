"""CLIPSeg: a phrase → how well each pixel fits it (Lüddecke & Ecker, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer
from transformers.models.clipseg.modeling_clipseg import CLIPSegForImageSegmentation

from models.labellers.checks import LabellerError
from models.labellers.found import INSIDE, Found, gather, join
from models.labellers.loading import encode, open_directory, open_tokenizer
from models.labellers.preparation import IMAGENET, Preparation, read_preparation

__all__ = ["ClipSeg"]

_USUAL = Preparation((352, 352), IMAGENET)  # the published directories'


class ClipSeg:
    """A CLIPSeg. Certainty is the mean score of the phrase's pixels, as it has no other measure."""

    def __init__(self, folder: Path, device: str) -> None:
        self._model = open_directory(CLIPSegForImageSegmentation, folder, device)
        text = self._model.config.text_config
        self._most = text.max_position_embeddings
        self._tokenizer = open_tokenizer(CLIPTokenizer, folder, text.vocab_size)
        self._prepare = read_preparation(folder, _USUAL)
        height, width = self._prepare.size
        if self._prepare.keep or height != width:
            raise LabellerError(
                f"{folder}/preprocessor_config.json resizes to {height}x{width}; CLIPSeg takes "
                "squares, so give an equal height and width"
            )

    @torch.no_grad()
    def find(self, image: Tensor, phrases: Sequence[str], maps: Tensor | None = None) -> Found:
        """See `Labeller.find`. `maps` are not used."""
        size = (image.shape[0], image.shape[1])
        if not phrases:
            return gather([], size)
        tokens = encode(self._tokenizer, phrases, self._most, padding=True)
        device = self._model.device
        pixels = self._prepare(image.to(device)).expand(len(phrases), -1, -1, -1)
        logits = self._model(
            pixel_values=pixels,
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
        ).logits
        return gather(
            [_scored(each, size) for each in logits.view(len(phrases), 1, *logits.shape[-2:])], size
        )


def _scored(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, float]:
    inside = logits.sigmoid()
    return join(logits, inside[inside > INSIDE].mean()[None], size)
