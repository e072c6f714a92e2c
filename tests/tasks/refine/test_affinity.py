"""The affinity network of a run learns from finite images alone, once, with the same result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from infra.settings import Settings
from infra.store import MissingError, Store, write_shard
from models.masks import IGNORE, SeedRule
from tasks.plan.rows import start_run
from tasks.refine.affinity import learn_affinity, read_affinity, seed_labels

SIDE = 64
MAP = 16
ROWS = 6
PATH = "runs/nightly/affinity.safetensors"


def drawn(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Image with a square on noise, and attention on the square."""
    rng = np.random.default_rng(row)
    image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    image[16:48, 16:48] = rng.integers(120, 250, 3, dtype=np.uint8)
    maps = np.full((2, MAP, MAP), 0.05, np.float16)
    maps[0, 4:12, 4:12] = 1
    return image, maps


def started(root: Path, broken: bool = False) -> tuple[Store, Settings]:
    """A run whose last image is not finite; with `broken`, that image is another one as well."""
    settings = Settings(
        store={"url": str(root)},
        classes=("car",),
        plan={"images": ROWS, "multi": 0.0, "negatives": 0.0, "shard_size": 3},
        refine={"method": "diffumask", "affinity_steps": 2},
    )
    store = Store.open(str(root))
    start_run(store, settings)
    plan = store.read_table("runs/nightly/plan.parquet")
    for shard, rows in plan.groupby("shard"):
        images, maps = (np.stack(arrays) for arrays in zip(*map(drawn, rows["row"]), strict=True))
        finite = (rows["row"] != ROWS - 1).to_numpy()
        if broken:
            images[~finite] = 0
        arrays = {"image": images, "attention": maps, "cross": maps, "finite": finite}
        write_shard(store, f"runs/nightly/synthesize/{shard:05d}", arrays, rows[["row", "id"]])
    return store, settings


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Settings]:
    store, settings = started(tmp_path_factory.mktemp("store"))
    assert learn_affinity.fn(settings) == PATH
    return store, settings


def test_seeds_are_the_classes_the_background_and_uncertain_pixels() -> None:
    image, maps = (torch.from_numpy(array) for array in drawn(0))
    seeds = seed_labels(image, maps[:1].float(), maps[:1].float(), [SeedRule()])
    assert seeds.shape == (SIDE, SIDE) and seeds.dtype == torch.uint8
    assert set(seeds.unique().tolist()) <= {0, 1, IGNORE}
    inside = seeds[20:44, 20:44]
    assert (inside == 1).sum() > 0 and (inside == 0).sum() == 0


def test_the_network_is_read_as_it_was_stored(learned: tuple[Store, Settings]) -> None:
    store, settings = learned
    net = read_affinity(store, settings.name)
    assert not net.training
    with torch.no_grad():
        features = net(torch.zeros(1, 3, SIDE, SIDE))
    assert features.shape[2:] == (SIDE // 4, SIDE // 4)


def test_a_network_in_the_store_is_not_trained_again(
    learned: tuple[Store, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings = learned
    monkeypatch.setattr("tasks.refine.affinity.train_affinity", lambda *_, **__: pytest.fail())
    assert learn_affinity.fn(settings) == PATH


def test_an_image_that_is_not_finite_teaches_nothing(
    learned: tuple[Store, Settings], tmp_path: Path
) -> None:
    store, settings = started(tmp_path, broken=True)
    learn_affinity.fn(settings)
    assert store.read_bytes(PATH) == learned[0].read_bytes(PATH)


def test_a_run_that_learned_no_network_has_none(tmp_path: Path) -> None:
    store, settings = started(tmp_path)
    with pytest.raises(MissingError, match=r"affinity\.safetensors"):
        read_affinity(store, settings.name)
