"""What models of our own have in common as mmsegmentation models."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models.segmenters.openmmlab import BaseSegmentor

__all__ = ["OwnSegmentor"]


class OwnSegmentor(BaseSegmentor):  # type: ignore[misc]  # mmsegmentation has no types
    """A whole model without mmsegmentation's heads; it adds `loss`, `extract_feat` and `_forward`.

    `_forward(inputs, data_samples=None)` returns scores (N, classes, H, W) of the inputs' size,
    whose softmax are probabilities.
    """

    def __init__(
        self,
        num_classes: int,
        data_preprocessor: Any = None,
        train_cfg: Any = None,
        test_cfg: Any = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.num_classes = num_classes
        self.out_channels = num_classes
        self.align_corners = False
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg or {"mode": "whole"}

    def predict(self, inputs: Tensor, data_samples: Any = None) -> list[Any]:
        """Return mmsegmentation's samples with the scores of each image."""
        samples: list[Any] = self.postprocess_result(self._forward(inputs), data_samples)
        return samples

    def encode_decode(self, inputs: Tensor, batch_data_samples: Any) -> Tensor:
        """Return the scores (N, classes, H, W)."""
        scores: Tensor = self._forward(inputs)
        return scores
