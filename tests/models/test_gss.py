"""GSS paints label maps, predicts the tokens of the paintings, and reads them back."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models import metrics
from models.parallel import average, average_gradients, rank_and_count, side_by_side
from models.segmenters import (
    DrawnScenes,
    Execution,
    Snapshots,
    TrainingRecipe,
    build_segmenter,
    initial_weights,
    load_weights,
    pack_segmenter,
    predict_probabilities,
    read_schedule,
    train_segmenter,
    unpack_segmenter,
)
from models.segmenters.checks import check_model
from models.segmenters.fitting import fit_model, read_model
from models.segmenters.gss.autoencoders import EmbeddedTokens, build_autoencoder
from models.segmenters.gss.bits import BitPosterior
from models.segmenters.gss.dalle import DalleTokens
from models.segmenters.gss.head import TokenHead
from models.segmenters.gss.nearest import scores
from models.segmenters.gss.palettes import check_palette, farthest, random_colours, reproduced
from models.segmenters.gss.segmentor import VARIANTS
from models.segmenters.gss.targets import fill
from models.segmenters.openmmlab import PixelData, SegDataSample
from models.segmenters.sharing import share_batches
from tests.models.test_segmenters import CLASSES, Squares, miou_on_squares

SMALL = {"codes": 24, "width": 8, "entry": 8, "blocks": 1}
TINY = {
    "type": "GSS",
    "backbone": {
        "type": "MixVisionTransformer",
        "embed_dims": 8,
        "num_stages": 2,
        "num_layers": [1, 1],
        "num_heads": [1, 2],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "sr_ratios": [4, 2],
        "out_indices": [0, 1],
    },
    "decode_head": {
        "in_channels": [8, 16],
        "channels": 16,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "num_classes": 3,
    },
}

Config = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Write an mmsegmentation config file of a very small GSS; return its path."""

    def write(variant: str = "ff", **changes: Any) -> str:
        path = tmp_path / f"{variant}.py"
        path.write_text(f"model = {TINY | {'variant': variant} | changes!r}")
        return str(path)

    return write


@pytest.fixture
def gss(config: Config) -> Callable[..., Any]:
    """Build a very small GSS with random weights but for the embedded autoencoder."""

    def build(variant: str = "ff") -> Any:
        torch.manual_seed(0)
        return build_segmenter(config(variant), CLASSES).network

    return build


def batch(count: int = 2, side: int = 32) -> tuple[Tensor, list[Any]]:
    """Return normalised images and mmsegmentation's samples with labels of squares."""
    items = [Squares()[index] for index in range(count)]
    samples = [SegDataSample() for _ in items]
    for sample, item in zip(samples, items, strict=True):
        sample.gt_sem_seg = PixelData(data=item["label"][:side, :side].long()[None])
    images = torch.stack([item["image"][:, :side, :side].float() / 64 - 2 for item in items])
    return images, samples


# palettes


def test_colours_given_by_hand_are_checked() -> None:
    red, green, grey = [255, 0, 0], [0, 255, 0], [90, 90, 90]
    assert check_palette([red, green], 2).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert len(check_palette([red, green, grey], 2)) == 2, "that of ignored pixels is left out"
    with pytest.raises(ValueError, match=r"gives \[255, 0, 0\] to both 0 and 2"):
        check_palette([red, green, red], 3)
    with pytest.raises(ValueError, match="2 colours for 3 classes"):
        check_palette([red, green], 3)
    for bad in ([0, 0], [0, 0, 256], [0, 0, -1], [0.5, 0, 0]):
        with pytest.raises(ValueError, match=r"give \[R, G, B\] in 0"):
            check_palette([red, bad], 2)  # type: ignore[list-item]


@pytest.mark.parametrize("count", [2, 21, 150, 254])
def test_farthest_points_keep_their_distance(count: int) -> None:
    colours = farthest(count)
    assert len(colours) == count and colours.min() >= 0 and colours.max() <= 1
    distance = torch.pdist(colours).min()
    assert distance > torch.pdist(random_colours(count)).min() or count == 2
    # 150 classes: the released grid with jitter has 16 levels on average, at most 22
    assert 255 * distance > {2: 400, 21: 90, 150: 40, 254: 30}[count]


def test_colours_too_near_to_tell_apart_are_an_error() -> None:
    few = torch.rand(5, 3).repeat(4, 1)
    with pytest.raises(ValueError, match="only 5 colours of 6 are"):
        farthest(6, few)


def test_a_palette_is_of_colours_that_come_back() -> None:
    def no_blue(images: Tensor) -> Tensor:
        return images * torch.tensor([1.0, 1.0, 0.0])[:, None, None]

    chosen = reproduced(8, no_blue)
    assert chosen[:, 2].max() < 0.5 and chosen[:, 0].max() > 0.8
    assert torch.equal(chosen, reproduced(8, no_blue))


