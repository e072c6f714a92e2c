"""The oracle: a small segmenter trained on exact labels of the drawn world, only used to measure.

It labels every pixel with a class or a background of the world. So it tells whether a generated
image shows what its prompt names, and how good a label is where there is no exact truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.embedded import world
from models.embedded.corpus import Corpus
from models.embedded.loop import Schedule, fit
from models.embedded.training import Reporter, ignore, to_unit

__all__ = ["Oracle", "Seen", "load_oracle", "train_oracle"]

_WEIGHTS = Path(__file__).parent / "oracle.safetensors"
_CLASSES = len(world.vocabulary()["classes"])
_GROUNDS = [b["name"] for b in world.vocabulary()["backgrounds"]]
_WIDTHS = (48, 96, 160, 224)
# Side of the pixel blocks that become channels: takes half the time of full-size layers with three
# times the weights.
_FOLD = 2


class Seen(NamedTuple):
    """Class ids (B, H, W) uint8, 0 = background; and per image the largest background's name."""

    labels: NDArray[np.uint8]
    grounds: list[str]


def _convolve(inputs: int, outputs: int) -> nn.Sequential:
    layers = [
        part
        for channels in (inputs, outputs)
        for part in (
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )
    ]
    return nn.Sequential(*layers)


class Oracle(nn.Module):
    """A U-Net (Ronneberger et al. 2015) over 2×2 pixels folded into channels.

    From (B, 3, H, W) in [-1, 1] to logits (B, 1 + classes + backgrounds, H, W). Channel 0 is never
    right, as each background has its own channel; it keeps class ids and channels equal.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3 * _FOLD**2, *_WIDTHS)
        self.down = nn.ModuleList(_convolve(a, b) for a, b in zip(inputs, _WIDTHS, strict=False))
        pairs = list(zip(_WIDTHS[::-1], _WIDTHS[-2::-1], strict=False))
        self.up = nn.ModuleList(_convolve(a + b, b) for a, b in pairs)
        self.head = nn.Conv2d(_WIDTHS[0], (1 + _CLASSES + len(_GROUNDS)) * _FOLD**2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at full size."""
        folded = F.pixel_unshuffle(images, _FOLD)
        x = folded.contiguous(memory_format=torch.channels_last)  # a fifth faster on CPUs
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="bilinear"), skip], 1))
        return F.pixel_shuffle(self.head(x), _FOLD)

    @torch.inference_mode()
    def see(self, images: NDArray[np.uint8], batch: int = 64) -> Seen:
        """Label images (B, H, W, 3) uint8."""
        device = next(self.parameters()).device
        every = [
            self(to_unit(images[i : i + batch], device)).argmax(1).byte().cpu()
            for i in range(0, len(images), batch)
        ]
        ids = np.asarray(torch.cat(every))
        counts = np.stack([(ids == 1 + _CLASSES + g).sum((1, 2)) for g in range(len(_GROUNDS))], 1)
        return Seen(
            np.where(ids > _CLASSES, 0, ids).astype(np.uint8),
            [_GROUNDS[i] for i in counts.argmax(1)],
        )


def load_oracle(path: Path = _WEIGHTS) -> Oracle:
    """Return the oracle that ships with the project, in eval mode."""
    oracle = Oracle()
    oracle.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return oracle.eval()


def save_oracle(oracle: nn.Module, path: Path = _WEIGHTS) -> None:
    """Write its weights in fp16."""
    state = oracle.state_dict().items()
    save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in state}, path)


def train_oracle(
    corpus: Corpus,
    folder: Path,
    schedule: Schedule,
    *,
    batch: int = 16,
    device: str = "cpu",
    report: Reporter = ignore,
) -> Oracle:
    """Train on exact labels by cross-entropy; return the averaged network.

    Images are flipped, blurred and changed in tone, so that the oracle also reads generated ones.
    """

    def loss(modules: nn.ModuleDict, step: int) -> Tensor:
        rng = np.random.default_rng([step, 17])
        rows = np.sort(rng.integers(0, len(corpus.images), batch))
        images = _disturb(to_unit(corpus.images[rows], device), rng)
        labels = torch.from_numpy(corpus.labels[rows].astype(np.int64))
        grounds = torch.from_numpy(corpus.grounds[rows].astype(np.int64))[:, None, None]
        target = torch.where(labels == 0, 1 + _CLASSES + grounds, labels).to(device)
        if step % 2:
            images, target = images.flip(-1), target.flip(-1)
        return F.cross_entropy(modules["oracle"](images).float(), target)

    torch.manual_seed(0)
    modules = nn.ModuleDict({"oracle": Oracle()}).to(device)
    oracle = fit(modules, loss, schedule, folder, report=lambda progress, _: report(progress))[
        "oracle"
    ]
    assert isinstance(oracle, Oracle)
    return oracle


def _disturb(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images (B, 3, H, W) changed at random in contrast, tint and noise.

    Half of them lose detail: they are shrunk by 1.3 to 2.5 and enlarged again.
    """
    half = len(images) // 2
    size = images.shape[-1]
    small = F.interpolate(
        images[:half], size=int(size / rng.uniform(1.3, 2.5)), mode="bilinear", antialias=True
    )
    images = torch.cat([F.interpolate(small, size=size, mode="bicubic"), images[half:]])
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(images), 1, 1, 1)).astype(np.float32))
    tint = torch.from_numpy(rng.normal(0, 0.04, (len(images), 3, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(0, 0.03, images.shape).astype(np.float32))
    return images * gain.to(images.device) + (tint + noise).to(images.device)
