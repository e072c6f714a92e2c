"""Drawing: the label maps of planned rows → images by a SemFlow, with their masks read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.settings import GeneratorSettings
from tasks.maps.layouts import Layouts
from tasks.run.progress import Report

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import Segmenter

__all__ = ["draw_rows"]


def draw_rows(
    rows: pd.DataFrame,
    segmenter: Segmenter,
    layouts: Layouts,
    generator: GeneratorSettings,
    report: Report,
) -> dict[str, NDArray[Any]]:
    """Images of the label maps that the rows name as `sources`, each drawn from the row's seed.

    Fields: `image` (n, H, W, 3) uint8; `label` (n, H, W) uint8, the label map; `read` (n, H, W)
    uint8, the label id that the flow reads back at each pixel; `finite` (n,) bool, False where the
    flow returned NaN; and `instance` (n, H, W) uint8 if the label maps have instances.
    """
    from models.generators import resolve_device
    from models.segmenters import draw_images

    device = resolve_device(generator.device)
    seeds = rows["seed"].tolist()
    maps = [layouts.make(*each) for each in zip(rows["sources"], seeds, strict=True)]
    arrays = {"label": np.stack([each.label for each in maps])}
    if layouts.has_instances:
        arrays["instance"] = np.stack([m.instance for m in maps if m.instance is not None])
    parts = []
    for start in range(0, len(rows), generator.batch_size):
        batch = slice(start, start + generator.batch_size)
        labels = arrays["label"][batch]
        steps = generator.num_inference_steps
        parts.append(draw_images(segmenter, labels, seeds[batch], steps=steps, device=device))
        report(len(labels))
    return arrays | {
        "image": np.concatenate([part.images for part in parts]),
        "read": np.concatenate([part.read for part in parts]),
        "finite": np.concatenate([part.finite for part in parts]),
    }
