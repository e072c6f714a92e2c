"""The recorder sees what the layers compute, changes nothing, and refuses what it cannot read."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from models.attention import AttentionRecorder, UnsupportedPipelineError, locate_phrases
from models.attention.processor import BLOCK, Means, RecordingProcessor

PROMPTS = ["a red car on sand", "a boat and a tree", "grass"]
PHRASES = [["car", "red car"], ["tree"], []]
STEPS = 3


def sample(
    pipeline: Any, prompts: list[str], *, images: int = 1, first_seed: int = 0, **options: Any
) -> Any:
    seeds = range(first_seed, first_seed + len(prompts) * images)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"guidance_scale": 4.0, "num_inference_steps": STEPS, "output_type": "np"} | options
    return pipeline(
        prompt=prompts, num_images_per_prompt=images, generator=generators, **options
    ).images


def record(
    pipeline: Any, prompts: list[str], phrases: list[list[str]], **options: Any
) -> AttentionRecorder:
    with AttentionRecorder(pipeline, prompts, phrases, self_attention=True) as recorder:
        sample(pipeline, prompts, **options)
    return recorder


def assert_close(
    found: dict[int, torch.Tensor], expected: dict[int, Any], tolerance: float = 1e-5
) -> None:
    assert found.keys() == expected.keys()
    for r, maps in expected.items():
        np.testing.assert_allclose(found[r].numpy(), np.asarray(maps), rtol=0, atol=tolerance)


# The picture stays as it is


@pytest.mark.parametrize("processor", [AttnProcessor2_0, AttnProcessor])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_are_bit_identical_with_and_without_the_recorder(
    pipeline: Any, guidance: float, processor: type
) -> None:
    before = dict(pipeline.unet.attn_processors)
    pipeline.unet.set_attn_processor(processor())
    plain = sample(pipeline, PROMPTS, guidance_scale=guidance)
    for own in (False, True):
        with AttentionRecorder(pipeline, PROMPTS, PHRASES, self_attention=own):
            watched = sample(pipeline, PROMPTS, guidance_scale=guidance)
        assert np.array_equal(plain, watched)
    pipeline.unet.set_attn_processor(before)


def test_processors_and_hooks_are_as_before_also_after_an_exception(tiny_pipeline: Any) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = dict(tiny_pipeline.unet.attn_processors)
    record(tiny_pipeline, PROMPTS, PHRASES)
    with pytest.raises(KeyboardInterrupt), AttentionRecorder(tiny_pipeline, PROMPTS, PHRASES):
        sample(tiny_pipeline, PROMPTS, callback_on_step_end=stop)
    after = tiny_pipeline.unet.attn_processors
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert (
        not tiny_pipeline.unet._forward_pre_hooks
        and not tiny_pipeline.text_encoder._forward_pre_hooks
    )


# The maps are what the layers compute


@contextmanager
def projections(unet: Any) -> Iterator[dict[str, list[tuple[NDArray[Any], NDArray[Any], int]]]]:
    """Layer name → (queries, keys, heads) of each call, from its own to_q and to_k."""
    seen: dict[str, list[NDArray[Any]]] = defaultdict(list)
    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, Attention)}
    hooks = [
        getattr(layer, part).register_forward_hook(
            lambda *call, key=f"{name}.{part}": seen[key].append(call[2].double().numpy())
        )
        for name, layer in layers.items()
        for part in ("to_q", "to_k")
    ]
    calls: dict[str, list[tuple[NDArray[Any], NDArray[Any], int]]] = {}
    yield calls
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        calls[name] = [
            (q, k, layer.heads)
            for q, k in zip(seen[f"{name}.to_q"], seen[f"{name}.to_k"], strict=True)
        ]


def softmax_by_hand(queries: NDArray[Any], keys: NDArray[Any], heads: int) -> list[NDArray[Any]]:
    """One (positions, tokens) table a head, for one picture."""
    tables = []
    for q, k in zip(np.split(queries, heads, axis=-1), np.split(keys, heads, axis=-1), strict=True):
        powers = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        tables.append(powers / powers.sum(axis=1, keepdims=True))
    return tables


def tables_of(calls: dict[str, Any], kind: str, row: int) -> dict[int, NDArray[Any]]:
    """Grid size → mean over every call, layer and head of the batch's `row`, one head after the
    other.
    """
    tables: dict[int, list[NDArray[Any]]] = defaultdict(list)
    for name, steps in calls.items():
        for queries, keys, heads in steps if name.endswith(kind) else ():
            tables[round(queries.shape[1] ** 0.5)] += softmax_by_hand(
                queries[row], keys[row], heads
            )
    return {r: np.mean(each, axis=0) for r, each in tables.items()}


def columns_by_hand(tokenizer: Any, prompt: str, phrase: str) -> list[int]:
    """Where the phrase's own tokens stand, in a row, in the prompt's."""
    whole, part = tokenizer(prompt).input_ids, tokenizer(phrase).input_ids[1:-1]
    starts = [i for i in range(len(whole)) if whole[i : i + len(part)] == part]
    return [start + i for start in starts for i in range(len(part))]


def slow_maps(calls: dict[str, Any], tokenizer: Any, images: int, first: int) -> tuple[Any, Any]:
    """Cross- and self-attention of all pictures, prompts in rows `first` and on."""
    width = max(map(len, PHRASES))
    cross: dict[int, list[Any]] = defaultdict(list)
    own: dict[int, list[Any]] = defaultdict(list)
    for row in range(len(PROMPTS) * images):
        prompt, phrases = PROMPTS[row // images], PHRASES[row // images]
        for r, table in tables_of(calls, "attn2", first + row).items():
            maps = [
                table[:, columns_by_hand(tokenizer, prompt, phrase)].mean(axis=1)
                for phrase in phrases
            ]
            maps += [np.zeros(r * r)] * (width - len(maps))
            cross[r].append([each.reshape(r, r) for each in maps])
        for r, table in tables_of(calls, "attn1", first + row).items():
            own[r].append(table)
    return cross, own


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("images", [1, 2])
def test_maps_equal_a_slow_recomputation_of_the_same_call(
    pipeline: Any, guidance: float, images: int
) -> None:
    with projections(pipeline.unet) as calls:
        sample(pipeline, PROMPTS, images=images, guidance_scale=guidance)
    recorder = record(pipeline, PROMPTS, PHRASES, images=images, guidance_scale=guidance)
    first = len(PROMPTS) * images if guidance > 1 else 0
    cross, own = slow_maps(calls, pipeline.tokenizer, images, first)
    assert_close(recorder.cross, cross)
    assert_close(recorder.self_attention, own)
    assert (
        recorder.cross[max(cross)].std() > 1e-3
    )  # not the even map that any mistake would give as well
    if guidance > 1:
        swapped, _ = slow_maps(calls, pipeline.tokenizer, images, 0)
        assert np.abs(np.asarray(swapped[max(cross)]) - np.asarray(cross[max(cross)])).max() > 1e-3


def test_known_attention_is_averaged_exactly_over_steps_layers_and_heads() -> None:
    """Queries log(p) and keys 1 make softmax(QKᵀ) the table p itself: two steps, two layers, two
    heads of tables.
    """
    heads, tokens, positions = 2, 5, 4
    tables = torch.rand(
        2, 2, 2, heads, positions, tokens, generator=torch.Generator().manual_seed(0)
    )
    tables /= tables.sum(-1, keepdim=True)  # (step, layer, half, head, position, token)
    layers = [
        Attention(heads * tokens, cross_attention_dim=heads * tokens, heads=heads, dim_head=tokens)
        for _ in "ab"
    ]
    for layer in layers:
        layer.to_q.weight.data = torch.eye(heads * tokens)
        layer.to_k.weight.data = torch.eye(heads * tokens)
    text = torch.eye(tokens).repeat(2, 1, heads) * tokens**0.5  # undoes the scale of 1/√d
    means = Means(largest=0)
    means.size, means.conditional = (2, 2), slice(1, None)
    means.weights = torch.tensor([[0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0]]).T[None]
    processors = [RecordingProcessor(AttnProcessor2_0(), means) for _ in layers]
    for step in tables:
        for layer, processor, halves in zip(layers, processors, step, strict=True):
            processor(layer, halves.log().transpose(1, 2).reshape(2, positions, -1), text)
    mean, size = means.mean("cross")[2]
    expected = tables[:, :, 1].mean(dim=(0, 1, 2))
    assert size == (2, 2)
    torch.testing.assert_close(mean[0, :, 0], (expected[:, 1] + expected[:, 2]) / 2)
    torch.testing.assert_close(mean[0, :, 1], expected[:, 3])


def test_self_attention_rows_sum_to_one_and_large_layers_are_left_out(tiny_pipeline: Any) -> None:
    with AttentionRecorder(
        tiny_pipeline, PROMPTS, PHRASES, self_attention=True, max_resolution=4
    ) as recorder:
        sample(tiny_pipeline, PROMPTS)
    assert sorted(recorder.cross) == [2, 4, 8] and sorted(recorder.self_attention) == [2, 4]
    for r, rows in recorder.self_attention.items():
        assert rows.shape == (3, r * r, r * r)
        torch.testing.assert_close(rows.sum(-1), torch.ones(3, r * r))


def test_blocks_of_any_size_give_the_same_maps(
    tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = record(tiny_pipeline, PROMPTS, PHRASES)
    for block in (1000, 2**24):  # less than a head of one layer, and everything at once
        monkeypatch.setitem(BLOCK, "cpu", block)
        other = record(tiny_pipeline, PROMPTS, PHRASES)
        assert_close(other.cross, whole.cross, 1e-6)
        assert_close(other.self_attention, whole.self_attention, 1e-6)


# Any batch


def test_a_picture_has_the_same_maps_alone_and_in_a_batch(pipeline: Any) -> None:
    batch = record(pipeline, PROMPTS, PHRASES)
    for i, (prompt, phrases) in enumerate(zip(PROMPTS, PHRASES, strict=True)):
        alone = record(pipeline, [prompt], [phrases], first_seed=i)
        assert_close(
            alone.cross,
            {r: maps[i : i + 1, : len(phrases)] for r, maps in batch.cross.items()},
            1e-4,
        )
        assert_close(
            alone.self_attention,
            {r: own[i : i + 1] for r, own in batch.self_attention.items()},
            1e-4,
        )


def test_several_pictures_a_prompt_come_in_the_pipelines_order(tiny_pipeline: Any) -> None:
    several = record(tiny_pipeline, PROMPTS[:2], PHRASES[:2], images=2)
    prompts, phrases = [PROMPTS[i] for i in (0, 0, 1, 1)], [PHRASES[i] for i in (0, 0, 1, 1)]
    assert_close(several.cross, record(tiny_pipeline, prompts, phrases).cross, 1e-4)
    assert several.valid.tolist() == [[True, True], [True, True], [True, False], [True, False]]


def test_fewer_phrases_are_padded_with_zero_and_marked(tiny_pipeline: Any) -> None:
    recorder = record(tiny_pipeline, PROMPTS, PHRASES)
    assert recorder.valid.tolist() == [[True, True], [True, False], [False, False]]
    assert all((maps[~recorder.valid] == 0).all() for maps in recorder.cross.values())


def test_a_batch_of_negatives_has_self_attention_and_no_maps(tiny_pipeline: Any) -> None:
    recorder = record(tiny_pipeline, ["grass", "sand"], [[], []])
    assert recorder.cross[8].shape == (2, 0, 8, 8) and recorder.self_attention[8].shape == (
        2,
        64,
        64,
    )


def test_a_picture_that_is_not_square_keeps_its_shape(tiny_pipeline: Any) -> None:
    recorder = record(
        tiny_pipeline, PROMPTS, PHRASES, height=32, width=104
    )  # latents 4 × 13: 2 × 7, 1 × 4 below
    assert {r: tuple(maps.shape[2:]) for r, maps in recorder.cross.items()} == {
        4: (1, 4),
        7: (2, 7),
        13: (4, 13),
    }


def test_guidance_switched_off_midway_is_followed(tiny_pipeline: Any) -> None:
    def unguide(pipe: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe._guidance_scale = 0.0
            return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[1]}
        return {}

    options: dict[str, Any] = {
        "callback_on_step_end": unguide,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    with projections(tiny_pipeline.unet) as calls:
        sample(tiny_pipeline, PROMPTS, **options)
    for steps in calls.values():  # bring the guided first step into the shape of the others
        queries, keys, heads = steps[0]
        steps[0] = (queries[len(PROMPTS) :], keys[len(PROMPTS) :], heads)
    cross, _ = slow_maps(calls, tiny_pipeline.tokenizer, 1, 0)
    assert_close(record(tiny_pipeline, PROMPTS, PHRASES, **options).cross, cross)


def test_a_masked_word_is_not_attended_to(tiny_pipeline: Any) -> None:
    spans = locate_phrases(tiny_pipeline.tokenizer, PROMPTS[:1], [["car", "sand"]])
    mask = torch.ones(1, spans.ids.shape[1])
    mask[0, spans.weights[0, 0] > 0] = 0
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, spans.ids.shape[1], 32)
    with (
        AttentionRecorder(
            tiny_pipeline, PROMPTS[:1], [["car", "sand"]], guidance=False
        ) as recorder,
        torch.no_grad(),
    ):
        tiny_pipeline.unet(latents, 500, encoder_hidden_states=text, encoder_attention_mask=mask)
    assert recorder.cross[8][0, 0].max() == 0 < recorder.cross[8][0, 1].min()


def test_class_prompts_are_read_in_the_prompts_place_and_change_no_picture(
    tiny_pipeline: Any,
) -> None:
    plain, own = sample(tiny_pipeline, PROMPTS), record(tiny_pipeline, PROMPTS, PHRASES)
    names, phrases = ["car, sand", "tree", "grass"], [["car"], ["tree"], []]
    with AttentionRecorder(
        tiny_pipeline, PROMPTS, PHRASES, class_prompts=PROMPTS, self_attention=True
    ) as same:
        sample(tiny_pipeline, PROMPTS)
    assert_close(same.cross, own.cross, 0)
    with AttentionRecorder(
        tiny_pipeline, PROMPTS, phrases, class_prompts=names, self_attention=True
    ) as read:
        np.testing.assert_array_equal(sample(tiny_pipeline, PROMPTS), plain)
    assert_close(read.self_attention, own.self_attention, 0)
    for r, maps in read.cross.items():
        assert maps.shape[:2] == (3, 1) and (maps[:2] > 0).all()
        assert not torch.allclose(maps[0, 0], own.cross[r][0, 0], rtol=1e-3)
    # of a batch of one, whose own prompt these names are, the same names are read alike
    alone = record(tiny_pipeline, names[1:2], [["tree"]])
    with AttentionRecorder(
        tiny_pipeline, names[1:2], [["tree"]], class_prompts=names[1:2]
    ) as again:
        sample(tiny_pipeline, names[1:2])
    assert_close(again.cross, alone.cross, 0)


def test_a_recorder_used_again_starts_afresh(tiny_pipeline: Any) -> None:
    recorder = AttentionRecorder(tiny_pipeline, PROMPTS, PHRASES)
    maps = []
    for _ in range(2):
        with recorder:
            sample(tiny_pipeline, PROMPTS)
        maps.append(recorder.cross[4])
    assert torch.equal(*maps)


# Words and their tokens


@pytest.fixture(scope="module")
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-pair vocabulary, which mmsegmentation brings along."""
    text = gzip.decompress(
        (files("mmseg") / "utils" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    ).decode()
    merges: list[Any] = [tuple(line.split()) for line in text.split("\n")[1 : 49152 - 256 - 2 + 1]]
    letters = sorted(ByteLevel.alphabet())
    vocab = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=77
    )


