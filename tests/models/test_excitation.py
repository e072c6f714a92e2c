"""Attend-and-Excite draws objects that plain sampling leaves out, and changes nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infra.settings import Settings
from models.attention import AttentionRecorder, Excitation
from models.embedded.oracle import load_oracle
from models.generators import Request, Sampling, generate, load_pipeline
from models.smoothing import smooth
from tasks.plan.rows import make_plan

PROMPTS = [
    "a red car and a boat on sand",
    "grass",
    "a boat and a blue tree on snow",
    "one car on sand",
]
OBJECTS = [["red car", "boat"], [], ["boat", "blue tree"], ["car"]]
CROWDED = [0, 2]
STEPS = 6


def make(pipeline: Any, rows: list[int], excitation: float) -> NDArray[np.int64]:
    requests = [Request(PROMPTS[i], OBJECTS[i], seed=i) for i in rows]
    sampling = Sampling(STEPS, guidance_scale=4.0, excitation=excitation)
    made = generate(pipeline, requests, sampling, self_attention=False)
    return made.images.astype(np.int64)


def neglect(pipeline: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Return the mean squared neglect (B,) of the crowded prompts, from the recorder's maps.

    A phrase's neglect is 1 minus its peak attention: its tokens summed, then blurred. A peak
    without the blur is one position; a push need not raise it, and on random weights it falls for
    some latents.
    """
    prompts = [PROMPTS[i] for i in CROWDED]
    objects = [OBJECTS[i] for i in CROWDED]
    with torch.no_grad(), AttentionRecorder(pipeline, prompts, objects, guidance=False) as recorder:
        embedded = pipeline.encode_prompt(prompts, "cpu", 1, False)[0]
        pipeline.unet(latents, timestep, encoder_hidden_states=embedded)
    tokens = torch.tensor(
        [[len(pipeline.tokenizer(o).input_ids) - 2 for o in objects[i]] for i in range(2)]
    )
    peaks = smooth(recorder.cross[max(recorder.cross)]).flatten(2).amax(2) * tokens
    return (1 - peaks).square().mean(1)


@pytest.mark.parametrize("seed", range(5))
def test_a_push_raises_the_attention_of_every_crowded_image(pipeline: Any, seed: int) -> None:
    pipeline.scheduler.set_timesteps(STEPS)
    pipeline._num_timesteps = STEPS
    config = pipeline.unet.config
    shape = (2, config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    prompts = [PROMPTS[i] for i in CROWDED]
    objects = [OBJECTS[i] for i in CROWDED]
    embeds = pipeline.encode_prompt(prompts, "cpu", 1, False)[0]
    excite = Excitation(pipeline, prompts, objects, 0.02)
    pushed = excite(pipeline, 0, None, {"latents": latents, "prompt_embeds": embeds})["latents"]
    moved, size = (x.square().mean((1, 2, 3)).sqrt() for x in (pushed - latents, latents))
    torch.testing.assert_close(moved / size, torch.full((2,), 0.02), rtol=1e-3, atol=0)
    timestep = pipeline.scheduler.timesteps[1]
    before, after = (neglect(pipeline, each, timestep) for each in (latents, pushed))
    assert (after < before).all()


def test_images_of_fewer_than_two_objects_stay_bit_identical(pipeline: Any) -> None:
    plain, excited = make(pipeline, [0, 1, 2, 3], 0), make(pipeline, [0, 1, 2, 3], 0.05)
    changed = [not np.array_equal(a, b) for a, b in zip(plain, excited, strict=True)]
    assert changed == [True, False, True, False]


def test_an_excited_image_is_the_same_alone_and_in_a_batch(pipeline: Any) -> None:
    batch = make(pipeline, [0, 1, 2, 3], 0.05)
    for rows in ([0], [2, 0], [3, 2]):
        assert np.abs(make(pipeline, rows, 0.05) - batch[rows]).max() <= 1


def test_images_do_not_depend_on_how_many_are_pushed_at_once(
    tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = make(tiny_pipeline, [0, 1, 2, 3], 0.05)
    monkeypatch.setattr("models.attention.excitation._POSITIONS", 1)
    assert np.abs(make(tiny_pipeline, [0, 1, 2, 3], 0.05) - together).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_recorder_reads_the_pipelines_own_calls_alone(
    tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    """A push of length 0 changes neither image nor maps, although the U-Net runs for it."""

    def sample(excitation: float) -> Any:
        sampling = Sampling(STEPS, guidance, excitation=excitation)
        return generate(tiny_pipeline, [Request(PROMPTS[0], OBJECTS[0], seed=3)], sampling)

    pushes: Any = []
    direction = Excitation._direction
    monkeypatch.setattr(Excitation, "_direction", lambda *a: pushes.append(1) or direction(*a) * 0)
    plain, pushed = sample(0), sample(0.05)
    assert len(pushes) == STEPS // 2 - 1
    assert np.array_equal(plain.images, pushed.images)
    for r, maps in plain.cross.items():
        assert np.array_equal(maps, pushed.cross[r])


def test_processors_come_back_also_after_an_exception(
    tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(tiny_pipeline.unet.attn_processors)
    make(tiny_pipeline, [0], 0.05)
    assert tiny_pipeline.unet.attn_processors == before

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("models.attention.excitation._neglect", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        make(tiny_pipeline, [0], 0.05)
    assert tiny_pipeline.unet.attn_processors == before


@pytest.mark.slow
def test_two_objects_are_drawn_more_often() -> None:
    settings = Settings(seed=5, plan={"images": 40, "multi": 1.0, "negatives": 0.0})
    vocabulary, chosen = settings.load_vocabulary(), settings.generator
    plan = make_plan(settings, vocabulary)
    rows = plan[plan["classes"].map(len) == 2].head(24)
    right = {}
    for excitation in (0.0, chosen.excitation):
        sampling = Sampling(16, chosen.guidance_scale, chosen.guidance_rescale, excitation)
        columns = zip(rows["prompt"], rows["phrases"], rows["seed"], strict=True)
        requests = [Request(*row) for row in columns]
        pipeline = load_pipeline("embedded", device="cpu")
        made = generate(pipeline, requests, sampling, self_attention=False)
        labels = load_oracle().see(made.images).labels
        wished = [{vocabulary.ids[name] for name in names} for names in rows["classes"]]
        shown = [{i for i in range(1, 11) if (label == i).mean() >= 0.02} for label in labels]
        right[excitation] = sum(a == b for a, b in zip(shown, wished, strict=True))
    assert right[chosen.excitation] >= right[0.0] + 4
