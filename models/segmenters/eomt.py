"""EoMT as an mmsegmentation model: a plain ViT whose last blocks also hold the queries.

Kerssies et al. 2025, "Your ViT is Secretly an Image Segmentation Model". The parts are
transformers', and their tensors have the names of Hugging Face's checkpoints. transformers' own
forward gives no predictions of single blocks, takes one image size, and leaves mask annealing to
its user; so it is written here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EomtConfig, EomtForUniversalSegmentation

from models.segmenters.openmmlab import MODELS
from models.segmenters.queries import Predictions, QuerySegmentor

__all__ = ["Eomt"]

# Of the annealing, as in the authors' configs for 3 to 5 blocks (github.com/tue-mps/eomt): where
# the fall of the first and of the last block begins, and how long each lasts, in shares of the
# training; the power of its polynomial.
_FIRST, _LAST = 1 / 6, 4 / 6
_FALL = 1 / 6
_POWER = 0.9


# of transformers' network: all but its losses
_PARTS = (
    "embeddings",
    "query",
    "layers",
    "layernorm",
    "upscale_block",
    "mask_head",
    "class_predictor",
)


_ATTENTION: dict[str, Any] = {"attn_implementation": "sdpa"}  # which takes masks of booleans


def _network(**sizes: Any) -> EomtForUniversalSegmentation:
    return EomtForUniversalSegmentation(EomtConfig(**sizes, **_ATTENTION))


@MODELS.register_module(force=True)
class Eomt(QuerySegmentor):
    """The published network, for semantic labels, with images of any size.

    With `queries` None there is one per class, which is matched with its own class (see
    `Mask2Former`). `blocks` of the `layers` hold the queries. `patch` is the side of a patch in
    pixels, and `side` that of the square that position embeddings are kept for; others are
    interpolated. `upscales` doublings lie between patches and masks. `registers`, `gated` (SwiGLU)
    and `scale` (LayerScale's first value) are those of the ViT.

    In training, a block's queries attend only to what their masks show, with a probability that
    `at_share` takes from 1 to 0. Outside of training nothing is masked, as at a training's end.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 1024,
        layers: int = 24,
        heads: int = 16,
        blocks: int = 4,
        queries: int | None = 100,
        patch: int = 16,
        side: int = 512,
        registers: int = 4,
        upscales: int = 2,
        gated: bool = False,
        scale: float = 1.0,
        points: int = 12544,
        **common: Any,
    ) -> None:
        super().__init__(num_classes, queries, points, **common)
        network = _network(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_blocks=blocks,
            num_queries=self.queries,
            patch_size=patch,
            image_size=side,
            num_register_tokens=registers,
            num_upscale_blocks=upscales,
            use_swiglu_ffn=gated,
            layerscale_value=scale,
            num_labels=num_classes,
        )
        for name in _PARTS:
            self.add_module(name, network.get_submodule(name))
        # written to the checkpoint and to snapshots like a weight
        self.register_buffer("attn_mask_probs", torch.ones(blocks))
        self.divisor = patch

    def at_share(self, progress: float) -> None:
        """Set the probability of masked attention per block for this share of the training done.

        The first block's falls in the second sixth of the training, the last one's in the fifth.
        Those between begin at even distances.
        """
        blocks = len(self.attn_mask_probs)
        for block in range(blocks):
            begin = _FIRST + (_LAST - _FIRST) * block / max(1, blocks - 1)
            fallen = min(1.0, max(0.0, (progress - begin) / _FALL))
            self.attn_mask_probs[block] = (1 - fallen) ** _POWER

    def extract_feat(self, inputs: Tensor) -> Any:
        """Return the embedded patches (N, tokens, width)."""
        return self._embedded(inputs)

    def layers_of(self, inputs: Tensor) -> list[Predictions]:
        """Return the predictions before each block with queries and after the last one."""
        tokens = self._embedded(inputs)
        grid = inputs.shape[2] // self.divisor, inputs.shape[3] // self.divisor
        plain = len(self.layers) - len(self.attn_mask_probs)
        found: list[Predictions] = []
        for index, layer in enumerate(self.layers):
            mask = None
            if index == plain:
                queries = self.query.weight.expand(len(tokens), -1, -1)
                tokens = torch.cat([queries, tokens], 1)
            if index >= plain and self.training:
                found.append(self._predicted(tokens, grid))
                mask = self._mask(found[-1].masks, grid, self.attn_mask_probs[index - plain])
            tokens = layer(tokens, mask)
        return [*found, self._predicted(tokens, grid)]

    def _embedded(self, inputs: Tensor) -> Tensor:
        """Return class token, registers and patches with their positions (N, tokens, width)."""
        patches = self.embeddings.patch_embeddings.projection(inputs)
        positions = self.embeddings.position_embeddings.weight.T
        side = int(positions.shape[1] ** 0.5)
        positions = positions.view(1, -1, side, side)
        if patches.shape[2:] != (side, side):
            size = patches.shape[2:]
            positions = F.interpolate(positions, size, mode="bicubic", align_corners=False)
        tokens = (patches + positions).flatten(2).mT
        prefix = torch.cat([self.embeddings.cls_token, self.embeddings.register_tokens], 1)
        return torch.cat([prefix.expand(len(tokens), -1, -1), tokens], 1)

    def _predicted(self, tokens: Tensor, grid: tuple[int, int]) -> Predictions:
        tokens = self.layernorm(tokens)
        queries = tokens[:, : len(self.query.weight)]
        patches = tokens[:, -grid[0] * grid[1] :].mT
        patches = patches.reshape(*patches.shape[:2], *grid)
        embedded = self.mask_head(queries)
        masks = torch.einsum("nqc,nchw->nqhw", embedded, self.upscale_block(patches))
        return Predictions(self.class_predictor(queries), masks)

    def _mask(self, masks: Tensor, grid: tuple[int, int], chance: Tensor) -> Tensor:
        """Return what each token attends to (N, 1, tokens, tokens), True where it does.

        A query attends to the patches in its mask; all patches if it is drawn not to be masked.
        """
        images, queries = masks.shape[:2]
        count = grid[0] * grid[1]
        shown = F.interpolate(masks.detach().float(), grid, mode="bilinear").flatten(2) > 0
        free = torch.rand(images, queries, 1, device=masks.device) >= chance
        total = queries + self.embeddings.num_prefix_tokens + count
        attended = torch.ones(images, 1, total, total, dtype=torch.bool, device=masks.device)
        attended[:, 0, :queries, -count:] = shown | free
        return attended