@pytest.mark.parametrize(
    ("prompt", "phrase", "tokens"),
    [
        ("Photo of an aeroplane", "aeroplane", ["aerop", "lane</w>"]),
        ("a potted plant", "potted plant", ["potted</w>", "plant</w>"]),
        ("a tv monitor, on", "tv monitor", ["tv</w>", "monitor</w>"]),
        ("a TV\n  Monitor", "tv monitor", ["tv</w>", "monitor</w>"]),
        ("a tv-monitor", "tv-monitor", ["tv</w>", "-</w>", "monitor</w>"]),
        ("a carpet, cars, a car.", "car", ["car</w>"]),
        ("a café-aeroplane", "aeroplane", ["aerop", "lane</w>"]),
        ("a bus, a red bus", "bus", ["bus</w>", "bus</w>"]),
    ],
)
def test_a_phrase_is_its_words_tokens_however_clip_splits_them(
    clip_tokenizer: CLIPTokenizer, prompt: str, phrase: str, tokens: list[str]
) -> None:
    spans = locate_phrases(clip_tokenizer, [prompt], [[phrase]])
    weights = spans.weights[0, 0]
    assert clip_tokenizer.convert_ids_to_tokens(spans.ids[0, weights > 0].tolist()) == tokens
    assert weights[weights > 0].tolist() == pytest.approx([1 / len(tokens)] * len(tokens))


