"""SemFlow leads images to masks and masks to images, from any Stable Diffusion pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from models.generators import load_pipeline
from models.segmenters import (
    Segmenter,
    TrainingRecipe,
    build_segmenter,
    draw_images,
    initial_weights,
    load_weights,
    pack_segmenter,
    predict_probabilities,
    train_segmenter,
    unpack_segmenter,
)
from models.segmenters.openmmlab import PixelData, SegDataSample
from models.segmenters.semflow.codes import AnchorCodes, anchors, one_hot
from models.segmenters.semflow.solvers import Velocity, euler, rk45
from tests.models.test_segmenters import CLASSES, Squares


@pytest.fixture
def config(tmp_path: Path, tiny_directory: Path) -> str:
    """A config file of a flow around the tiny pipeline."""
    return written(tmp_path, tiny_directory)


def written(folder: Path, pipeline: Path, **options: Any) -> str:
    path = folder / f"flow{len(options)}.py"
    given = {"type": "SemFlow", "pipeline": str(pipeline), "num_classes": 2, **options}
    to_unit = "data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)"
    path.write_text(f"{to_unit}\nmodel = dict(data_preprocessor=data_preprocessor, **{given!r})")
    return str(path)


def started(config: str) -> Any:
    """Return a network with the pipeline's weights."""
    network: Any = build_segmenter(config, CLASSES).network.eval()
    (file,) = initial_weights(config)
    network.load_state_dict(load_weights(network, file, CLASSES).state, strict=False)
    return network


