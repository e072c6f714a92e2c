"""Palettes of maskiges: one colour per class, all of them different.

GSS (Chen et al. 2023, §3.2) chooses them by hand on a grid ("maximal distance"), with a jitter that
brings some of them close to each other, or at random (FF-R).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["check_palette", "farthest", "random_colours", "reproduced"]

_GRID = 6  # candidate colours per channel
_TILE = 16  # pixels of a side of the squares in which candidates are tried: a small object's size
_SHARES = (0.5,)  # of the candidates are kept, those that come back best
_MOSAIC = 12  # squares of a side of the mosaic in which palettes are compared
_LEAST = 4 / 255  # distance below which two colours read back as one: 8-bit rounding and more

RoundTrip = Callable[[Tensor], Tensor]


def check_palette(colours: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Return colours given by hand, RGB in 0 … 255, as (K, 3) float32 in [0, 1].

    A further colour may follow the K of the classes; it is that of ignored pixels, which no pixel
    is ever read as, and is left out. Raises `ValueError` for too few colours, for what is no colour
    and for two equal ones.
    """
    if not num_classes <= len(colours) <= num_classes + 1:
        raise ValueError(
            f"palette has {len(colours)} colours for {num_classes} classes; give one per class"
        )
    for colour in colours:
        if len(colour) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in colour):
            raise ValueError(f"palette holds {list(colour)!r}; give [R, G, B] in 0 … 255")
    seen: dict[tuple[int, ...], int] = {}
    for index, colour in enumerate(map(tuple, colours)):
        if colour in seen:
            raise ValueError(
                f"palette gives {list(colour)} to both {seen[colour]} and {index}, so that one of "
                "them would never be found; give each class its own colour"
            )
        seen[colour] = index
    return torch.tensor(colours[:num_classes], dtype=torch.float32) / 255


def random_colours(num_classes: int, seed: int = 0) -> Tensor:
    """Return (K, 3) float32 drawn evenly from [0, 1]³, as FF-R's; draws that are too near again."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand((1, 3), generator=generator)
    while len(chosen) < num_classes:
        drawn = torch.rand((1, 3), generator=generator)
        if torch.cdist(drawn, chosen).min() > _LEAST:
            chosen = torch.cat([chosen, drawn])
    return chosen


def farthest(num_classes: int, candidates: Tensor | None = None, least: float = _LEAST) -> Tensor:
    """Return (K, 3) of the candidates (N, 3), each as far as possible from those before it.

    Gonzalez 1985; the first is the candidate nearest to black, for the background. Without
    candidates they are a grid of 6³ colours, or a finer one for more classes. Raises `ValueError`
    if two of the chosen are nearer than `least`, in units of the cube's side.
    """
    colours = _grid(num_classes) if candidates is None else candidates
    chosen = [int(colours.square().sum(1).argmin())]
    distance = torch.cdist(colours, colours[chosen]).squeeze(1)
    while len(chosen) < num_classes:
        index = int(distance.argmax())
        if float(distance[index]) < least:
            raise ValueError(
                f"only {len(chosen)} colours of {num_classes} are {255 * least:.0f} levels apart; "
                "use fewer classes, or an autoencoder that reproduces more colours"
            )
        chosen.append(index)
        distance = torch.minimum(distance, (colours - colours[index]).norm(dim=1))
    return colours[chosen]


@torch.no_grad()
def reproduced(
    num_classes: int, round_trip: RoundTrip, seed: int = 0, shares: Sequence[float] = _SHARES
) -> Tensor:
    """Return (K, 3) float32 in [0, 1]: colours that come back from an autoencoder as they were.

    Squares of all candidates are sent through `round_trip` (images in [0, 1] → images), in two
    random arrangements. Among the `shares` that come back best, the colours farthest from each
    other are chosen. Of several shares' palettes the one is returned whose random mosaic is read
    back best.
    """
    colours = _grid(num_classes)
    errors = torch.stack([_errors(colours, round_trip, seed + turn) for turn in range(2)]).sum(0)
    best = colours[errors.argsort()]
    palettes = [
        farthest(num_classes, best[: max(num_classes, int(share * len(colours)))])
        for share in shares
    ]
    if len(palettes) == 1:
        return palettes[0]
    return max(palettes, key=lambda palette: _read_back(palette, round_trip, seed))


def _read_back(palette: Tensor, round_trip: RoundTrip, seed: int) -> float:
    """Return the share of a random mosaic's pixels whose nearest colour is right afterwards."""
    generator = torch.Generator().manual_seed(seed)
    squares = torch.randint(0, len(palette), (_MOSAIC, _MOSAIC), generator=generator)
    label = squares.repeat_interleave(_TILE, 0).repeat_interleave(_TILE, 1)
    back = round_trip(palette[label].permute(2, 0, 1)[None]).float()
    found = torch.cdist(back[0].flatten(1).T, palette).argmin(1)
    return float((found == label.flatten()).float().mean())


def _grid(num_classes: int) -> Tensor:
    """Return the colours of a grid that has eight times as many as there are classes, or more."""
    side = max(_GRID, 2 * int(num_classes ** (1 / 3) + 1))
    levels = torch.linspace(0.04, 0.96, side)  # at the very ends a decoder saturates
    return torch.cartesian_prod(levels, levels, levels)


def _errors(colours: Tensor, round_trip: RoundTrip, seed: int) -> Tensor:
    """Return the distance (N,) between each colour and what comes back of its square."""
    order = torch.randperm(len(colours), generator=torch.Generator().manual_seed(seed))
    side = -(-int(len(colours) ** 0.5 + 1) // 2) * 2
    places = order.repeat(side * side // len(colours) + 1)[: side * side]
    squares = colours[places].T.reshape(1, 3, side, side)
    picture = squares.repeat_interleave(_TILE, 2).repeat_interleave(_TILE, 3)
    back = round_trip(picture).float()
    far = (back - picture).square().sum(1)[0]
    inner = far.reshape(side, _TILE, side, _TILE).mean((1, 3)).flatten()
    return torch.zeros(len(colours)).index_add(0, places, inner) / torch.bincount(
        places, minlength=len(colours)
    )
