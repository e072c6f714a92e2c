"""Initial weights come from files of other tools, whole or the backbone's; nothing in them runs."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from models.segmenters import (
    Segmenter,
    TrainingRecipe,
    build_segmenter,
    initial_weights,
    load_weights,
    train_segmenter,
)
from tests.models.test_segmenters import CLASSES, TINY, Squares

SHIPPED = "ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A config file of a tiny network that names no weights."""
    return plain(tmp_path)


def plain(folder: Path, **init: str) -> str:
    text = TINY.replace('pretrained="open-mmlab://not_to_be_fetched",', "")
    address = 'init_cfg=dict(type="Pretrained", checkpoint="https://nowhere.invalid/mit.pth")'
    assert address in text
    chosen = f"init_cfg=dict(type='Pretrained', checkpoint={init['file']!r})" if init else ""
    path = folder / f"tiny{len(init)}.py"
    path.write_text(text.replace(address, chosen))
    return str(path)


def built(config: str, seed: int, classes: tuple[str, ...] = CLASSES) -> Segmenter:
    torch.manual_seed(seed)
    return build_segmenter(config, classes)


def backbone(segmenter: Segmenter) -> dict[str, torch.Tensor]:
    network: Any = segmenter.network
    return dict(network.backbone.state_dict())


def loaded(segmenter: Segmenter, path: Path) -> Any:
    (file,) = initial_weights(segmenter.config["model"]["type"], str(path))
    found = load_weights(segmenter.network, file)
    segmenter.network.load_state_dict(found.state, strict=False)
    return found


