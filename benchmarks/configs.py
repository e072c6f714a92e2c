"""Do mmsegmentation's own configs work by name: built, trained by their own schedule, measured?

Two configs of each of ten families and more. Each trains two steps on 128-pixel crops of drawn
scenes, by its own optimiser, schedule and augmentations, and predicts one scene.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from benchmarks.claims import Claim, Size, run
from infra.settings import TrainSettings
from models.segmenters import (
    ArraySet,
    DrawnScenes,
    predict_probabilities,
    train_segmenter,
)
from tasks.train.recipe import recipe_of

CONFIGS = (
    "ann_r50-d8_4xb2-40k_cityscapes-512x1024",
    "bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024",
    "cgnet_fcn_4xb4-60k_cityscapes-680x680",
    "danet_r50-d8_4xb4-20k_voc12aug-512x512",
    "ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024",
    "deeplabv3_r50-d8_4xb4-80k_ade20k-512x512",
    "deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512",
    "encnet_r50-d8_4xb4-80k_ade20k-512x512",
    "erfnet_fcn_4xb4-160k_cityscapes-512x1024",
    "fast_scnn_8xb4-160k_cityscapes-512x1024",
    "fcn_r50-d8_4xb4-80k_ade20k-512x512",
    "fcn_hr18s_4xb4-20k_voc12aug-512x512",
    "gcnet_r50-d8_4xb4-80k_ade20k-512x512",
    "isanet_r50-d8_4xb4-80k_ade20k-512x512",
    "mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512",
    "ocrnet_hr18s_4xb4-80k_ade20k-512x512",
    "pspnet_r50-d8_4xb4-80k_ade20k-512x512",
    "segformer_mit-b0_8xb2-160k_ade20k-512x512",
    "segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512",
    "fpn_r50_4xb4-160k_ade20k-512x512",
    "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512",
    "twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512",
    "unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024",
    "upernet_r50_4xb4-80k_ade20k-512x512",
)
CROP = (128, 128)


def main(size: Size) -> list[Claim]:
    names = CONFIGS[:2] if size == "quick" else CONFIGS
    worked = [name for name in names if works(name)]
    families = {name.replace("_", "-").split("-")[0] for name in worked}
    return [
        Claim("configs that build, train and predict", len(worked), f"== {len(names)}"),
        Claim("families among them", len(families), f">= {1 if size == 'quick' else 10}"),
    ]


def works(name: str) -> bool:
    classes = DrawnScenes.classes
    settings = TrainSettings(model=name, schedule="config", weights="random", steps=2, batch_size=2)
    begun = time.monotonic()
    try:
        recipe = replace(recipe_of(settings, 0), crop=CROP, precision="fp32")
        trained = train_segmenter(ArraySet(DrawnScenes(8, first=0), classes), classes, recipe)
        images = torch.stack([ArraySet(DrawnScenes(1), classes)[0]["image"]])
        found = predict_probabilities(trained.segmenter, images)
    except Exception as error:  # a config that fails is a figure of this benchmark
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
        return False
    right = found.shape == (1, len(classes), 128, 128) and bool(found.isfinite().all())
    print(f"{name}: {'works' if right else 'wrong output'}, {time.monotonic() - begun:.0f} s")
    return right


if __name__ == "__main__":
    run("configs", main)
