"""Grounded SAM 2: a phrase → boxes by Grounding DINO → masks by SAM 2.

Grounding DINO: Liu et al., ECCV 2024. SAM 2: Ravi et al., ICLR 2025. Together: Ren et al., 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers import BertTokenizer
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoForObjectDetection,
)
from transformers.models.sam2.modeling_sam2 import Sam2Model

from models.labellers.found import Found, gather, join
from models.labellers.loading import encode, open_directory, open_tokenizer
from models.labellers.preparation import IMAGENET, Preparation, read_preparation, squared
from models.masks import otsu

__all__ = ["GroundedSam2", "attention_box"]

CERTAIN = 0.35  # least score of a box, Grounding DINO's published example
MOST = 32  # boxes of a phrase, those of the highest scores; each gets a mask
_DETECTOR = Preparation((800, 1333), IMAGENET, keep=True)  # the published directories'
_SEGMENTER = Preparation((1024, 1024), IMAGENET)


class GroundedSam2:
    """A Grounding DINO and a SAM 2.

    Certainty is the mean of the IoUs that SAM 2 predicts for its masks. Scores of boxes choose the
    boxes only: they are low also for boxes that are right.
    """

    def __init__(self, folder: Path, detector: Path, device: str) -> None:
        self._segmenter = open_directory(Sam2Model, folder, device)
        self._detector = open_directory(GroundingDinoForObjectDetection, detector, device)
        config = self._detector.config
        self._most = min(config.max_text_len, config.text_config.max_position_embeddings)
        self._tokenizer = open_tokenizer(BertTokenizer, detector, config.text_config.vocab_size)
        self._side = self._segmenter.config.prompt_encoder_config.image_size
        self._prepare = squared(read_preparation(folder, _SEGMENTER), folder, self._side)
        self._prepare_detector = read_preparation(detector, _DETECTOR)

    @torch.no_grad()
    def find(self, image: Tensor, phrases: Sequence[str], maps: Tensor | None = None) -> Found:
        """See `Labeller.find`.

        Where the detector finds no box for a phrase, the box is that of its attention in `maps`,
        see `attention_box`.
        """
        size = (image.shape[0], image.shape[1])
        if not phrases:
            return gather([], size)
        given = image.to(self._segmenter.device)
        pixels = self._prepare_detector(given)
        boxes = [self._boxes(pixels, phrase) for phrase in phrases]
        if maps is not None:
            boxes = [
                found if len(found) else attention_box(each).to(given.device)
                for found, each in zip(boxes, maps, strict=True)
            ]
        seen = self._segmenter.get_image_embeddings(self._prepare(given))
        return gather([self._masks(seen, each, size) for each in boxes], size)

    def _boxes(self, pixels: Tensor, phrase: str) -> Tensor:
        """Return boxes (N, 4) of a phrase: x0, y0, x1, y1 as shares of the image's sides."""
        # the form that it was trained on: small letters, and a full stop behind
        tokens = encode(self._tokenizer, [f"{phrase.lower().strip(' .')}."], self._most)
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: tokens[name].to(pixels.device) for name in names if name in tokens}
        made = self._detector(pixel_values=pixels, **inputs)
        scores = made.logits[0].sigmoid().amax(-1)  # of the token that fits best
        best = scores.topk(min(MOST, len(scores)))
        centre, sides = made.pred_boxes[0][best.indices[best.values > CERTAIN]].split(2, dim=1)
        return torch.cat([centre - sides / 2, centre + sides / 2], 1).clamp(0, 1)

    def _masks(self, seen: Any, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, float]:
        if not len(boxes):
            return join(boxes, boxes, size)
        made = self._segmenter(
            image_embeddings=seen, input_boxes=boxes[None] * self._side, multimask_output=False
        )
        return join(made.pred_masks[0, :, 0], made.iou_scores[0, :, 0], size)


def attention_box(attention: Tensor) -> Tensor:
    """Return the box (1, 4) around the most attended object of a map (r, r), or none: (0, 4).

    It holds x0, y0, x1, y1 as shares of the image's sides. The object is the piece over Otsu's
    threshold that has the maximum. A map of one value, or with NaN, has none.
    """
    low, high = attention.min(), attention.max()
    if not high > low:  # also where they are NaN
        return torch.zeros(0, 4)
    lead = ((attention - low) / (high - low)).float().cpu()
    above = (lead >= otsu(lead.flatten()[None])).numpy().astype(np.uint8)
    _, pieces = cv2.connectedComponents(above, connectivity=8)
    rows, columns = np.nonzero(pieces == pieces.flat[int(lead.argmax())])
    height, width = lead.shape
    return torch.tensor(
        [
            [
                columns.min() / width,
                rows.min() / height,
                (columns.max() + 1) / width,
                (rows.max() + 1) / height,
            ]
        ],
        dtype=torch.float32,
    )