def saved(path: Path, tensors: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_whole_network_comes_in_whole(config: str, tmp_path: Path, suffix: str) -> None:
    first, second = built(config, 1), built(config, 2)
    found = loaded(second, saved(tmp_path / f"w{suffix}", first.network.state_dict()))
    assert not found.missing and not found.unexpected
    images = torch.randn(2, 3, 64, 64)
    outputs = [each.network.eval()(images) for each in (first, second)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("prefix", "nested"),
    [("", ""), ("module.", ""), ("backbone.", "state_dict"), ("encoder.", "model")],
)
def test_a_backbone_comes_in_whole(config: str, tmp_path: Path, nested: str, prefix: str) -> None:
    first, second = built(config, 1), built(config, 2)
    tensors = {prefix + n: t for n, t in backbone(first).items()}
    file = saved(tmp_path / "w.pth", {nested: tensors, "epoch": 3} if nested else tensors)
    found = loaded(second, file)
    assert not found.unexpected
    assert found.missing and all(name.startswith("decode_head.") for name in found.missing)
    one, other = (backbone(each) for each in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_backbone_of_other_names_is_matched_by_order(config: str, tmp_path: Path) -> None:
    first, second = built(config, 1), built(config, 2)
    own = backbone(first)
    renamed = {f"features.{i}.{n.rpartition('.')[2]}": t for i, (n, t) in enumerate(own.items())}
    found = loaded(second, saved(tmp_path / "w.pth", renamed | {"fc.weight": torch.ones(9, 16)}))
    assert found.unexpected == ["fc.weight"] and found.summary()["by"] == "order"
    other = backbone(second)
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_a_sorted_file_of_other_names_is_not_matched_by_order(config: str, tmp_path: Path) -> None:
    renamed = {f"f{i}.weight": t for i, t in enumerate(backbone(built(config, 1)).values())}
    with pytest.raises(ValueError, match="give weights of the same architecture"):
        loaded(built(config, 2), saved(tmp_path / "w.safetensors", renamed))


def test_a_classifier_of_other_classes_stays_random_and_is_reported(
    config: str, tmp_path: Path
) -> None:
    first, second = built(config, 1, (*CLASSES, "green")), built(config, 2)
    found = loaded(second, saved(tmp_path / "w.pth", first.network.state_dict()))
    classifier = ["decode_head.conv_seg.bias", "decode_head.conv_seg.weight"]
    assert found.missing == classifier and found.unexpected == classifier
    assert found.summary()["matched"] == found.summary()["of"] - 2


def test_a_training_starts_from_them(config: str, tmp_path: Path) -> None:
    first = built(config, 1)
    file = saved(tmp_path / "w.safetensors", first.network.state_dict())
    recipe = TrainingRecipe(config, 1, 2, 1e-12, weight_decay=0.0, warmup=1, precision="fp32")
    recipe = replace(recipe, weights=initial_weights(config, str(file)))
    trained = train_segmenter(Squares(), CLASSES, recipe)
    own = dict(first.network.named_parameters())
    after = dict(trained.segmenter.network.named_parameters())
    assert all(torch.allclose(own[name], after[name], atol=1e-6) for name in own)
    assert trained.weights[0]["file"] == "w.safetensors" and not trained.weights[0]["missing"]
    scratch = train_segmenter(Squares(), CLASSES, replace(recipe, weights=()))
    other = dict(scratch.segmenter.network.named_parameters())
    assert scratch.weights == []
    assert not all(torch.allclose(own[name], other[name], atol=1e-2) for name in own)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL"],)


def test_a_pickle_in_them_does_not_run(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    file = saved(tmp_path / "w.pth", {"state_dict": Evil()})
    with pytest.raises(ValueError, match="holds more than tensors"):
        loaded(built(config, 1), file)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists()  # the file does what it is feared for


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": torch.ones(3, 3)}, "give weights of the same architecture"),
        ({"meta": {"epoch": 3}}, "holds no tensors by name"),
        ([1, 2], "holds no tensors by name"),
    ],
)
def test_weights_of_something_else_are_refused(
    config: str, tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(built(config, 1), saved(tmp_path / "w.pth", content))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_and_missing_files_are_named(config: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="No such file"):
        initial_weights(config, str(tmp_path / name))
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(ValueError, match=name):
        loaded(built(config, 1), tmp_path / name)


def test_a_file_that_changed_is_refused(config: str, tmp_path: Path) -> None:
    segmenter = built(config, 1)
    file = saved(tmp_path / "w.pth", segmenter.network.state_dict())
    (planned,) = initial_weights(config, str(file))
    saved(tmp_path / "w.pth", built(config, 2).network.state_dict())
    with pytest.raises(ValueError, match="changed since"):
        load_weights(segmenter.network, planned)


def test_an_address_in_a_config_is_refused_with_the_file_to_fetch(tmp_path: Path) -> None:
    path = tmp_path / "tiny.py"
    path.write_text(TINY.replace("open-mmlab://not_to_be_fetched", "open-mmlab://resnet50_v1c"))
    with pytest.raises(ValueError, match=r"weights https://\S+/resnet50_v1c\S+\.pth, and nothing"):
        initial_weights(str(path))
    assert initial_weights(str(path), "random") == ()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("mmcls://mobilenet_v2", "https://.*mobilenet_v2.*pth"),
        ("torchvision://resnet50", "https://.*resnet50.*pth"),
    ],
)
def test_short_names_are_told_as_addresses(tmp_path: Path, name: str, address: str) -> None:
    path = tmp_path / "tiny.py"
    path.write_text(TINY.replace("open-mmlab://not_to_be_fetched", name))
    with pytest.raises(ValueError, match=address):
        initial_weights(str(path))


def test_a_file_in_a_config_is_for_the_part_that_names_it(config: str, tmp_path: Path) -> None:
    first = built(config, 1)
    file = saved(tmp_path / "mit.pth", backbone(first))
    naming = plain(tmp_path, file=str(file))
    (found,) = initial_weights(naming)
    assert (found.path, found.part) == (str(file), "backbone")
    fitted = load_weights(built(naming, 2).network, found)
    assert not fitted.missing and len(fitted.state) == len(backbone(first))


def test_models_by_name_start_from_random_weights() -> None:
    assert initial_weights("segformer") == ()


def test_a_config_that_mmsegmentation_ships_goes_by_its_name() -> None:
    network: Any = build_segmenter(SHIPPED, CLASSES).network
    assert type(network.backbone).__name__ == "DDRNet"
    with pytest.raises(ValueError, match=r"such as .*ddrnet_23-slim"):
        build_segmenter(SHIPPED.replace("23-slim", "23-slam"), CLASSES)
