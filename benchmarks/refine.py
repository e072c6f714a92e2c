"""Is the adaptive threshold 20 times faster than the published way, with the same masks, and is
stored attention small?

The published way is DiffuMask's released code. It runs a dense CRF with 21 labels per image at each
of 20 thresholds, by pydensecrf, which has no wheels. To build it:

    pip install "cython<3" "setuptools<70" wheel
    pip download --no-deps --no-build-isolation --no-binary :all: pydensecrf
    tar xzf pydensecrf-*.tar.gz
    cd pydensecrf-*/
    cython --cplus pydensecrf/*.pyx
    pip install --no-build-isolation .
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.claims import Claim, Size, run
from infra.settings import Settings
from infra.store import Store, write_shard
from models.generators import Request, Sampling, generate, load_pipeline
from models.masks import GRID, adaptive_threshold, refine_labels
from tasks.plan.rows import make_plan
from tasks.synthesize import spread_attention

try:
    from pydensecrf.densecrf import DenseCRF2D  # type: ignore[import-not-found]
except ImportError as error:
    raise SystemExit(
        f"{error}: the benchmark compares with pydensecrf; build it as {__file__} says"
    ) from None

SIDE = 512  # pixels; this and the next two are the published way's
LABELS = 21
CERTAINTY = 0.5
_IMAGES = {"quick": 1, "default": 6, "full": 24}
_ATTENTION = (4, 32, 32)  # stored maps for a prompt of three classes, SD 1.5 at 512²

Bools = NDArray[np.bool_]


def main(size: Size) -> list[Claim]:
    images, maps, references = attended(_IMAGES[size])
    seconds, agreement = [], []
    for image, attention, reference in zip(images, maps, references, strict=True):
        start = time.perf_counter()
        ours = adaptive_threshold(image[None], attention[None], reference[None]).mask[0].numpy()
        between = time.perf_counter()
        theirs = published(image.numpy(), attention.numpy(), reference.numpy())
        seconds.append((between - start, time.perf_counter() - between))
        agreement.append((ours & theirs).sum() / max((ours | theirs).sum(), 1))
        fast, slow = seconds[-1]
        print(f"ours {fast:.2f} s, published {slow:.1f} s, IoU {agreement[-1]:.4f}", flush=True)
    ours_total, theirs_total = np.sum(seconds, 0)
    return [
        Claim("published way's seconds per image / ours", theirs_total / ours_total, ">= 20"),
        Claim("masks of the published way, IoU", float(np.mean(agreement)), ">= 0.97"),
        Claim("attention on disk, MB per image", stored_bytes() / 1e6, "<= 0.5"),
    ]


def attended(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return generated images enlarged to 512², their attention with a maximum of 1, and reference
    masks that the threshold is chosen by.
    """
    settings = Settings(seed=3, plan={"images": count, "multi": 0, "negatives": 0})
    plan = make_plan(settings, settings.load_vocabulary())
    chosen = settings.generator
    rows = zip(plan["prompt"], plan["phrases"], plan["seed"], strict=True)
    sampling = Sampling(
        num_inference_steps=chosen.num_inference_steps,
        guidance_scale=chosen.guidance_scale,
        guidance_rescale=chosen.guidance_rescale,
    )
    made = generate(load_pipeline("embedded"), [Request(*row) for row in rows], sampling)
    attention = spread_attention(made.cross, made.self_attention, settings.refine.propagation_steps)
    merged, spread = (torch.from_numpy(maps).float() for maps in attention)
    enlarged = _enlarged(torch.from_numpy(made.images).permute(0, 3, 1, 2))
    images = enlarged.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
    references = refine_labels(images, spread, [1], iterations=3, band=0.0).label > 0
    maps = _enlarged(merged)[:, 0].clamp_min(0)
    return images, maps / maps.amax((1, 2), keepdim=True), references


def _enlarged(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps.float(), size=(SIDE, SIDE), mode="bicubic", align_corners=False)


def published(image: NDArray[np.uint8], attention: NDArray[np.float32], reference: Bools) -> Bools:
    """Return the mask (H, W) of the threshold, of 20, that is most like `reference`."""

    def likeness(mask: Bools) -> float:
        return float((mask & reference).sum() / max(mask.sum() + reference.sum(), 1))

    return max((_crf(image, attention > threshold) for threshold in GRID), key=likeness)


def _crf(image: NDArray[np.uint8], hard: Bools) -> Bools:
    """Run one dense CRF with 21 labels, two of which are those of `hard`."""
    chance = np.full((LABELS, *hard.shape), (1 - CERTAINTY) / (LABELS - 1), np.float32)
    np.put_along_axis(chance, hard[None].astype(np.int64), CERTAINTY, 0)
    crf: Any = DenseCRF2D(*hard.shape[::-1], LABELS)
    crf.setUnaryEnergy(-np.log(chance).reshape(LABELS, -1))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    probabilities = np.array(crf.inference(10)).reshape(chance.shape)
    return np.asarray(probabilities[1] > 0.5)


def stored_bytes(count: int = 64) -> float:
    """Return the bytes per image of a shard's `cross` and `attention`, of random numbers."""
    maps = np.random.default_rng(0).random((count, *_ATTENTION)).astype(np.float16)
    table = pd.DataFrame({"row": range(count), "id": [f"{row:08d}" for row in range(count)]})
    with tempfile.TemporaryDirectory() as folder:
        marker = write_shard(
            Store.open(folder), "runs/x/synthesize/00000", {"cross": maps, "attention": maps}, table
        )
    return sum(file.size for file in marker.files.values()) / count


if __name__ == "__main__":
    run("refine", main)
