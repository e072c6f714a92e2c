"""Generate labelled images with a Stable Diffusion directory of your own.

    python examples/bring_your_own_diffusion.py [--pipeline DIRECTORY] [--out FOLDER]

DIRECTORY is what diffusers' `save_pretrained` wrote; by default the small model that ships with
segmint. Each image and its label map (0 background, 1 object, 255 uncertain) become PNG files. For
a whole run: `segmint run --set generator.path=DIRECTORY`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import segmint
from models.masks import merge_resolutions, propagate

PROMPTS = {"a red car on a street": "car", "a bird in the sky": "bird"}  # prompt: object
PALETTE = [0, 0, 0, 230, 120, 30] + [255] * 762  # black, orange, white; the pixels stay label ids


def main() -> None:
    """Write an image and a label map per prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", default="embedded")
    parser.add_argument("--out", type=Path, default=Path("out/examples"))
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    pipeline = segmint.load_pipeline(arguments.pipeline)
    requests = [segmint.Request(prompt, [name], seed=7) for prompt, name in PROMPTS.items()]
    sampling = segmint.Sampling(arguments.steps, guidance_scale=7.5, guidance_rescale=0.8)
    made = segmint.generate(pipeline, requests, sampling)

    # The attention of each word, averaged over resolutions, then spread along self-attention.
    side = max(made.self_attention)
    cross = {size: torch.from_numpy(maps) for size, maps in made.cross.items()}
    affinity = torch.from_numpy(made.self_attention[side]).float()
    attention = propagate(merge_resolutions(cross, side), affinity, 2)
    images = torch.from_numpy(made.images)
    refined = segmint.refine_labels(images, attention, [1], iterations=3, band=0.1)

    for name, image, label in zip(PROMPTS.values(), made.images, refined.label, strict=True):
        Image.fromarray(image).save(arguments.out / f"{name}.png")
        labels = Image.fromarray(label.numpy())
        labels.putpalette(PALETTE)
        labels.save(arguments.out / f"{name}-label.png")
        print(f"{arguments.out / name}.png: {(label == 1).float().mean():.0%} of it is {name}")


if __name__ == "__main__":
    main()
