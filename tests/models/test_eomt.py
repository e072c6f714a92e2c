"""EoMT computes what transformers' does, takes images of any size, and anneals its masks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from transformers import EomtConfig, EomtForUniversalSegmentation

from models.segmenters import (
    Execution,
    Snapshots,
    TrainingRecipe,
    build_segmenter,
    initial_weights,
    load_weights,
    pack_segmenter,
    train_segmenter,
    unpack_segmenter,
)
from models.segmenters.eomt import Eomt
from models.segmenters.mask_losses import targets_of
from models.segmenters.queries import Predictions
from tests.models.test_mask2former import label
from tests.models.test_segmenters import CLASSES, Squares, miou_on_squares

SMALL: dict[str, Any] = {
    "width": 32,
    "layers": 4,
    "heads": 4,
    "blocks": 2,
    "queries": 5,
    "patch": 8,
    "side": 64,
}


@pytest.fixture
def small() -> Eomt:
    torch.manual_seed(0)
    return Eomt(3, registers=2, upscales=1, points=256, **SMALL)


def theirs(small: Eomt) -> Any:
    """Transformers' network with the weights of ours."""
    labels: dict[str, Any] = {"num_labels": 3}  # transformers' types lack it
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_blocks=2,
        num_queries=5,
        patch_size=8,
        image_size=64,
        num_register_tokens=2,
        num_upscale_blocks=1,
        **labels,
    )
    network = EomtForUniversalSegmentation(config)
    missing, unexpected = network.load_state_dict(small.state_dict(), strict=False)
    assert missing == ["criterion.empty_weight"] and unexpected == []
    return network


@pytest.mark.parametrize("masked", [True, False])
def test_it_computes_what_transformers_does(small: Eomt, masked: bool) -> None:
    small.attn_mask_probs.fill_(float(masked))
    images = torch.randn(2, 3, 64, 64)
    network = theirs(small).train(masked)
    with torch.no_grad():
        expected = network(images)
        found = small.train(masked).layers_of(images)
    assert len(found) == (3 if masked else 1)
    assert torch.allclose(found[-1].classes, expected.class_queries_logits, atol=1e-5)
    assert torch.allclose(found[-1].masks, expected.masks_queries_logits, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (50, 61)])
def test_images_of_any_size_are_predicted_at_their_size(small: Eomt, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        logits = small.eval().encode_decode(torch.randn(2, 3, *size), None)
    assert logits.shape == (2, 3, *size)
    assert torch.allclose(logits.exp().sum(1), torch.ones(2, *size), atol=1e-4)


def test_padding_of_an_odd_image_is_labelled_255(small: Eomt) -> None:
    """Its loss is that of the padded image with padded labels."""

    def loss(images: torch.Tensor, ids: torch.Tensor) -> float:
        sample = SegDataSample(gt_sem_seg=PixelData(data=ids[None]))
        torch.manual_seed(1)
        with torch.no_grad():
            return float(torch.stack([*small.loss(images, [sample]).values()]).sum())

    images, ids = torch.randn(1, 3, 28, 32), label()[:28]
    padded = torch.nn.functional.pad(images, (0, 0, 0, 4))
    ignored = torch.nn.functional.pad(ids, (0, 0, 0, 4), value=255)
    assert loss(images, ids) == loss(padded, ignored)


def test_what_lies_under_255_changes_no_gradient(small: Eomt) -> None:
    ids = label()
    ids[:, 20:] = 255
    targets = [targets_of(ids)]
    torch.manual_seed(0)
    said, drawn = torch.randn(1, 5, 4), torch.randn(1, 5, 32, 32)

    def gradients(under: float) -> tuple[torch.Tensor, torch.Tensor]:
        masks = drawn.clone()
        masks[..., 22:] = under  # far enough from the valid pixels that sampling mixes none in
        classes = said.clone().requires_grad_()
        masks.requires_grad_()
        torch.manual_seed(1)
        losses = small._losses(Predictions(classes, masks), targets)
        torch.stack([*losses.values()]).sum().backward()
        assert classes.grad is not None and masks.grad is not None
        return classes.grad, masks.grad

    first, second = gradients(-5.0), gradients(5.0)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[1][..., 22:].abs().max() == 0 and first[1][..., :20].abs().max() > 0


@pytest.mark.parametrize(
    ("done", "chances"),
    [
        (0, [1, 1, 1, 1]),
        (1 / 6, [1, 1, 1, 1]),
        (1.5 / 6, [0.5**0.9, 1, 1, 1]),
        (3 / 6, [0, 0, 1, 1]),
        (5 / 6, [0, 0, 0, 0]),
        (1, [0, 0, 0, 0]),
    ],
)
def test_masks_are_annealed_block_by_block_in_sixths(done: float, chances: list[float]) -> None:
    network = Eomt(3, **(SMALL | {"blocks": 4}))
    network.at_share(done)
    assert network.attn_mask_probs.tolist() == pytest.approx(chances, abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "begins", "ends"),
    [
        # six times the first begin
        (177384, [29564, 73910, 118256], [59128, 103474, 147820]),
        (39120, [6520, 13040, 19560, 26080], [13040, 19560, 26080, 32600]),
        (88692, [14782, 25869, 36955, 48042, 59128], [29564, 40651, 51737, 62824, 73910]),
    ],
)
def test_masks_are_annealed_in_the_steps_of_the_authors_configs(
    steps: int, begins: list[int], ends: list[int]
) -> None:
    """Those of EoMT-S and EoMT-g on COCO, and of EoMT-L on ADE20K."""
    network = Eomt(3, **(SMALL | {"blocks": len(begins), "layers": len(begins)}))
    for block, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        for done, chance in ((begin, 1), ((begin + end) / 2, 0.5**0.9), (end, 0)):
            network.at_share(done / steps)
            assert float(network.attn_mask_probs[block]) == pytest.approx(chance, abs=1e-3)


