"""How good are the labels: against the oracle on generated images, and against exact truth on
drawn ones?
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from numpy.typing import NDArray

from benchmarks.claims import Claim, Size, run
from benchmarks.night import Night, night
from infra.settings import Settings
from infra.vocabulary import has_word
from models.attention import AttentionRecorder
from models.embedded import world
from models.embedded.oracle import load_oracle
from models.generators import load_pipeline
from models.metrics import mask_iou
from tasks.refine.labels import refine_rows
from tasks.select.judge import judge_rows
from tasks.synthesize import phrases_of, spread_attention

MIDDLE = 0.5  # noise level at which drawn images enter the schedule
_TRUTHS = {"quick": 24, "default": 400, "full": 1000}
_BATCH = 20


def main(size: Size) -> list[Claim]:
    made = night(size)
    ids = made.settings.load_vocabulary().ids
    one = made.table[made.table["classes"].map(len) == 1]
    kept = one[one["keep"]]
    oracle = load_oracle().see(made.read("synthesize", "image", kept)).labels
    scores = class_means(made.read("refine", "label", kept), oracle, kept, ids)
    print("label against oracle, by class:", scores.round(3).to_dict())
    for count in (2, 3):
        rows = made.table[made.table["classes"].map(len) == count]
        print(f"label against oracle, {count} objects: {named_means(made, rows, ids)}")
    every, selected = against_truth(made.settings, _TRUTHS[size])
    print(f"label against exact truth: all {every:.3f}, kept {selected:.3f}")
    return [
        Claim(
            "label against the oracle on kept one-object images, mean class IoU",
            float(scores.mean()),
            ">= 0.85",
        ),
        Claim("share of one-object images kept", float(one["keep"].mean()), ">= 0.6"),
        Claim("label against exact truth on drawn scenes, all of them", every, ">= 0.78"),
    ]


def class_means(
    labels: NDArray[np.uint8], reference: NDArray[np.uint8], rows: pd.DataFrame, ids: dict[str, int]
) -> pd.Series[float]:
    """Return each class's mean IoU over the images that name it; 255 counts as not labelled."""
    names = rows["classes"].map(lambda classes: classes[0])
    iou = [iou_of(*maps) for maps in zip(labels, reference, names.map(ids), strict=True)]
    return pd.Series(iou, names).groupby(level=0).mean()


def named_means(made: Night, rows: pd.DataFrame, ids: dict[str, int]) -> dict[str, float]:
    """Return the mean IoU of the run's labels with the oracle's over the classes that prompts name.

    "all" is over all these rows of the run, "kept" over those that the selection keeps.
    """
    labels = made.read("refine", "label", rows)
    seen = load_oracle().see(made.read("synthesize", "image", rows)).labels
    found: dict[str, list[float]] = {"all": [], "kept": []}
    for label, reference, row in zip(labels, seen, rows.to_dict("records"), strict=True):
        ious = [iou_of(label, reference, ids[name]) for name in row["classes"]]
        found["all"] += ious
        found["kept"] += ious if row["keep"] else []
    return {name: float(np.mean(ious)) for name, ious in found.items()}


def iou_of(label: NDArray[np.uint8], truth: NDArray[np.uint8], class_id: int) -> float:
    """Return the IoU of one class, 0 if it is in neither map."""
    return mask_iou(label == class_id, truth == class_id)


def against_truth(settings: Settings, count: int) -> tuple[float, float]:
    """Return the mean IoU with exact truth, of all scenes and of those that the selection keeps.

    Held-out scenes of one object are noised half way and denoised under the recorder.
    """
    rows, images, truth = drawn_rows(settings, count)
    denoised = [denoise(settings, batch, images[batch.index]) for batch in batches(rows)]
    cross, attention = (np.concatenate(maps) for maps in zip(*denoised, strict=True))
    ids = settings.load_vocabulary().ids
    labels, table = refine_rows(images, attention, cross, rows, settings.refine, ids)
    columns = table.assign(kind="single", classes=rows["classes"])
    keep = judge_rows(images, labels, columns, settings.select, ids)["keep"].to_numpy()
    every = class_means(labels, truth, rows, ids).mean()
    selected = class_means(labels[keep], truth[keep], rows[keep], ids).mean()
    return float(every), float(selected)


def drawn_rows(
    settings: Settings, count: int
) -> tuple[pd.DataFrame, NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a plan's columns for held-out scenes of one object, every class in turn, with their
    images and exact labels.
    """
    classes = settings.load_vocabulary().classes
    rows, drawings = [], []
    for index in range(count):
        entry = classes[index % len(classes)]
        rng = np.random.default_rng(world.HELD_OUT + index)
        scene = world.sample_scene(rng, [entry.name])
        prompt = world.describe(scene, rng)
        words = [word for word in entry.words if has_word(prompt, word)]
        phrases = [noun_phrase(prompt, word) for word in words[:1]]
        rows.append(
            {
                "row": index,
                "id": f"{index:08d}",
                "prompt": prompt,
                "classes": [entry.name],
                "phrases": phrases,
                "background": scene.ground,
            }
        )
        drawings.append(world.draw_scene(scene))
    images = np.stack([drawing.image for drawing in drawings])
    labels = np.stack([drawing.label for drawing in drawings])
    return pd.DataFrame(rows), images, labels


def noun_phrase(prompt: str, word: str) -> str:
    """Return `word` with the adjectives before it.

    In "a photo of a small red car on sand", "car" is found as "small red car".
    """
    found = re.search(rf".*\ban? ((?:\w+ )*{re.escape(word)})\b", f" {prompt}")
    return found[1] if found else word


def batches(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, len(rows), _BATCH):
        yield rows.iloc[start : start + _BATCH]


def denoise(
    settings: Settings, rows: pd.DataFrame, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return plain and spread attention of the phrases, recorded while diffusers' image-to-image
    pipeline denoises.
    """
    chosen = settings.generator
    pipeline = load_pipeline(chosen.path, device=chosen.device, dtype=chosen.dtype)
    sampler = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    sampler.set_progress_bar_config(disable=True)
    vocabulary = settings.load_vocabulary()
    prompts = list(rows["prompt"])
    phrases = [phrases_of(row, vocabulary) for row in rows.to_dict("records")]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    generators = [torch.Generator().manual_seed(int(row)) for row in rows["row"]]
    with AttentionRecorder(sampler, prompts, phrases, self_attention=True) as recorder:
        sampler(
            prompts,
            image=pixels,
            strength=MIDDLE,
            num_inference_steps=chosen.num_inference_steps,
            guidance_scale=chosen.guidance_scale,
            generator=generators,
            output_type="latent",
        )
    cross, own = (
        {r: m.half().numpy() for r, m in maps.items()}
        for maps in (recorder.cross, recorder.self_attention)
    )
    return spread_attention(cross, own, settings.refine.propagation_steps)


if __name__ == "__main__":
    run("masks", main)
