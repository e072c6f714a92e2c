"""Segment an image with a trained checkpoint.

    python examples/use_a_checkpoint.py IMAGE [--store STORE] [--checkpoint NAME] [--out FILE]

STORE is a folder or s3://bucket/prefix; by default out/store, which `make demo` writes. NAME is the
champion by default; `segmint checkpoints` lists all. The overlay goes to FILE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import segmint

COLOURS = np.random.default_rng(3).integers(64, 256, (256, 3))  # one per label id


def main() -> None:
    """Print the share of each class in an image, and save the image with its label map on top."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--store", default="out/store")
    parser.add_argument("--checkpoint")
    parser.add_argument("--out", type=Path, default=Path("out/examples/overlay.png"))
    arguments = parser.parse_args()

    segmenter = segmint.load_segmenter(arguments.store, arguments.checkpoint)
    image = np.array(Image.open(arguments.image).convert("RGB"))
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]  # (1, 3, H, W) uint8
    probabilities = segmint.predict_probabilities(segmenter, batch)  # (1, classes, H, W)
    label = probabilities[0].argmax(0).numpy()

    for number, name in enumerate(segmenter.classes):
        share = (label == number).mean()
        if share > 0:
            print(f"{name}: {share:.1%} of the pixels")
    tinted = np.where(label[..., None] > 0, image / 2 + COLOURS[label] / 2, image)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tinted.astype(np.uint8)).save(arguments.out)
    print(f"overlay: {arguments.out}")


if __name__ == "__main__":
    main()
