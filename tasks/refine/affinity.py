"""Affinity: a network that knows which neighbouring places belong together, learnt from the run's
own pictures.

DiffuMask §3.3: each picture's attention is sure of some places; the network learns from those, and
`refine` lets the attention walk along what it learnt.

    runs/<run>/affinity.safetensors
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.torch
import torch
from numpy.typing import NDArray
from prefect import task
from safetensors import SafetensorError
from torch import Tensor

from infra.blocks import open_store
from infra.settings import Settings
from infra.store import CorruptShardError, Store, read_shard
from infra.store.seal import check_tensors, seal_tensors
from infra.store.tables import as_frame
from infra.vocabulary import Vocabulary
from models.masks import AffinityNet, SeedRule, class_seeds, object_scores, train_affinity
from tasks.plan.table import Plan
from tasks.run.progress import Report

__all__ = ["affinity_work", "learn_affinity", "read_affinity", "sure_places"]

PICTURES = 512  # that it learns from at most, each of them several times
_BATCH = 8
_NAMED = ("single", "multi")  # kinds of generated rows with a class


def sure_places(image: Tensor, maps: Tensor, words: Tensor, rules: Sequence[SeedRule]) -> Tensor:
    """Where an image (H, W, 3) uint8 surely shows which class, (H, W) uint8: 1 to C, 0 ground, 255
    unsaid.

    By the classes' spread maps (C, r, r), the plain ones `words`, and a rule each; see
    `models.masks.class_seeds`.
    """
    height, width = image.shape[:2]
    scores = object_scores(maps[None], (height, width), words[None])[:, 1:]
    return class_seeds(image[None], scores, rules)[0]


@task(name="learn-affinity")
def learn_affinity(settings: Settings) -> str:
    """Train the run's network on seeds of its own pictures, unless it is in the store; return its
    path.
    """
    store, path = open_store(settings.store), _path(settings.name)
    if store.exists(path):
        return path
    rng = np.random.default_rng(settings.seed)
    plan = Plan(store, settings)
    rows = _rows(plan, np.sort(rng.permutation(_named(plan))[:PICTURES]))
    with Report("learn-affinity", settings.name, affinity_work(plan, settings)) as report:
        pictures = []
        for pair in _seeded(store, settings, rows):
            pictures.append(pair)
            report(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed % 2**63)
            net = AffinityNet()
        steps = settings.refine.affinity_steps
        train_affinity(net, _batches(pictures, rng), steps=steps, report=lambda *_: report(1))
    store.write_bytes(path, seal_tensors(safetensors.torch.save(net.state_dict())))
    return path


def affinity_work(plan: Plan, settings: Settings) -> int:
    """Pictures to look at and steps to train, which is what the stage's progress counts."""
    return min(_named(plan), PICTURES) + settings.refine.affinity_steps


def read_affinity(store: Store, run: str) -> AffinityNet:
    """A run's network, in evaluation mode.

    `MissingError` if there is none, `CorruptShardError` if it changed.
    """
    net, content = AffinityNet(), store.read_bytes(_path(run))
    try:
        check_tensors(content)
        net.load_state_dict(safetensors.torch.load(content))
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise CorruptShardError(
            f"{store.url}/{_path(run)}: {error}; delete it and run again"
        ) from error
    return net.eval()


def _named(plan: Plan) -> int:
    """Number of generated rows with a class."""
    return sum(plan.notes.kinds.get(kind, 0) for kind in _NAMED)


def _rows(plan: Plan, chosen: NDArray[np.int64]) -> pd.DataFrame:
    """The `row`, `shard` and `classes` of some generated rows with a class, numbered without the
    others.
    """
    groups, before = [], 0
    for table in plan.columns(["row", "kind", "shard", "classes"]):
        named = table.filter(pc.is_in(table["kind"], pa.array(_NAMED)))
        low, high = np.searchsorted(chosen, [before, before + len(named)])
        groups.append(as_frame(named.take(chosen[low:high] - before)))
        before += len(named)
    return pd.concat(groups)


def _path(run: str) -> str:
    return f"runs/{run}/affinity.safetensors"


def _seeded(
    store: Store, settings: Settings, rows: pd.DataFrame
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their sure places, of the rows whose image the model did not fail at."""
    rules = _rules(settings.load_vocabulary())
    for shard, of_shard in rows.groupby("shard"):
        path = f"runs/{settings.name}/synthesize/{shard:05d}"
        arrays, columns = read_shard(store, path, ["image", "attention", "cross", "finite"])
        places = pd.Index(columns["row"]).get_indexer(of_shard["row"])
        for place, names in zip(places, of_shard["classes"], strict=True):
            if arrays["finite"][place]:
                image = torch.from_numpy(arrays["image"][place])
                maps, words = (
                    torch.from_numpy(arrays[f][place][: len(names)]).float()
                    for f in ("attention", "cross")
                )
                yield image, sure_places(image, maps, words, [rules[name] for name in names])


def _rules(vocabulary: Vocabulary) -> dict[str, SeedRule]:
    own = {entry.name: entry.seeds for entry in vocabulary.classes}
    return {
        name: SeedRule(**seeds.model_dump()) if seeds else SeedRule() for name, seeds in own.items()
    }


def _batches(
    pictures: Sequence[tuple[Tensor, Tensor]], rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches drawn evenly from the pictures, without end; none where there are no pictures."""
    while pictures:
        chosen = [pictures[index] for index in rng.integers(len(pictures), size=_BATCH)]
        yield (
            torch.stack([image for image, _ in chosen]),
            torch.stack([seeds for _, seeds in chosen]),
        )