def losses(segmenter: Segmenter, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the losses on grey noise with these labels (N, H, W)."""
    torch.manual_seed(0)
    network: Any = segmenter.network
    images = torch.randn(len(labels), 3, *labels.shape[1:])
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]
    found: dict[str, torch.Tensor] = network.loss(images, samples)
    return found


def test_anchors_are_as_far_apart_as_the_paper_s() -> None:
    assert anchors(215).unique(dim=0).shape == (215, 3)
    for classes, distance in ((215, 50), (11, 125), (7, 250)):
        colours = torch.cat([anchors(classes), torch.full((1, 3), 255.0)])
        apart = torch.cdist(colours, colours) + 1e9 * torch.eye(len(colours))
        assert apart.min() >= distance, classes


def test_each_anchor_decodes_to_its_class() -> None:
    class Pixels:
        """In place of an autoencoder: latents are pixels."""

        class config:  # noqa: N801
            scaling_factor = 1.0

        class decode:  # noqa: N801
            def __init__(self, latents: torch.Tensor) -> None:
                self.sample = latents

    ids = torch.arange(150).view(1, 10, 15)
    colours = anchors(150)[ids].permute(0, 3, 1, 2) / 127.5 - 1
    shifted = colours + 0.09 * (2 * torch.rand_like(colours) - 1)
    scores = AnchorCodes(150, 0.05).decode(shifted, Pixels)
    assert torch.equal(scores.argmax(1), ids)


class Grey:
    """In place of an autoencoder that knows no colours: latents are the mean of the channels."""

    config = SimpleNamespace(scaling_factor=1.0)
    device = "cpu"

    @staticmethod
    def encode(images: torch.Tensor) -> Any:
        grey = images.mean(1, keepdim=True)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: grey))

    @staticmethod
    def decode(latents: torch.Tensor) -> Any:
        return SimpleNamespace(sample=latents.expand(-1, 3, -1, -1))


def test_colours_can_be_chosen_by_what_the_autoencoder_reproduces() -> None:
    ids = torch.arange(4).repeat_interleave(16).view(1, 8, 8)
    found = {}
    for palette in ("anchors", "reproduced"):
        codes = AnchorCodes(4, 0.0, palette)
        codes.prepare(Grey)
        back = codes.decode(codes.encode(ids, Grey), Grey).argmax(1)
        found[palette] = float((back == ids).float().mean())
    assert found["reproduced"] == 1 > found["anchors"]


def test_a_checkpoint_keeps_the_chosen_colours(tmp_path: Path, tiny_directory: Path) -> None:
    options = {"codes": "anchors", "palette": "reproduced"}
    segmenter = build_segmenter(written(tmp_path, tiny_directory, **options), CLASSES)
    losses(segmenter, torch.zeros(1, 32, 32, dtype=torch.long))
    back: Any = unpack_segmenter(pack_segmenter(segmenter)).network
    network: Any = segmenter.network
    assert network.codes.colours.isfinite().all()
    assert torch.equal(back.codes.colours, network.codes.colours)


@pytest.mark.parametrize("solve", [lambda v, z, **way: euler(v, z, 200, **way), rk45])
def test_solvers_follow_the_flow_and_come_back(solve: Callable[..., torch.Tensor]) -> None:
    growth: Velocity = lambda z, t: z * (1 + t)[:, None, None, None]  # noqa: E731  # exp(t + t²/2)
    start = torch.randn(2, 4, 3, 3)
    there = solve(growth, start)
    assert torch.allclose(there, start * 4.4817, rtol=0.02)
    assert torch.allclose(solve(growth, there, backwards=True), start, rtol=0.03, atol=1e-3)


def test_it_starts_from_the_pipeline_and_keeps_no_path(config: str, tiny_directory: Path) -> None:
    segmenter = build_segmenter(config, CLASSES)
    (file,) = initial_weights(config)
    loaded = load_weights(segmenter.network, file, CLASSES)
    assert not loaded.unexpected and "text" in loaded.state
    assert {name.partition(".")[0] for name in loaded.missing} == {"codes", "show"}
    assert str(tiny_directory) not in json.dumps(segmenter.config)


def test_the_u_net_starts_as_the_pipeline_s(config: str, tiny_directory: Path) -> None:
    network = started(config)
    pipeline: Any = load_pipeline(tiny_directory, device="cpu")
    latents = torch.randn(2, network.unet.config.out_channels, 4, 4)
    time = torch.tensor([0.25, 0.5])
    words = network.text.expand(2, -1, -1)
    with torch.no_grad():
        expected = pipeline.unet(latents, time * 1000, words).sample
        assert torch.allclose(network._velocity(latents, time), expected, atol=1e-5)


def test_a_mask_is_drawn_with_the_names_of_its_classes(config: str) -> None:
    network = started(config)
    assert len(network.words[0].unique(dim=0)) == len(CLASSES)
    latents = torch.randn(1, network.unet.config.out_channels, 4, 4).expand(4, -1, -1, -1)
    labels = torch.full((4, 32, 32), 255)
    labels[1], labels[2], labels[3, :16], labels[3, 16:] = 1, 2, 2, 1
    with torch.no_grad():
        found = network._velocity(latents, torch.full((4,), 0.5), one_hot(labels, len(CLASSES)))
        without = network._velocity(latents[:1], torch.full((1,), 0.5))
    assert torch.allclose(found[:1], without, atol=1e-5)  # no class has a pixel
    assert len(found.flatten(1).unique(dim=0)) == 4


def test_guidance_leads_away_from_images_of_no_mask(config: str) -> None:
    network = started(config)
    labels = torch.ones(1, 32, 32, dtype=torch.long)
    images = {}
    for guidance in (0.0, 1.0, 2.0):
        network.guidance = guidance
        images[guidance] = network.draw(labels, 1, [torch.Generator().manual_seed(0)])
    # one step is linear in the velocity; the autoencoder is not, but a small step nearly is
    assert not torch.allclose(images[1.0], images[0.0]) and torch.isfinite(images[2.0]).all()
    ahead, more = images[1.0] - images[0.0], images[2.0] - images[0.0]
    assert torch.cosine_similarity(ahead.flatten(), more.flatten(), 0) > 0.9


def test_it_comes_back_from_its_files_without_the_pipeline(config: str) -> None:
    files = pack_segmenter(build_segmenter(config, CLASSES))
    assert pack_segmenter(unpack_segmenter(files)) == files


def test_a_checkpoint_that_names_a_pipeline_is_refused(config: str, tiny_directory: Path) -> None:
    files = pack_segmenter(build_segmenter(config, CLASSES))
    described = json.loads(files["config.json"])
    described["model"]["pipeline"] = str(tiny_directory)
    with pytest.raises(ValueError, match=r"model\.pipeline is text"):
        unpack_segmenter(files | {"config.json": json.dumps(described).encode()})


def test_only_a_flow_starts_from_a_pipeline(tiny_directory: Path) -> None:
    network = build_segmenter("segformer", CLASSES).network
    (file,) = initial_weights("segformer", str(tiny_directory))
    with pytest.raises(ValueError, match="is a directory, and only a flow"):
        load_weights(network, file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codes": "colours"}, "give codes of anchors, learned"),
        ({"palette": "bright"}, "palette='bright'; give one of anchors, reproduced"),
        ({"steps": -1}, "steps of at least 0"),
        ({"start": 0.75, "shown": 0.5}, "shares that add to at most 1"),
        ({"pipeline": "/nowhere"}, "is not a directory"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, tiny_directory: Path, options: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, **{"pipeline": tiny_directory, **options})
    with pytest.raises(ValueError, match=message):
        build_segmenter(path, CLASSES)


@pytest.mark.parametrize("codes", ["anchors", "learned"])
def test_images_of_any_size_are_trained_on_and_predicted(
    tmp_path: Path, tiny_directory: Path, codes: str
) -> None:
    segmenter = build_segmenter(written(tmp_path, tiny_directory, codes=codes), CLASSES)
    found = losses(segmenter, torch.randint(0, 3, (2, 40, 52)))
    assert all(torch.isfinite(loss) for loss in found.values())
    images = torch.randint(0, 256, (2, 3, 40, 52), dtype=torch.uint8)
    assert predict_probabilities(segmenter, images).shape == (2, 3, 40, 52)


def test_pixels_of_255_teach_nothing(config: str) -> None:
    segmenter = build_segmenter(config, CLASSES)
    found = losses(segmenter, torch.full((2, 32, 32), 255))
    total = torch.stack(list(found.values())).sum()
    total.backward()
    gradients = [p.grad for p in segmenter.network.parameters() if p.grad is not None]
    assert total == 0 and gradients and all(not each.any() for each in gradients)


def test_one_label_map_gives_many_images(config: str) -> None:
    network: Any = build_segmenter(config, CLASSES).network
    labels = torch.zeros(2, 32, 40, dtype=torch.long)
    torch.manual_seed(0)
    images = network.draw(labels, steps=2)
    assert images.shape == (2, 3, 32, 40) and not torch.equal(images[0], images[1])
    torch.manual_seed(0)
    assert torch.equal(network.draw(labels, steps=2), images)


@pytest.mark.slow
@pytest.mark.parametrize("codes", ["anchors", "learned"])
def test_an_image_depends_on_its_own_map_and_seed_alone(
    tmp_path: Path, tiny_directory: Path, codes: str
) -> None:
    segmenter = build_segmenter(written(tmp_path, tiny_directory, codes=codes), CLASSES)
    labels = np.zeros((3, 32, 40), np.uint8)
    labels[:2, 8:24, 8:24] = 1
    labels[:, 0] = 255
    together = draw_images(segmenter, labels, [1, 2, 1], steps=2)
    assert together.images.shape == (3, 32, 40, 3) and together.read.shape == (3, 32, 40)
    assert together.finite.all() and set(np.unique(together.read)) <= {0, 1, 2}
    torch.manual_seed(5)  # the global generator has no part in it
    for number, seed in enumerate([1, 2, 1]):
        (image,) = draw_images(segmenter, labels[[number]], [seed], steps=2).images
        assert np.abs(image.astype(int) - together.images[number]).max() <= 1  # order of sums
    for other in (together.images[1], together.images[2]):
        assert not np.array_equal(together.images[0], other)


def test_an_image_that_is_not_finite_is_marked(config: str) -> None:
    segmenter = build_segmenter(config, CLASSES)
    network: Any = segmenter.network
    network.unet.conv_out.bias.data[0] = torch.nan
    drawn = draw_images(segmenter, np.zeros((2, 32, 32), np.uint8), [1, 2], steps=1)
    assert not drawn.finite.any()


@pytest.mark.slow
def test_it_learns(config: str) -> None:
    recipe = TrainingRecipe(
        config, 60, 8, 4e-3, weights=initial_weights(config), precision="fp32", warmup=20
    )
    trained = train_segmenter(Squares(), CLASSES, recipe)
    assert trained.weights[0]["matched"] > 500 and not trained.weights[0]["unexpected"]
    assert trained.curve[-1]["loss"] < 0.75 * trained.curve[0]["loss"]