@pytest.mark.parametrize("phrase", ["boat", "car", "", " "])
def test_a_phrase_that_is_no_word_of_its_prompt_is_an_error(
    clip_tokenizer: CLIPTokenizer, phrase: str
) -> None:
    with pytest.raises(ValueError, match=r"not a word or phrase of the prompt 'a carpet and cars'"):
        locate_phrases(clip_tokenizer, ["a carpet and cars"], [[phrase]])


# What is refused


def test_bad_prompts_are_refused_before_anything_is_sampled(tiny_pipeline: Any) -> None:
    for prompts, phrases, message in [
        (["a car"], [["boat"]], "'boat' is not a word"),
        (["a car " + "on sand " * 9], [["car"]], "tokens and the text encoder takes 32: shorten"),
        (["a car", "a boat"], [["car"]], "2 prompts with 1 lists"),
        ([], [], "0 prompts"),
        ("a car", [["car"]], "a list of strings"),
        (["a car"], ["car"], "a list of lists"),
    ]:
        with pytest.raises(ValueError, match=message):
            AttentionRecorder(tiny_pipeline, prompts, cast(Any, phrases))


def test_a_call_with_other_prompts_or_a_second_call_is_an_error(tiny_pipeline: Any) -> None:
    with (
        pytest.raises(ValueError, match="other prompts"),
        AttentionRecorder(tiny_pipeline, PROMPTS, PHRASES),
    ):
        sample(tiny_pipeline, PROMPTS[::-1])
    with pytest.raises(ValueError, match="use one recorder per call"):  # noqa: SIM117
        with AttentionRecorder(tiny_pipeline, PROMPTS, PHRASES):
            sample(tiny_pipeline, PROMPTS)
            sample(tiny_pipeline, PROMPTS)


