"""Training data of the embedded models: drawn pictures, their labels and captions, kept on disk
once drawn.

Pictures are a function of their seed, so the files are a cache and nothing else: delete them and
they come back.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, trainers
from transformers import CLIPTokenizer

from models.embedded import world
from models.embedded.architecture import MAX_TOKENS
from models.embedded.textures import GROUNDS

__all__ = ["CAPTIONS", "Corpus", "open_corpus", "train_tokenizer"]

CAPTIONS = 4  # wordings kept for each picture
_BLOCK = 500  # pictures one process draws at a time


@dataclass(frozen=True)
class Corpus:
    """Pictures (n, 128, 128, 3), labels (n, 128, 128), grounds (n,), token ids (n, CAPTIONS,
    MAX_TOKENS), on disk.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    grounds: NDArray[np.uint8]
    tokens: NDArray[np.int16]


def open_corpus(
    folder: Path, count: int, tokenizer: CLIPTokenizer, *, first_seed: int = 0
) -> Corpus:
    """Draw pictures `first_seed …` into `folder`, or open what an earlier call finished there."""
    size, done = world.SIZE, folder / "done.json"
    shapes = {"images": (count, size, size, 3), "labels": (count, size, size), "grounds": (count,)}
    if not done.exists() or json.loads(done.read_text()) != [first_seed, count]:
        folder.mkdir(parents=True, exist_ok=True)
        for name, shape in shapes.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
        starts = range(0, count, _BLOCK)
        jobs = [(folder, s, min(s + _BLOCK, count), first_seed) for s in starts]
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            captions = [text for texts in pool.map(_draw_block, jobs) for text in texts]
        ids = tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="np",
        )
        np.save(
            folder / "tokens.npy",
            ids["input_ids"].astype(np.int16).reshape(count, CAPTIONS, MAX_TOKENS),
        )
        done.write_text(json.dumps([first_seed, count]))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*shapes, "tokens")}
    return Corpus(**arrays)


def _draw_block(job: tuple[Path, int, int, int]) -> list[str]:
    folder, start, stop, first_seed = job
    images, labels, grounds = (
        np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("images", "labels", "grounds")
    )
    order, captions = list(GROUNDS), []
    for row in range(start, stop):
        drawing = world.draw(first_seed + row)
        images[row], labels[row], grounds[row] = (
            drawing.image,
            drawing.label,
            order.index(drawing.scene.ground),
        )
        rng = np.random.default_rng([first_seed + row, 1])
        captions += [world.describe(drawing.scene, rng) for _ in range(CAPTIONS)]
    return captions


def train_tokenizer(path: Path, prompts: int = 20_000) -> None:
    """Write CLIP-style byte pairs for the world's prompts to `path`; other words fall apart into
    letters.
    """
    special = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=special[1]))
    backend = CLIPTokenizer().backend_tokenizer
    tokenizer.normalizer, tokenizer.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    letters = [chr(c) + end for c in range(33, 127) for end in ("", "</w>")]
    trainer = trainers.BpeTrainer(
        vocab_size=768, special_tokens=special + letters, end_of_word_suffix="</w>"
    )
    rngs = (np.random.default_rng([seed, 2]) for seed in range(prompts))
    tokenizer.train_from_iterator((world.describe(world.sample_scene(r), r) for r in rngs), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    path.write_text(json.dumps({"vocab": model["vocab"], "merges": model["merges"]}), "utf-8")
