"""SAM 3: a phrase → the masks of all its instances (Carion et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

# the package's own name for it stands for an error where torchvision, which only boxes need, is
# not installed
from transformers.models.sam3.modeling_sam3 import Sam3Model

from models.labellers.found import Found, gather, join
from models.labellers.loading import encode, open_directory, open_tokenizer
from models.labellers.preparation import HALVES, Preparation, read_preparation, squared

__all__ = ["Sam3"]

CERTAIN = 0.5  # least score of an instance, as in the released code
_USUAL = Preparation((1008, 1008), HALVES)  # the published directory's


class Sam3:
    """A SAM 3 for images. Certainty is the mean score of the phrase's instances.

    An instance's score is its own times that of the phrase's presence in the image.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._model = open_directory(Sam3Model, folder, device)
        text = self._model.config.text_config
        self._most = text.max_position_embeddings
        self._tokenizer = open_tokenizer(CLIPTokenizer, folder, text.vocab_size)
        side = self._model.config.vision_config.image_size
        self._prepare = squared(read_preparation(folder, _USUAL), folder, side)

    @torch.no_grad()
    def find(self, image: Tensor, phrases: Sequence[str], maps: Tensor | None = None) -> Found:
        """See `Labeller.find`. `maps` are not used."""
        size = (image.shape[0], image.shape[1])
        if not phrases:
            return gather([], size)
        device = self._model.device
        # of this length, as it was trained
        tokens = encode(
            self._tokenizer, phrases, self._most, padding="max_length", max_length=self._most
        )
        seen = self._model.vision_encoder(self._prepare(image.to(device)))
        ids, masks = (tokens[name].to(device) for name in ("input_ids", "attention_mask"))
        parts = zip(ids[:, None], masks[:, None], strict=True)
        return gather([self._instances(seen, *part, size) for part in parts], size)

    def _instances(
        self, seen: object, ids: Tensor, mask: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, float]:
        made = self._model(vision_embeds=seen, input_ids=ids, attention_mask=mask)
        scores = made.pred_logits[0].sigmoid() * made.presence_logits[0].sigmoid()
        kept = scores > CERTAIN
        return join(made.pred_masks[0][kept], scores[kept], size)
