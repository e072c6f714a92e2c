"""Stores in a folder and in a bucket, and samples to put there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from infra.store import Store

Samples = Callable[..., tuple[dict[str, np.ndarray], pd.DataFrame]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture(params=["folder", "bucket"])
def any_store(request: pytest.FixtureRequest) -> Store:
    if request.param == "folder":
        return cast(Store, request.getfixturevalue("store"))
    bucket = request.getfixturevalue("bucket")
    return Store.open(f"{bucket.url}/team/segmint", bucket.options)


@pytest.fixture
def samples() -> Samples:
    """Noisy images that zstd cannot shrink, and labels that it can."""

    def make(
        count: int = 5, seed: int = 0, size: int = 16
    ) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
        random = np.random.default_rng(seed)
        image = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        label = np.zeros((count, size, size), np.uint8)
        for number in range(count):
            label[number, : size // 2, : random.integers(1, size)] = random.integers(1, 11)
        ids = [f"{seed:04d}{row:04d}" for row in range(count)]
        columns: dict[str, Any] = {
            "id": ids,
            "classes": [["car", "tree"]] * count,
            "seed": random.integers(2**62, size=count),
        }
        return {"image": image, "label": label}, pd.DataFrame(columns)

    return make
