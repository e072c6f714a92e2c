"""Directories of Hugging Face are models: the same predictions, other classes, no code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    ResNetConfig,
    SwinConfig,
)

from models.segmenters import (
    Segmenter,
    TrainingRecipe,
    build_segmenter,
    initial_weights,
    load_weights,
    pack_segmenter,
    predict_probabilities,
    train_segmenter,
    unpack_segmenter,
)
from tests.models.test_segmenters import CLASSES, Squares

LEVELS: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
BACKBONES: dict[str, Any] = {
    "swin": SwinConfig(
        embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], window_size=4, **LEVELS
    ),
    "resnet": ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 2, 1, 1], **LEVELS
    ),
}
PREPARATION: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}


def written(folder: Path, backbone: str) -> Any:
    """Write a directory by transformers, with 3 classes, and return its network."""
    torch.manual_seed(0)
    labels: dict[str, Any] = {"num_labels": len(CLASSES)}  # transformers' types lack it
    config = Mask2FormerConfig(
        backbone_config=BACKBONES[backbone],
        feature_size=32,
        mask_feature_size=16,
        hidden_dim=48,
        encoder_feedforward_dim=40,
        dim_feedforward=56,
        num_attention_heads=4,
        encoder_layers=1,
        decoder_layers=3,
        num_queries=6,
        **labels,
    )
    network = Mask2FormerForUniversalSegmentation(config).eval()
    for part in network.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # those of transformers make all pixels alike
    with torch.no_grad():
        network.class_predictor.weight.mul_(10)
        network.model.pixel_level_module.decoder.mask_projection.weight.mul_(10)
    network.save_pretrained(folder)
    Mask2FormerImageProcessorPil(**PREPARATION).save_pretrained(folder)
    return network


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    written(tmp_path / "swin", "swin")
    return tmp_path / "swin"


def started(directory: Path) -> Segmenter:
    """Return the segmenter of a directory with its weights, which all have to fit."""
    segmenter = build_segmenter(str(directory), CLASSES)
    (file,) = initial_weights(str(directory))
    loaded = load_weights(segmenter.network, file)
    assert loaded.missing == [] and loaded.unexpected == ["criterion.empty_weight"]
    segmenter.network.load_state_dict(loaded.state)
    segmenter.network.eval()
    return segmenter


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_directory_predicts_what_transformers_does(tmp_path: Path, backbone: str) -> None:
    theirs = written(tmp_path, backbone)
    segmenter = started(tmp_path)
    image = torch.randint(0, 256, (1, 3, 384, 384), dtype=torch.uint8)  # the size of their masks
    image[..., 192:] //= 4
    processor: Any = Mask2FormerImageProcessorPil.from_pretrained(tmp_path)
    inputs = processor(list(image), return_tensors="pt", do_resize=False)
    with torch.inference_mode():
        outputs = theirs(inputs["pixel_values"])
        found: Any = processor.post_process_semantic_segmentation(
            outputs, target_sizes=[(384, 384)], return_segmentation_scores=True
        )
    scores = found[0].segmentation_scores
    ours = predict_probabilities(segmenter, image)[0]
    assert torch.allclose(ours, scores / scores.sum(0), atol=1e-4)
    assert (ours.argmax(0) == found[0].segmentation).float().mean() > 0.999
    assert (ours.amax((1, 2)) - ours.amin((1, 2))).max() > 0.05  # not one answer everywhere


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_images_of_any_size_are_padded_to_the_divisor(
    directory: Path, size: tuple[int, int]
) -> None:
    segmenter = started(directory)
    network: Any = segmenter.network
    assert network.divisor == 32
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    found = predict_probabilities(segmenter, images)
    assert found.shape == (2, 3, *size)
    assert torch.allclose(found.sum(1), torch.ones(2, *size), atol=1e-4)


def test_its_class_layer_is_left_out_for_other_classes(directory: Path) -> None:
    segmenter = build_segmenter(str(directory), (*CLASSES, "green"))
    (file,) = initial_weights(str(directory))
    missing = load_weights(segmenter.network, file).missing
    assert missing == ["class_predictor.bias", "class_predictor.weight"]


def test_it_comes_back_from_its_files_without_the_directory(directory: Path) -> None:
    files = pack_segmenter(started(directory))
    for file in directory.iterdir():
        file.unlink()
    assert pack_segmenter(unpack_segmenter(files)) == files


def test_a_swin_is_named_as_in_its_files_by_any_config(directory: Path, tmp_path: Path) -> None:
    """train.weights takes the file also where a config describes the network."""
    model = build_segmenter(str(directory), CLASSES).config["model"]
    (tmp_path / "config.py").write_text(f"model = {model}\n")
    segmenter = build_segmenter(str(tmp_path / "config.py"), CLASSES)
    (file,) = initial_weights(str(tmp_path / "config.py"), str(directory / "model.safetensors"))
    assert load_weights(segmenter.network, file).missing == []


def change(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file; "a.b" is the field b of the field a."""
    content = json.loads(file.read_text())
    for name, value in changes.items():
        above, _, field = name.rpartition("__")
        (content[above] if above else content)[field] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"backbone_config": None}, "backbone_config has the model_type None; give a directory"),
        ({"backbone_config__model_type": "timm_backbone"}, "has the model_type 'timm_backbone'"),
        ({"backbone": "microsoft/resnet-50"}, "backbone is not None, which is all that"),
        ({"backbone_config__hidden_act": "relu"}, "hidden_act is not gelu"),
        ({"backbone_config__out_features": ["stage4"]}, "out_features is not"),
        ({"backbone_config__depths": [1, 2]}, r"depths is \[1, 2\]; give 4 numbers like"),
        ({"backbone_config__depths": [1, 2, 1, -1]}, r"depths is \[1, 2, 1, -1\]; give 4 numbers"),
        ({"backbone_config__depths": "1211"}, "depths is '1211'; give 4 numbers"),
        ({"backbone_config__window_size": 1 << 40}, "window_size is 1099511627776; give a number"),
        ({"backbone_config__mlp_ratio": float("nan")}, "mlp_ratio is nan; give a number like"),
        ({"backbone_config__mlp_ratio": 10**400}, "mlp_ratio is 1000.*; give a number like"),
        ({"backbone_config__drop_path_rate": 1.5}, "drop_path is 1.5; give a share"),
        ({"backbone_config__qkv_bias": 1}, "qkv_bias is 1; give a number like True"),
        ({"feature_size": 40}, "cannot build the config's model"),
        ({"num_queries": 65536, "hidden_dim": 65536}, "it asks for over"),
        ({"decoder_layers": 0}, "decoder_layers is 0; give a number like 10"),
        ({"pre_norm": True}, "pre_norm is not False"),
    ],
)
def test_a_network_that_cannot_be_used_is_named(
    directory: Path, changed: dict[str, Any], message: str
) -> None:
    change(directory / "config.json", **changed)
    with pytest.raises(ValueError, match=message):
        build_segmenter(str(directory), CLASSES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_mean": [0.5]}, r"image_mean is \[0\.5\]; give 3 numbers like"),
        ({"image_mean": None}, "image_mean is None; give 3 numbers like"),
        (
            {"image_std": [0.2, 0.0, 0.2]},
            r"image_std is \[0\.2, 0\.0, 0\.2\], .*; give at least 1e-06",
        ),
        ({"rescale_factor": 0}, "rescale_factor 0; give at least 1e-06"),
        ({"do_normalize": "yes"}, "do_normalize is 'yes'; give a number like True"),
        ({"size_divisor": 65536}, "divisor is 65536; give 1 to 128"),
        ({"size_divisor": 0}, "size_divisor is 0; give a number like 32"),
    ],
)
def test_a_preparation_of_images_that_cannot_be_used_is_named(
    directory: Path, changed: dict[str, Any], message: str
) -> None:
    change(directory / "preprocessor_config.json", **changed)
    with pytest.raises(ValueError, match=message):
        build_segmenter(str(directory), CLASSES)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, " " * (1 << 21)])
def test_a_file_that_is_no_config_is_named(directory: Path, name: str, content: str) -> None:
    (directory / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} is no config of a model"):
        build_segmenter(str(directory), CLASSES)


@pytest.mark.slow
def test_a_training_starts_from_a_directory(directory: Path) -> None:
    files = initial_weights(str(directory))
    recipe = TrainingRecipe(str(directory), 2, 2, 1e-9, weights=files, precision="fp32")
    trained = train_segmenter(Squares(), CLASSES, recipe)
    (report,) = trained.weights
    assert (report["matched"], report["missing"]) == (report["of"], [])
    before = started(directory).network.state_dict()
    after = trained.segmenter.network.state_dict()
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())