def test_a_batch_that_does_not_fit_the_prompts_is_an_error(tiny_pipeline: Any) -> None:
    embeds = torch.zeros(2, 32, 32)
    with (
        pytest.raises(
            ValueError, match="3 prompts were given to the recorder, but the U-Net got a batch of 2"
        ),
        AttentionRecorder(tiny_pipeline, PROMPTS, PHRASES),
    ):
        tiny_pipeline(prompt_embeds=embeds, guidance_scale=1.0, num_inference_steps=1)


def test_other_architectures_and_processors_are_refused_by_name(tiny_pipeline: Any) -> None:
    pixels = DDPMPipeline(
        UNet2DModel(
            8,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        ),
        DDPMScheduler(),
    )
    with pytest.raises(
        UnsupportedPipelineError,
        match=r"DDPMPipeline samples with UNet2DModel; .*Stable Diffusion 1",
    ):
        AttentionRecorder(pixels, PROMPTS, PHRASES)
    before = dict(tiny_pipeline.unet.attn_processors)
    tiny_pipeline.enable_attention_slicing(1)
    with pytest.raises(
        UnsupportedPipelineError,
        match=r"attn1 is Attention, SlicedAttnProcessor; .*AttnProcessor2_0",
    ):
        AttentionRecorder(tiny_pipeline, PROMPTS, PHRASES)
    tiny_pipeline.unet.set_attn_processor(before)
