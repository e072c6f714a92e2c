"""Published versions for mmsegmentation's own Runner, as the registered data set `SegmintDataset`.

In a config:

    custom_imports = dict(imports=["segmint.mmseg"])
    train_dataloader = dict(
        batch_size=8,
        num_workers=2,
        sampler=dict(type="InfiniteSampler", shuffle=True),
        dataset=dict(type="SegmintDataset", store="out/store", pipeline=train_pipeline))

`examples/mmsegmentation.py` is a complete config.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import infra  # noqa: F401  before torch is imported: sets how OpenMP's threads wait
from infra.store import SegmentationDataset, Store, list_versions
from models.segmenters.openmmlab import DATASETS, Compose
from models.segmenters.schedules import as_results
from tasks.schemas import origin_of
from tasks.train.train import class_names

__all__ = ["SegmintDataset"]

_LOADING = ("LoadImage", "LoadAnnotations")  # a sample is loaded already


@DATASETS.register_module(force=True)
class SegmintDataset:
    """The samples of a published version, in the form that mmsegmentation's transforms take.

    `store` is a folder or URL with `options` for fsspec, `version` a published version (None: the
    newest), `pipeline` mmsegmentation's transforms, without or with those that load files, which
    are left out. Images are BGR, as mmcv reads them.

    Raises `MissingError` for a version that is not published.
    """

    def __init__(
        self,
        store: str,
        version: str | None = None,
        pipeline: Sequence[Any] = (),
        *,
        options: dict[str, Any] | None = None,
        test_mode: bool = False,
    ) -> None:
        version = version or list_versions(Store.open(store, options))[-1].version
        self.samples = SegmentationDataset(store, version, options)
        self.test_mode = test_mode
        classes = class_names(origin_of(self.samples.manifest).classes)
        self.metainfo = {"classes": classes, "palette": _palette(len(classes))}
        self._pipeline = Compose(
            [step for step in pipeline if not str(step.get("type")).startswith(_LOADING)]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        """Return a sample after the pipeline.

        The pipeline gets `img` (H, W, 3) uint8 BGR and `gt_seg_map` (H, W) uint8, 255 = ignore.
        """
        sample = self.samples[index]
        results = as_results(sample["image"], sample["label"])
        return self._pipeline({**results, "img_path": sample["id"]})


def _palette(count: int) -> list[list[int]]:
    """Return a colour for each class, black for the background."""
    hues = [colorsys.hsv_to_rgb(index / max(1, count - 1), 0.8, 0.9) for index in range(count - 1)]
    return [[0, 0, 0], *([round(255 * part) for part in hue] for hue in hues)]
