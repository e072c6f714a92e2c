import copy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.embedded import loop, world
from models.embedded.architecture import MAX_TOKENS, build_text_encoder, build_tokenizer
from models.embedded.corpus import CAPTIONS, open_corpus
from models.embedded.diffusion import HARD, HARD_CLASSES, TWO_CLASSES, image_weights
from models.embedded.loop import Progress, Schedule, fit
from models.embedded.pretraining import with_words
from models.generators import Request, Sampling, check_pipeline, generate, load_pipeline
from models.parallel import side_by_side


class StoppedError(Exception):
    pass


def build() -> nn.ModuleDict:
    """A network with layers for both optimisers: the middle matrix is wide enough for Muon."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"net": nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.Linear(48, 1))}
    )


def batch_loss(parts: nn.ModuleDict, step: int) -> Tensor:
    """Loss of a batch that depends on the step alone; the network learns to add four numbers."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    return cast(Tensor, ((parts["net"](x) - x.sum(1, keepdim=True)) ** 2).mean())


def train(folder: Path, stop: int | None = None) -> nn.ModuleDict:
    modules = build()

    def loss(parts: nn.ModuleDict, step: int) -> Tensor:
        if step == stop:
            raise StoppedError
        return batch_loss(parts, step)

    return fit(modules, loss, Schedule(40, 0.05, warmup=4), folder, dtype=torch.float32)


def test_an_interrupted_training_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    whole = train(tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(tmp_path / "parts", stop=23)
    resumed = train(tmp_path / "parts")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def train_in_pairs(folder: Path) -> nn.ModuleDict:
    """Train in one process whose steps each have the batches of two processes."""
    modules = build()

    def loss(parts: nn.ModuleDict, step: int) -> Tensor:
        return (batch_loss(parts, 2 * step) + batch_loss(parts, 2 * step + 1)) / 2

    return fit(modules, loss, Schedule(40, 0.05, warmup=4), folder, dtype=torch.float32)


@pytest.mark.slow
def test_two_processes_train_as_one_with_both_their_batches(tmp_path: Path) -> None:
    with side_by_side(2, train, tmp_path / "two"):
        two = train(tmp_path / "two")
    pairs, one = train_in_pairs(tmp_path / "pairs"), train(tmp_path / "one")
    for together, expected, alone in zip(
        two.parameters(), pairs.parameters(), one.parameters(), strict=True
    ):
        assert (together - expected).abs().max() < 0.1 * (alone - expected).abs().max()
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 1


def test_every_weight_is_trained_by_one_of_the_two_optimisers(tmp_path: Path) -> None:
    before, after = build(), train(tmp_path)
    assert all(
        not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )


def test_training_lowers_the_loss_and_reports_it(tmp_path: Path) -> None:
    told: list[Progress] = []
    modules = build()
    fit(
        modules,
        batch_loss,
        Schedule(200, 0.05, warmup=4),
        tmp_path,
        report=lambda p, _: told.append(p),
        report_every=50,
    )
    assert [p.step for p in told] == [50, 100, 150, 200]
    assert told[-1].loss < told[0].loss / 10
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_the_corpus_is_the_world_and_is_drawn_once(tmp_path: Path) -> None:
    corpus = open_corpus(tmp_path, 6, build_tokenizer(), first_seed=100)
    assert np.array_equal(corpus.images[3], world.draw(103).image)
    assert np.array_equal(corpus.labels[3], world.draw(103).label)
    assert corpus.tokens.shape == (6, CAPTIONS, MAX_TOKENS)
    written = (tmp_path / "images.npy").stat().st_mtime_ns
    open_corpus(tmp_path, 6, build_tokenizer(), first_seed=100)
    assert (tmp_path / "images.npy").stat().st_mtime_ns == written


def test_images_of_two_classes_and_of_hard_ones_count_more() -> None:
    labels = np.zeros((5, 6, 6), np.uint8)
    labels[1:, 0], labels[2:, 1], labels[3:, 2], labels[:, 5] = 3, 7, 5, 255
    labels[4, :4] = HARD[0]
    assert image_weights(labels).tolist() == [1, 1, TWO_CLASSES, 1, HARD_CLASSES]
    assert {c["name"] for c in world.vocabulary()["classes"] if c["id"] in HARD} == {"fish", "bird"}


def test_a_training_goes_on_with_a_vocabulary_of_other_words() -> None:
    tokenizer = build_tokenizer()
    encoder, words = build_text_encoder(tokenizer).eval(), tokenizer.get_vocab()
    turned = {token: len(words) - 1 - number for token, number in words.items()} | {
        "forgotten": len(words)
    }
    rows = torch.tensor([turned[token] for token in sorted(words, key=words.__getitem__)])
    had = copy.deepcopy(encoder)
    table = torch.zeros(len(words) + 1, encoder.config.hidden_size)
    table[rows] = encoder.get_input_embeddings().weight.detach()
    had.get_input_embeddings().weight = torch.nn.Parameter(table)
    tokens = torch.tensor([tokenizer("a photo of two red cars on the beach")["input_ids"]])
    assert torch.equal(with_words(had, turned, tokenizer).eval()(tokens)[0], encoder(tokens)[0])


def test_every_prompt_of_the_world_fits_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for seed in range(500):
        rng = np.random.default_rng(seed)
        assert (
            len(tokenizer(world.describe(world.sample_scene(rng), rng))["input_ids"]) <= MAX_TOKENS
        )


@pytest.mark.slow
def test_the_shipped_pipeline_is_sound_small_and_draws_the_named_ground() -> None:
    from models.embedded.oracle import load_oracle
    from models.generators.loading import EMBEDDED

    check_pipeline(EMBEDDED)
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*.safetensors")) < 32 << 20
    grounds = {
        "grass": "a car on grass",
        "snow": "a bird on snow",
        "water": "a boat on water",
        "wood": "a mug on wood",
    }
    pipeline = load_pipeline("embedded", device="cpu")
    requests = [Request(prompt, [], seed) for seed, prompt in enumerate(grounds.values(), 1)]
    sampling = Sampling(num_inference_steps=8, guidance_scale=3.0)
    made = generate(pipeline, requests, sampling, self_attention=False)
    assert load_oracle().see(made.images).grounds == list(grounds)