# nearest colour


def test_the_affine_map_is_the_nearest_colour() -> None:
    torch.manual_seed(0)
    palette, pictures = farthest(150), torch.rand(2, 3, 40, 24)
    far = (pictures[:, None] - palette[:, :, None, None]).square().sum(2)
    logits = scores(pictures, palette, 0.02)
    assert torch.equal(logits.argmax(1), far.argmin(1))
    found = logits.softmax(1)
    assert torch.allclose(found, (-far / 0.02).softmax(1), atol=1e-4)


def test_every_colour_is_read_as_itself() -> None:
    palette = farthest(255)
    found = scores(palette.T[None, :, :, None], palette, 0.02).argmax(1)
    assert found.flatten().tolist() == list(range(255))


# autoencoders


def test_tokens_are_codes_and_codes_are_tokens() -> None:
    tokens = EmbeddedTokens()
    book = tokens.codebook()
    assert len(book.unique(dim=0)) == tokens.codes
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        found = tokens.encode(images)
        assert found.shape == (2, 8, 12) and 0 <= found.min() <= found.max() < tokens.codes
        decoded = tokens.decode_tokens(found)
        sure = torch.nn.functional.one_hot(found, tokens.codes).movedim(-1, 1).float()
        assert torch.allclose(tokens.decode_expected(sure), decoded, atol=1e-5)
        assert torch.allclose(tokens.round_trip(images), decoded, atol=1e-4)


def test_gradients_reach_the_colours_through_the_tokens() -> None:
    torch.manual_seed(0)
    for config in ({"type": "EmbeddedTokens"}, {"type": "DalleTokens", **SMALL}):
        image = torch.rand(1, 3, 32, 32, requires_grad=True)
        build_autoencoder(config).round_trip(image).square().sum().backward()
        assert image.grad is not None and image.grad.abs().max() > 0


def test_dalle_has_the_published_architecture() -> None:
    """Names, shapes and count as published (29.1 M parameters with both halves, GSS, table 2)."""
    with torch.device("meta"):
        state = DalleTokens().state_dict()
    assert state["encoder.blocks.input.w"].shape == (256, 3, 7, 7)
    assert state["encoder.blocks.group_4.block_1.id_path.w"].shape == (2048, 1024, 1, 1)
    assert state["encoder.blocks.group_2.block_2.res_path.conv_1.w"].shape == (128, 512, 3, 3)
    assert state["encoder.blocks.output.conv.w"].shape == (8192, 2048, 1, 1)
    assert state["decoder.blocks.input.w"].shape == (128, 8192, 1, 1)
    assert state["decoder.blocks.group_1.block_1.res_path.conv_1.w"].shape == (512, 128, 1, 1)
    assert state["decoder.blocks.output.conv.w"].shape == (6, 256, 1, 1)


def test_a_dalle_file_is_what_the_config_starts_from(config: Config, tmp_path: Path) -> None:
    torch.manual_seed(1)
    given = DalleTokens(**SMALL)
    save_file(given.state_dict(), tmp_path / "dalle.safetensors")
    autoencoder = {
        "type": "DalleTokens",
        **SMALL,
        "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "dalle.safetensors")},
    }
    path = config(posterior={"autoencoder": autoencoder})
    files = initial_weights(path)
    recipe = TrainingRecipe(path, 1, 2, 1e-3, weights=files, precision="fp32")
    network: Any = train_segmenter(Squares(), CLASSES, recipe).segmenter.network
    loaded = load_weights(network, files[0])
    assert loaded.missing == [] and loaded.unexpected == []
    for name, value in given.state_dict().items():
        assert torch.equal(value, network.posterior.autoencoder.state_dict()[name])
    found = network.reconstruct(torch.zeros(1, 64, 64, dtype=torch.long))
    assert found.shape == (1, 64, 64)


# labels


def test_only_tokens_without_any_label_are_ignored() -> None:
    label = torch.zeros(1, 8, 10, dtype=torch.long)
    label[:, :4, 3:] = 255
    guess = torch.full_like(label, 2)
    filled = fill(label, guess, 4)
    assert filled.tokens.tolist() == [[[1, 0, 0], [1, 1, 1]]]
    assert (
        filled.label.shape == (1, 8, 12) and filled.label[0, 0].tolist()[:10] == [0] * 3 + [2] * 7
    )
    assert filled.pixels[0, 0].sum() == 3 and filled.pixels[0, :, 10:].sum() == 0


