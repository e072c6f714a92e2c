"""Affinity: a network that says which neighbouring pixels belong together, for one run.

DiffuMask §3.3: the attention of each image is certain about some pixels. The network learns from
those, and `refine` spreads the attention by a random walk along what the network learnt.

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
from tasks.run.layout import shard_path
from tasks.run.progress import Report

__all__ = ["learn_affinity", "read_affinity", "seed_labels"]

IMAGES = 512  # that the network learns from at most, each of them several times
_BATCH = 8
_WITH_CLASSES = ("single", "multi")  # kinds of generated rows

Example = tuple[Tensor, Tensor]  # image (H, W, 3) and its seeds (H, W), uint8


def seed_labels(image: Tensor, maps: Tensor, words: Tensor, rules: Sequence[SeedRule]) -> Tensor:
    """Seeds (H, W) uint8 of an image (H, W, 3) uint8: 1 to C, 0 background, 255 uncertain.

    They come from the classes' spread maps (C, r, r), the plain ones `words`, and a rule per class;
    see `models.masks.class_seeds`.
    """
    height, width = image.shape[:2]
    scores = object_scores(maps[None], (height, width), words[None])[:, 1:]
    return class_seeds(image[None], scores, rules)[0]


@task(name="learn-affinity", task_run_name="learn-affinity")
def learn_affinity(settings: Settings) -> str:
    """Train the run's network on seeds of its own images, unless stored; return its path."""
    store = open_store(settings.store)
    path = _path(settings.name)
    if store.exists(path):
        return path
    rng = np.random.default_rng(settings.seed)
    plan = Plan(store, settings)
    rows = _rows(plan, np.sort(rng.permutation(_with_classes(plan))[:IMAGES]))
    with Report("learn-affinity", settings.name, _work(plan, settings)) as report:
        examples = []
        for example in _examples(store, settings, rows):
            examples.append(example)
            report(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed % 2**63)
            net = AffinityNet()
        steps = settings.refine.affinity_steps
        train_affinity(net, _batches(examples, rng), steps=steps, report=lambda *_: report(1))
    store.write_bytes(path, seal_tensors(safetensors.torch.save(net.state_dict())))
    return path


def _work(plan: Plan, settings: Settings) -> int:
    """Units of the stage's progress: images to read plus steps to train."""
    return min(_with_classes(plan), IMAGES) + settings.refine.affinity_steps


def read_affinity(store: Store, run: str) -> AffinityNet:
    """A run's network, in evaluation mode.

    Raises `MissingError` if there is none, `CorruptShardError` if it changed.
    """
    net = AffinityNet()
    content = store.read_bytes(_path(run))
    try:
        check_tensors(content)
        net.load_state_dict(safetensors.torch.load(content))
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise CorruptShardError(
            f"{store.url}/{_path(run)}: {error}; delete it and run again"
        ) from error
    return net.eval()


def _with_classes(plan: Plan) -> int:
    """Number of generated rows with a class."""
    return sum(plan.notes.kinds.get(kind, 0) for kind in _WITH_CLASSES)


def _rows(plan: Plan, chosen: NDArray[np.int64]) -> pd.DataFrame:
    """The `row`, `shard` and `classes` of the chosen rows.

    `chosen` are sorted positions among the generated rows with a class.
    """
    groups = []
    before = 0
    for table in plan.columns(["row", "kind", "shard", "classes"]):
        named = table.filter(pc.is_in(table["kind"], pa.array(_WITH_CLASSES)))
        low, high = np.searchsorted(chosen, [before, before + len(named)])
        groups.append(as_frame(named.take(chosen[low:high] - before)))
        before += len(named)
    return pd.concat(groups)


def _path(run: str) -> str:
    return f"runs/{run}/affinity.safetensors"


def _examples(store: Store, settings: Settings, rows: pd.DataFrame) -> Iterator[Example]:
    """Images and their seeds; rows whose image is not finite are left out."""
    rules = _rules(settings.load_vocabulary())
    for shard, of_shard in rows.groupby("shard"):
        path = shard_path(settings.name, "synthesize", int(shard))
        arrays, columns = read_shard(store, path, ["image", "attention", "cross", "finite"])
        positions = pd.Index(columns["row"]).get_indexer(of_shard["row"])
        for at, names in zip(positions, of_shard["classes"], strict=True):
            if arrays["finite"][at]:
                image = torch.from_numpy(arrays["image"][at])
                maps = torch.from_numpy(arrays["attention"][at][: len(names)]).float()
                words = torch.from_numpy(arrays["cross"][at][: len(names)]).float()
                yield image, seed_labels(image, maps, words, [rules[name] for name in names])


def _rules(vocabulary: Vocabulary) -> dict[str, SeedRule]:
    own = {entry.name: entry.seeds for entry in vocabulary.classes}
    return {
        name: SeedRule(**seeds.model_dump()) if seeds else SeedRule() for name, seeds in own.items()
    }


def _batches(examples: Sequence[Example], rng: np.random.Generator) -> Iterator[Example]:
    """Batches drawn evenly from the examples, without end; none where there are no examples."""
    while examples:
        chosen = [examples[index] for index in rng.integers(len(examples), size=_BATCH)]
        images, seeds = zip(*chosen, strict=True)
        yield torch.stack(images), torch.stack(seeds)
