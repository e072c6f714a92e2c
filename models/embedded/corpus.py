"""Training data of the embedded models: drawn images, their labels and captions, cached on disk.

Images depend on their seed alone, so deleted files are drawn again.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from models.embedded import world
from models.embedded.architecture import MAX_TOKENS
from models.embedded.textures import GROUNDS

__all__ = ["CAPTIONS", "Corpus", "open_corpus"]

CAPTIONS = 4  # captions per image
_BLOCK = 500  # images that one process draws at a time


@dataclass(frozen=True)
class Corpus:
    """Memory-mapped arrays of n drawn images.

    `images` (n, 128, 128, 3), `labels` (n, 128, 128), `grounds` (n,) number of the background,
    `tokens` (n, CAPTIONS, MAX_TOKENS).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    grounds: NDArray[np.uint8]
    tokens: NDArray[np.int16]


def open_corpus(
    folder: Path, count: int, tokenizer: CLIPTokenizer, *, first_seed: int = 0
) -> Corpus:
    """Draw images of the seeds from `first_seed` on into `folder`, unless an earlier call did."""
    size = world.SIZE
    done = folder / "done.json"
    shapes = {"images": (count, size, size, 3), "labels": (count, size, size), "grounds": (count,)}
    if not done.exists() or json.loads(done.read_text()) != [first_seed, count]:
        folder.mkdir(parents=True, exist_ok=True)
        for name, shape in shapes.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        starts = range(0, count, _BLOCK)
        jobs = [(folder, s, min(s + _BLOCK, count), first_seed) for s in starts]
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            captions = [text for texts in pool.map(_draw_block, jobs) for text in texts]
        np.save(folder / "tokens.npy", _token_ids(captions, tokenizer))
        done.write_text(json.dumps([first_seed, count]))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*shapes, "tokens")}
    return Corpus(**arrays)


def _token_ids(captions: list[str], tokenizer: CLIPTokenizer) -> NDArray[np.int16]:
    """Return token ids (n, CAPTIONS, MAX_TOKENS) of CAPTIONS captions per image."""
    ids = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="np",
    )
    return np.asarray(ids["input_ids"], np.int16).reshape(-1, CAPTIONS, MAX_TOKENS)


def _draw_block(job: tuple[Path, int, int, int]) -> list[str]:
    folder, start, stop, first_seed = job
    images, labels, grounds = (
        np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("images", "labels", "grounds")
    )
    order = list(GROUNDS)
    captions = []
    for row in range(start, stop):
        drawing = world.draw(first_seed + row)
        images[row] = drawing.image
        labels[row] = drawing.label
        grounds[row] = order.index(drawing.scene.ground)
        rng = np.random.default_rng([first_seed + row, 1])
        captions += [world.describe(drawing.scene, rng) for _ in range(CAPTIONS)]
    return captions