def test_pixels_of_255_get_no_gradient(gss: Callable[..., Any]) -> None:
    network = gss()
    images, samples = batch()
    for sample in samples:
        sample.gt_sem_seg.data[:, :, 16:] = 255
    seen: dict[str, Tensor] = {}

    def keep(_: Any, __: Any, output: Any) -> None:
        for name, value in zip(("tokens", "pixels"), output, strict=True):
            value.retain_grad()
            seen[name] = value

    network.decode_head.register_forward_hook(keep)
    losses = network.loss(images, samples)
    sum(losses.values()).backward()
    for value in seen.values():
        assert value.grad is not None
        # column 4 of 8 mixes with column 3 where logits are enlarged, the later ones do not
        assert value.grad[..., 5:].abs().max() == 0 < value.grad[..., :4].abs().max()
    tokens = seen["tokens"].grad
    assert tokens is not None and tokens[..., 4:].abs().max() == 0


def test_labels_of_255_alone_cost_nothing(gss: Callable[..., Any]) -> None:
    for variant in ("ff", "ft-w", "codes"):
        network = gss(variant)
        images, samples = batch()
        for sample in samples:
            sample.gt_sem_seg.data[:] = 255
        assert all(value.item() == 0 for value in network.loss(images, samples).values())


def _gradients(path: str, variant: str) -> None:
    """Save the losses and gradients of this process's part of eight pictures, averaged."""
    rank, count = rank_and_count()
    torch.manual_seed(0)
    network: Any = build_segmenter(path, CLASSES).network
    network.posterior.prepare()
    share_batches(network)
    images, samples = batch(8)
    for index, sample in enumerate(samples):
        sample.gt_sem_seg.data[:, : index * 3] = 255  # the later ones have fewer pixels
    own = slice(rank * 8 // count, (rank + 1) * 8 // count)
    losses = network.train().loss(images[own], samples[own])
    sum(losses.values()).backward()
    weights = dict(network.named_parameters())
    average_gradients(weights.values())
    found = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    found |= {name: average(value.detach()) for name, value in losses.items()}
    torch.save(found, Path(path).with_name(f"{variant} {rank} of {count}.pt"))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "processes"), [("codes", 2), ("tt", 2), ("ft", 4)])
def test_processes_have_the_losses_and_gradients_of_the_whole_batch(
    config: Config, variant: str, processes: int
) -> None:
    """Four processes have two pictures each, so not all have one of every four."""
    job = (config(variant), variant)
    with side_by_side(processes, _gradients, *job):
        _gradients(*job)
    _gradients(*job)
    together, whole = (
        torch.load(Path(job[0]).with_name(f"{variant} 0 of {count}.pt"), weights_only=True)
        for count in (processes, 1)
    )
    assert together.keys() == whole.keys() and "loss_tokens" in whole
    for name, value in whole.items():
        assert torch.allclose(together[name], value, rtol=1e-3, atol=1e-5), name


# variants


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_comes_back_from_its_files_and_predicts(config: Config, variant: str) -> None:
    torch.manual_seed(0)
    segmenter: Any = build_segmenter(config(variant), CLASSES)
    segmenter.network.posterior.prepare()
    files = pack_segmenter(segmenter)
    again = unpack_segmenter(files)
    assert pack_segmenter(again) == files
    images = torch.randint(0, 256, (1, 3, 130, 100), dtype=torch.uint8)
    found = predict_probabilities(again, images)
    assert found.shape == (1, 3, 130, 100)
    assert torch.allclose(found.sum(1), torch.ones(1, 130, 100), atol=1e-4)
    assert found.amax(1).mean() > 0.34 and found.amin(1).max() > 0, "probabilities, no votes"


