"""Training of the token autoencoder, on images and on label maps in random colours ("maskiges").

A maskige is a label map painted in one colour per class (Chen et al. 2023, "Generative Semantic
Segmentation", §3.2). Its colours are drawn anew for each picture, so that the autoencoder suits
class lists and palettes that it never saw.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.embedded.corpus import Corpus
from models.embedded.loop import Progress, Schedule, fit
from models.embedded.tokens import TokenAutoencoder
from models.embedded.training import Reporter, ignore, reconstruction, save_sheet

__all__ = ["train_tokens"]

_CROP = 64  # pixels of a side of the crops
_SHEET_EVERY = 250  # steps
_PALETTE = 24  # random colours, of which a label map shows some; all compete when it is read back
_TEMPERATURE = 0.02  # of squared distances of colours in [0, 1]
_READ = 0.2  # weight of reading the label back


def train_tokens(
    corpus: Corpus,
    folder: Path,
    schedule: Schedule,
    *,
    batch: int = 16,
    device: str = "cpu",
    report: Reporter = ignore,
) -> TokenAutoencoder:
    """Train on random 64² crops, half images and half maskiges; return the averaged network.

    The loss is the embedded autoencoder's, and for maskiges the cross-entropy of the nearest
    colour, since labels are read back by it.
    """

    def look(progress: Progress, average: nn.ModuleDict) -> None:
        report(progress)
        if progress.step % _SHEET_EVERY == 0:
            _reconstruct_sheet(average["tokens"], corpus, folder / "sheet.png")

    torch.manual_seed(0)
    modules = nn.ModuleDict({"tokens": TokenAutoencoder()}).to(device)
    tokens = fit(modules, partial(_loss, corpus, batch, device), schedule, folder, report=look)[
        "tokens"
    ]
    assert isinstance(tokens, TokenAutoencoder)
    return tokens


def _loss(corpus: Corpus, batch: int, device: str, modules: nn.ModuleDict, step: int) -> Tensor:
    """Return the loss of a batch of crops, drawn from `step` alone."""
    rng = np.random.default_rng([step, 23])
    rows = np.sort(rng.integers(0, len(corpus.images), batch))
    top, left = rng.integers(0, corpus.labels.shape[1] - _CROP + 1, 2)
    window = np.s_[rows, top : top + _CROP, left : left + _CROP]
    labels = torch.from_numpy(corpus.labels[window][batch // 2 :].astype(np.int64)).to(device)
    palettes = torch.from_numpy(_colours(rng, len(labels))).to(device)
    images = torch.from_numpy(corpus.images[window][: batch // 2]).to(device)
    pictures = torch.cat([images.permute(0, 3, 1, 2).float() / 255, _paint(labels, palettes)])
    tokens: Any = modules["tokens"]
    found = tokens.round_trip(pictures)
    read = F.cross_entropy(_scores(found[batch // 2 :], palettes), labels)
    return reconstruction(2 * found - 1, 2 * pictures - 1) + _READ * read


def _colours(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Return palettes (count, colours, 3) in [0, 1], of any colours, equal ones excepted."""
    cells = np.stack([rng.choice(8**3, _PALETTE, replace=False) for _ in range(count)])
    grid = np.stack(np.unravel_index(cells, (8, 8, 8)), -1)
    return ((grid + rng.uniform(0.2, 0.8, grid.shape)) / 8).astype(np.float32)


def _paint(labels: Tensor, palettes: Tensor) -> Tensor:
    """Return label maps (B, H, W) in the colours of palettes (B, colours, 3)."""
    rows = torch.arange(len(labels), device=labels.device)[:, None, None]
    return palettes[rows, labels].permute(0, 3, 1, 2)


def _scores(pictures: Tensor, palettes: Tensor) -> Tensor:
    """Return logits (B, colours, H, W) of each pixel's colour."""
    far = torch.cdist(pictures.float().flatten(2).mT, palettes).square()
    size = (len(palettes), _PALETTE, *pictures.shape[2:])
    return -far.mT.reshape(size) / _TEMPERATURE


@torch.no_grad()
def _reconstruct_sheet(tokens: Any, corpus: Corpus, path: Path) -> None:
    """Write four images, four maskiges, and below them their reconstructions."""
    device = next(tokens.parameters()).device
    palettes = torch.from_numpy(_colours(np.random.default_rng(0), 4)).to(device)
    labels = torch.from_numpy(corpus.labels[4:8].astype(np.int64)).to(device)
    images = (
        torch.from_numpy(np.array(corpus.images[:4])).to(device).permute(0, 3, 1, 2).float() / 255
    )
    pictures = torch.cat([images, _paint(labels, palettes)])
    both = torch.stack([pictures, tokens.round_trip(pictures).clamp(0, 1)])
    save_sheet(path, np.asarray((both * 255).byte().permute(0, 1, 3, 4, 2).cpu()))