def test_queries_see_their_masks_as_often_as_the_probability_says(small: Eomt) -> None:
    masks = torch.full((50, 5, 8, 8), -1.0)
    masks[..., :4] = 1.0
    seen = {
        chance: small._mask(masks, (8, 8), torch.tensor(chance))[:, 0, :5, -64:].float().mean()
        for chance in (0.0, 0.5, 1.0)
    }
    assert seen[0.0] == 1 and seen[1.0] == 0.5
    assert seen[0.5] == pytest.approx(0.75, abs=0.06)  # 4 standard deviations of 250 draws
    attended = small._mask(masks, (8, 8), torch.tensor(1.0))
    assert attended[:, 0, 5:].all() and attended[:, 0, :5, :-64].all()


@pytest.fixture
def directory(small: Eomt, tmp_path: Path) -> Path:
    """A directory that transformers wrote."""
    theirs(small).save_pretrained(tmp_path / "eomt")
    return tmp_path / "eomt"


def test_a_directory_of_hugging_face_is_a_model_with_its_weights(
    small: Eomt, directory: Path
) -> None:
    segmenter = build_segmenter(str(directory), CLASSES)
    (file,) = initial_weights(str(directory))
    loaded = load_weights(segmenter.network, file)
    assert loaded.missing == [] and loaded.unexpected == ["criterion.empty_weight"]
    segmenter.network.load_state_dict(loaded.state)
    assert all(
        torch.equal(value, small.state_dict()[name])
        for name, value in segmenter.network.state_dict().items()
    )


def test_images_are_normalised_as_the_directory_says(directory: Path) -> None:
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_rescale": True}
    (directory / "preprocessor_config.json").write_text(json.dumps(said))
    prepare: Any = build_segmenter(str(directory), CLASSES).network.data_preprocessor
    images = torch.full((1, 3, 64, 64), 255.0)
    assert torch.allclose(prepare({"inputs": images}, training=False)["inputs"], images / 255 * 2)


def test_its_class_layer_is_left_out_for_other_classes(directory: Path) -> None:
    segmenter = build_segmenter(str(directory), (*CLASSES, "green"))
    (file,) = initial_weights(str(directory))
    missing = load_weights(segmenter.network, file).missing
    assert missing == ["class_predictor.bias", "class_predictor.weight"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; give a directory of an EoMT"),
        ({"hidden_act": "relu"}, "hidden_act is not gelu"),
        ({"hidden_size": "a" * 99}, r"hidden_size is 'a{59}; give a number like 1024"),
        ({"hidden_size": 1 << 40}, "hidden_size is 1099511627776; give a number like 1024"),
        ({"use_swiglu_ffn": 3}, "use_swiglu_ffn is 3; give a number like False"),
        ({"num_queries": None}, "num_queries is None; give a number like 200"),
    ],
)
def test_a_directory_that_cannot_be_used_is_named(
    directory: Path, changed: dict[str, Any], message: str
) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(ValueError, match=message):
        build_segmenter(str(directory), CLASSES)


def test_a_directory_with_pickles_alone_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors' cannot be read"):
        initial_weights(str(directory))


@pytest.fixture
def recipe() -> TrainingRecipe:
    return TrainingRecipe("eomt", 12, 2, 8e-3, warmup=2, crop=(32, 32), precision="fp32")


@pytest.mark.slow
def test_an_interrupted_annealing_ends_in_the_same_weights(recipe: TrainingRecipe) -> None:
    whole = train_segmenter(Squares(), CLASSES, recipe, Execution(every=1))
    kept: list[bytes] = []

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 7:  # the first block is annealed, the second is on the way
            raise KeyboardInterrupt

    snapshots = Snapshots(lambda: kept[-1] if kept else None, kept.append, seconds=0)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(
            Squares(), CLASSES, recipe, Execution(every=1, progress=stop, snapshots=snapshots)
        )
    trained = train_segmenter(Squares(), CLASSES, recipe, Execution(every=1, snapshots=snapshots))
    assert pack_segmenter(trained.segmenter) == pack_segmenter(whole.segmenter)
    annealed: Any = trained.segmenter.network.get_buffer("attn_mask_probs")
    assert annealed.tolist() == [0, 0, 0]


def test_it_comes_back_from_its_files() -> None:
    torch.manual_seed(0)
    files = pack_segmenter(build_segmenter("eomt", CLASSES))
    assert pack_segmenter(unpack_segmenter(files)) == files


@pytest.mark.slow
def test_it_learns() -> None:
    recipe = TrainingRecipe("eomt", 150, 8, 8e-3, warmup=10, precision="fp32")
    assert miou_on_squares(train_segmenter(Squares(), CLASSES, recipe)) > 0.7