def moved(network: Any, done: float) -> set[str]:
    """Return the parts whose weights a step at this share of the training changes."""
    network.posterior.prepare()
    network.at_share(done)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = [value for value in network.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(weights, 1e-2)
    images, samples = batch(4)
    sum(network.loss(images, samples).values()).backward()
    optimiser.step()
    after = network.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    return {
        ".".join(name.split(".")[: 2 if name.startswith("posterior") else 1]) for name in changed
    }


MAIN = {"backbone", "decode_head"}


@pytest.mark.parametrize(
    ("variant", "done", "parts"),
    [
        ("ff", 0.0, MAIN),
        ("ft", 0.5, MAIN | {"posterior.inverse"}),
        ("ft-w", 0.5, MAIN | {"posterior.inverse"}),
        ("ft-w", 0.9, {"posterior.inverse"}),
        ("tf", 0.0, MAIN | {"posterior.palette"}),
        ("tf", 0.5, MAIN),
        ("tt", 0.0, MAIN | {"posterior.palette", "posterior.inverse"}),
        ("tt", 0.5, MAIN | {"posterior.inverse"}),
        ("codes", 0.5, MAIN | {"posterior.decoder", "posterior.conv_seg"}),
    ],
)
def test_each_stage_trains_its_parts_alone(
    gss: Callable[..., Any], variant: str, done: float, parts: set[str]
) -> None:
    """At the end of FT-W not even the running means of the frozen part move."""
    assert moved(gss(variant), done) == parts


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_weights(config: Config) -> None:
    path = config("ft-w")
    recipe = TrainingRecipe(path, 10, 2, 4e-3, warmup=2, precision="fp32", crop=(32, 32))

    def trained(execution: Execution) -> bytes:
        segmenter = train_segmenter(Squares(4), CLASSES, recipe, execution).segmenter
        return pack_segmenter(segmenter)["weights.safetensors"]

    kept: list[bytes] = []
    whole = trained(Execution(every=1, snapshots=Snapshots(lambda: None, kept.append, 0.0)))
    assert len(kept) == 10
    for index in (2, 9):  # in the first stage, and in that which trains the reading alone
        found = partial(kept.__getitem__, index)
        resumed = trained(Execution(every=1, snapshots=Snapshots(found, discard)))
        assert resumed == whole


def discard(content: bytes) -> None:
    """Keep nothing."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "fff"}, "variant='fff'; give one of ff, ff-r"),
        ({"posterior": {"bits": 8}}, "posterior has bits, unused by 'ff'"),
        ({"variant": "codes", "posterior": {"palette": "random"}}, "unused by 'codes'"),
        ({"variant": "codes", "posterior": {"bits": 1}}, "bits=1 give 2 codes for 3 classes"),
        ({"posterior": {"palette": "lab"}}, "palette='lab'; give farthest"),
        ({"posterior": {"decode": "mean"}}, "decode='mean'; give expected or argmax"),
        ({"posterior": {"palette": [[0, 0, 0], [9, 9, 9], [0, 0, 0]]}}, "both 0 and 2"),
        ({"posterior": {"autoencoder": {"type": "ResNet"}}}, "'ResNet' is no discrete"),
        ({"posterior": {"autoencoder": {"type": "os.system"}}}, "outside mmsegmentation's"),
        ({"posterior": {"autoencoder": {"checkpoint": "/x"}}}, "names weights to load"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    config: Config, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_segmenter(config(**change), CLASSES)


def test_the_embedded_autoencoder_gives_back_coloured_labels() -> None:
    """Stage I alone, on a few drawings that it never saw; `benchmarks.gss` measures more."""
    network = build_segmenter("gss-ff", DrawnScenes.classes).network
    assert reconstruction(network) > 0.9


def reconstruction(network: Any, count: int = 12) -> float:
    """Return the mIoU of drawn labels that went through stage I."""
    scenes = DrawnScenes(count)
    label = torch.stack([torch.from_numpy(scenes[index]["label"]) for index in range(count)]).long()
    back = network.eval().reconstruct(label)
    matrix = metrics.confusion_matrix(back.numpy(), label.numpy(), len(DrawnScenes.classes))
    return float(metrics.mean_iou(metrics.class_iou(matrix)))


def test_a_bit_code_learns_to_give_back_labels() -> None:
    torch.manual_seed(0)
    posterior = BitPosterior(3)
    optimiser = torch.optim.AdamW(posterior.parameters(), 5e-3)
    label = torch.stack([Squares()[index]["label"] for index in range(4)]).long()
    label[label == 255] = 0
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(posterior.stage_one(label), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    bits = posterior.encode(label)
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    read = posterior.read(posterior.decode(40 * (2 * bits - 1))).argmax(1)
    assert (read == label).float().mean() > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["ft-w", "codes"])
def test_it_learns(variant: str) -> None:
    recipe = TrainingRecipe(f"gss-{variant}", 80, 8, 8e-3, warmup=10, precision="fp32")
    assert miou_on_squares(train_segmenter(Squares(), CLASSES, recipe)) > 0.7


def test_the_full_size_config_is_whole() -> None:
    """It passes the checks, its schedule is read, and its head has the published sizes."""
    path = str(Path(__file__).parents[2] / "examples" / "mmsegmentation" / "gss_swin-l_ade20k.py")
    model = fit_model(read_model(path), 150)
    check_model(model)
    assert model["posterior"]["autoencoder"] == {"type": "DalleTokens"}, "weights come by file"
    levels = [torch.zeros(1, 192 << i, 64 >> i, 64 >> i, device="meta") for i in range(4)]
    with torch.device("meta"):
        found = TokenHead(**model["decode_head"], outputs=DalleTokens().codes)(levels)
    assert found.tokens.shape == (1, 8192, 64, 64) and found.pixels.shape == (1, 150, 64, 64)
    assert read_schedule(path).crop == (512, 512)
