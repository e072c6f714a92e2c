"""PIDNet's head, which also learns the edges of labels; they are computed here."""

from __future__ import annotations

from typing import Any

import torch

from models.metrics import IGNORE
from models.segmenters.openmmlab import MODELS, GenerateEdge, PIDHead, PixelData

__all__ = ["EdgeHead"]

_WIDTH = 4  # pixels, in all of mmsegmentation's configs of PIDNet


@MODELS.register_module(name="PIDHead", force=True)
class EdgeHead(PIDHead):  # type: ignore[misc]  # mmsegmentation has no types
    """mmsegmentation's head (Xu et al. 2023, "PIDNet") for samples without a map of edges."""

    def _stack_batch_gt(self, batch_data_samples: list[Any]) -> Any:
        edges = GenerateEdge(_WIDTH, IGNORE)
        for sample in batch_data_samples:
            label = sample.gt_sem_seg.data
            seen = {"img_shape": label.shape[1:], "gt_seg_map": label[0].cpu().numpy()}
            found = torch.from_numpy(edges.transform(seen)["gt_edge_map"])
            sample.gt_edge_map = PixelData(data=found.to(label)[None])
        return super()._stack_batch_gt(batch_data_samples)
