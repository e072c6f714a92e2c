"""Labels by DiffuMask's full method (ICCV 2023, §3.3): seeds, random walk, adaptive threshold.

The published parameters suit maps whose split is near 0.5, as `object_scores` makes them. On 40
drawn scenes seeds from those had precision 0.995 and labels IoU 0.85; from maps that are not spread
and divided by their maximum, 0.83 and 0.73. The setting `refine.method` chooses this method; the
default is `refine_labels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.masks.contours import tidy
from models.masks.diffumask.affinity import AffinityNet, affinity_loss, pair_affinity, random_walk
from models.masks.diffumask.seeds import PUBLISHED_RULE, SeedRule, seed_labels
from models.masks.diffumask.threshold import Thresholded, adaptive_threshold
from models.masks.labels import IGNORE
from models.masks.refinement import Refined, ground_alone, object_scores

__all__ = ["Walked", "class_seeds", "train_affinity", "walk_attention", "walk_labels"]

GROUND = 0.45  # DiffuMask's score of the background
_STRIDE = 4  # of AffinityNet's features


def class_seeds(images: Tensor, scores: Tensor, rules: Sequence[SeedRule] = ()) -> Tensor:
    """Return seeds (B, H, W) uint8: class 1 to C, 0 background, 255 unknown.

    `scores` is (B, C, H, W) in [0, 1]. A pixel is background if it is so for every class, and
    unknown if two classes claim it. `rules`, one per class, default to the published one.
    """
    seeds = torch.full_like(images[..., 0], IGNORE)
    every = [
        seed_labels(images, of_class, rule)
        for of_class, rule in zip(
            scores.unbind(1), rules or [PUBLISHED_RULE] * scores.shape[1], strict=True
        )
    ]
    stacked = torch.stack(every, 1)
    seeds[(stacked == 0).all(1)] = 0
    claimed = (stacked == 1).sum(1)
    for channel, of_class in enumerate(every, 1):
        seeds[(of_class == 1) & (claimed == 1)] = channel
    return seeds


def train_affinity(
    net: AffinityNet,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float = 3e-3,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train `net` in place on batches of images (B, H, W, 3) uint8 with seeds (B, H, W).

    AdamW with a learning rate that falls linearly to zero. Every other batch is mirrored.
    `report(step, loss)` is called after each step.
    """
    device = next(net.parameters()).device
    optimiser = torch.optim.AdamW(net.train().parameters(), learning_rate, fused=True)
    for step, (images, seeds) in zip(range(steps), batches, strict=False):
        pixels = images.to(device).permute(0, 3, 1, 2) / 255
        known = seeds.to(device)
        if step % 2:
            pixels, known = pixels.flip(3), known.flip(2)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        features = net(pixels)
        # the seeds next to the middle of the features' cells
        middle = slice(_STRIDE // 2, None, _STRIDE)
        loss = affinity_loss(pair_affinity(features), known[:, middle, middle])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        if report:
            report(step, float(loss.detach()))
    net.eval()


class Walked(NamedTuple):
    """Scores (B, 1 + C, H, W) of background and classes after the walk; thresholds per class."""

    scores: Tensor
    fitted: tuple[Thresholded, ...]


@torch.no_grad()
def walk_attention(
    images: Tensor, maps: Tensor, net: AffinityNet, words: Tensor | None = None
) -> Walked:
    """Spread attention maps (B, C, r, r) of C > 0 classes by a walk along `net`'s affinity.

    `images` is (B, H, W, 3) uint8; `words`: see `object_scores`. The winning classes after the walk
    are the reference to which the adaptive threshold fits each class's own map.
    """
    height, width = images.shape[1:3]
    own = object_scores(maps, (height, width), words)[:, 1:]
    affinity = pair_affinity(net(images.permute(0, 3, 1, 2) / 255))
    given = torch.cat([torch.full_like(own[:, :1], GROUND), own], 1)
    walked = random_walk(
        F.adaptive_avg_pool2d(given, (affinity.shape[2], affinity.shape[3])), affinity
    )
    scores = F.interpolate(walked, size=(height, width), mode="bilinear", align_corners=False)
    winner = scores.argmax(1)
    classes = enumerate(own.unbind(1), 1)
    fitted = tuple(adaptive_threshold(images, each, winner == c) for c, each in classes)
    return Walked(scores, fitted)


def walk_labels(
    images: Tensor,
    maps: Tensor,
    ids: Sequence[int],
    net: AffinityNet,
    *,
    words: Tensor | None = None,
) -> Refined:
    """Label images (B, H, W, 3) uint8 by maps (B, C, r, r) of C classes with these ids.

    See `walk_attention`. Where masks of classes overlap, the one with the higher score after the
    walk wins. Pixels on which walk and thresholds disagree are 255. Consistency is the IoU of their
    foregrounds, confidence their agreement over the pixels that either labels.
    """
    if not ids:
        return ground_alone(images)
    scores, fitted = walk_attention(images, maps, net, words)
    winner = torch.where(torch.stack([each.mask for each in fitted], 1), scores[:, 1:], -1.0).max(1)
    reference = scores.argmax(1)
    found = torch.where(winner.values > -1, winner.indices + 1, 0)
    named = torch.tensor([0, *ids], dtype=torch.uint8, device=images.device)[found]
    agree = found == reference
    either = (found > 0) | (reference > 0)
    labelled = either.sum((1, 2)).clamp_min(1)
    confidence = (agree & either).sum((1, 2)) / labelled
    consistency = ((found > 0) & (reference > 0)).sum((1, 2)) / labelled
    return Refined(tidy(torch.where(agree, named, IGNORE).to(torch.uint8)), confidence, consistency)
