"""Labellers: scores for each phrase from directories of transformers' models, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GroundingDinoImageProcessorPil, ViTImageProcessorPil

from models.labellers import (
    Found,
    Labeller,
    LabellerError,
    check_labeller,
    labeller_digest,
    open_labeller,
)
from models.labellers.clipseg import ClipSeg
from models.labellers.found import join
from models.labellers.grounded import attention_box
from models.labellers.preparation import HALVES, IMAGENET, Preparation, read_preparation
from tests.models.conftest import build_tokenizer
from tests.models.labelling import (
    PHRASES,
    WORDS,
    write_clipseg,
    write_detector,
    write_sam2,
    write_sam3,
)

SIZE = (50, 70)
# kind and directories of each labeller
LABELLERS: dict[str, tuple[str, ...]] = {
    "clipseg": ("clipseg", "clipseg"),
    "sam3": ("sam3", "sam3"),
    "sam3 for videos": ("sam3", "sam3-video"),
    "grounded-sam2": ("grounded-sam2", "sam2", "dino"),
    "grounded-sam2 for videos": ("grounded-sam2", "sam2-video", "dino"),
}
EVERY = pytest.mark.parametrize("name", LABELLERS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a directory of each model; those for videos as they are published."""
    root = tmp_path_factory.mktemp("models")
    write_clipseg(root / "clipseg")
    write_sam3(root / "sam3")
    write_sam3(root / "sam3-video", video=True)
    write_sam2(root / "sam2")
    shutil.copytree(root / "sam2", root / "sam2-video")
    changed(root / "sam2-video", "config.json", model_type="sam2_video")
    write_detector(root / "dino")
    return root


@pytest.fixture(scope="module")
def opened(models: Path) -> Callable[[str], Labeller]:
    """A function that opens a labeller of `LABELLERS` once."""
    found: dict[str, Labeller] = {}

    def labeller(name: str) -> Labeller:
        if name not in found:
            kind, *folders = LABELLERS[name]
            found[name] = open_labeller(kind, *(models / folder for folder in folders))
        return found[name]

    return labeller


def changed(folder: Path, name: str, **fields: Any) -> None:
    """Change fields of a JSON file."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | fields))


def image(size: tuple[int, int] = SIZE) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=noise)


def attention() -> torch.Tensor:
    """Maps (2, 8, 8) with the object in another corner for each phrase."""
    maps = torch.full((2, 8, 8), 0.1)
    maps[0, 1:4, 2:5] = 1
    maps[1, 5:7, 5:8] = 1
    return maps


def assert_equal(one: Found, other: Found) -> None:
    assert one.certainty == pytest.approx(other.certainty, abs=1e-5)
    assert torch.allclose(one.scores, other.scores, atol=1e-4)


@EVERY
@pytest.mark.parametrize("size", [SIZE, (70, 50), (64, 64)])
def test_each_phrase_has_a_map_of_the_image_s_size(
    opened: Callable[[str], Labeller], name: str, size: tuple[int, int]
) -> None:
    found = opened(name).find(image(size), PHRASES, attention())
    assert found.scores.shape == (2, *size) and found.scores.dtype == torch.float32
    assert (found.scores >= 0).all() and (found.scores <= 1).all()
    assert len(found.certainty) == 2 and all(0 <= each <= 1 for each in found.certainty)
    shown = (found.scores > 0.5).flatten(1).any(1).tolist()
    assert any(shown) and [each > 0 for each in found.certainty] == shown
    assert found.scores.std() > 0.01  # not one answer everywhere


@EVERY
def test_a_phrase_is_found_in_its_place_and_independently_of_the_others(
    opened: Callable[[str], Labeller], name: str
) -> None:
    labeller = opened(name)
    both = labeller.find(image(), PHRASES)
    turned = labeller.find(image(), PHRASES[::-1])
    assert not torch.allclose(both.scores[0], both.scores[1], atol=1e-3)
    assert_equal(Found(turned.scores.flip(0), turned.certainty[::-1]), both)
    alone = labeller.find(image(), PHRASES[1:])
    assert_equal(alone, Found(both.scores[1:], both.certainty[1:]))
    nothing = labeller.find(image(), [])
    assert nothing.scores.shape == (0, *SIZE) and nothing.certainty == ()


@EVERY
def test_the_same_image_has_equal_scores_each_time(
    opened: Callable[[str], Labeller], models: Path, name: str
) -> None:
    first = opened(name).find(image(), PHRASES)
    kind, *folders = LABELLERS[name]
    again = open_labeller(kind, *(models / folder for folder in folders)).find(image(), PHRASES)
    assert torch.equal(first.scores, again.scores) and first.certainty == again.certainty


def test_a_model_for_videos_finds_what_the_one_for_images_in_it_does(
    opened: Callable[[str], Labeller],
) -> None:
    for name in ("sam3", "grounded-sam2"):
        ours, theirs = (
            opened(each).find(image(), PHRASES) for each in (name, f"{name} for videos")
        )
        assert torch.equal(ours.scores, theirs.scores)


def test_clipseg_s_scores_are_those_of_transformers_with_its_own_preparation(
    opened: Callable[[str], Labeller], tmp_path: Path
) -> None:
    model = write_clipseg(tmp_path)
    pixels = ViTImageProcessorPil.from_pretrained(tmp_path)(image().numpy(), return_tensors="pt")
    tokens = build_tokenizer()(PHRASES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(pixel_values=pixels["pixel_values"].expand(2, -1, -1, -1), **tokens).logits
    resized = torch.nn.functional.interpolate(logits[:, None], SIZE, mode="bilinear")[:, 0]
    found = opened("clipseg").find(image(), PHRASES)
    assert (found.scores - resized.sigmoid()).abs().mean() < 0.02
    inside = [each[each > 0.5].mean().item() for each in logits.sigmoid()]
    assert found.certainty == pytest.approx(inside, abs=0.01)


def no_clipseg(folder: Path) -> Any:
    model = write_clipseg(folder)
    model.decoder.transposed_convolution.bias.data.fill_(-1e4)
    return model


def no_sam3(folder: Path) -> Any:
    model = write_sam3(folder)
    model.detr_decoder.presence_head.layer3.bias.data.fill_(-20)
    return model


@pytest.mark.parametrize(("kind", "write"), [("clipseg", no_clipseg), ("sam3", no_sam3)])
def test_a_phrase_that_is_not_found_has_scores_and_certainty_of_0(
    tmp_path: Path, kind: str, write: Callable[[Path], Any]
) -> None:
    write(tmp_path).save_pretrained(tmp_path)
    found = open_labeller(kind, tmp_path).find(image(), PHRASES)
    assert found.certainty == (0.0, 0.0)
    assert torch.equal(found.scores, torch.zeros(2, *SIZE))


def test_without_a_box_the_mask_is_that_of_the_attention_if_there_is_any(
    opened: Callable[[str], Labeller], monkeypatch: pytest.MonkeyPatch
) -> None:
    labeller = opened("grounded-sam2")
    boxes = labeller.find(image(), PHRASES, attention())
    monkeypatch.setattr("models.labellers.grounded.CERTAIN", 1.0)
    nothing = labeller.find(image(), PHRASES)
    assert nothing.certainty == (0.0, 0.0) and not nothing.scores.any()
    attended = labeller.find(image(), PHRASES, attention())
    assert all(attended.certainty) and not torch.allclose(attended.scores, boxes.scores, atol=0.01)
    even = attention()
    even[1] = 0.3
    assert labeller.find(image(), PHRASES, even).certainty == (attended.certainty[0], 0.0)


def test_the_box_of_attention_is_around_the_piece_with_the_maximum() -> None:
    maps = torch.full((8, 16), 0.1)
    maps[1:4, 2:6] = 0.9
    maps[2, 3] = 1
    maps[7, 15] = 0.8  # another piece
    assert attention_box(maps).tolist() == [[2 / 16, 1 / 8, 6 / 16, 4 / 8]]
    assert attention_box(torch.full((8, 8), 0.2)).shape == (0, 4)
    assert attention_box(torch.full((8, 8), torch.nan)).shape == (0, 4)


def test_masks_of_one_phrase_are_joined_and_their_scores_averaged() -> None:
    masks = torch.full((2, 4, 4), -9.0)
    masks[0, :2] = 9
    masks[1, :, 3] = 9
    joined, certainty = join(masks, torch.tensor([0.9, 0.6]), (4, 4))
    assert torch.equal(joined > 0.5, (masks > 0).any(0)) and certainty == pytest.approx(0.75)
    broken, certainty = join(masks / 0 * 0, torch.ones(2), (4, 4))  # NaN
    assert certainty == 0 and not broken.any()


RESIZED = ViTImageProcessorPil(
    size={"height": 32, "width": 48},
    image_mean=[*IMAGENET.mean],
    image_std=[*IMAGENET.std],
)
KEPT = GroundingDinoImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 60})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (RESIZED, Preparation((32, 48), IMAGENET)),
        (KEPT, Preparation((48, 60), IMAGENET, keep=True)),
    ],
)
def test_images_are_prepared_as_by_transformers(
    tmp_path: Path, theirs: Any, ours: Preparation
) -> None:
    theirs.save_pretrained(tmp_path)
    assert read_preparation(tmp_path, Preparation((16, 16), HALVES)) == ours
    for size in (SIZE, (120, 90)):
        wanted = theirs(image(size).numpy(), return_tensors="pt")["pixel_values"]
        found = ours(image(size))
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 1.01 / 255 / min(IMAGENET.std)  # one level


def test_a_phrase_that_is_too_long_is_named_and_not_cut(
    opened: Callable[[str], Labeller],
) -> None:
    with pytest.raises(LabellerError, match=r"'a very .*encoder 32; shorten the vocabulary"):
        opened("clipseg").find(image(), ["car", "a very " + "long " * 30])


def test_a_vocabulary_in_older_files_is_the_same_tokenizer(
    opened: Callable[[str], Labeller], models: Path, tmp_path: Path
) -> None:
    for name in ("clipseg", "dino"):
        shutil.copytree(models / name, tmp_path / name)
        (tmp_path / name / "tokenizer.json").unlink()
    words = build_tokenizer().get_vocab()
    (tmp_path / "clipseg" / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "clipseg" / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "dino" / "vocab.txt").write_text("\n".join(WORDS))
    clipseg = open_labeller("clipseg", tmp_path / "clipseg")
    assert_equal(clipseg.find(image(), PHRASES), opened("clipseg").find(image(), PHRASES))
    grounded = open_labeller("grounded-sam2", models / "sam2", tmp_path / "dino")
    assert_equal(grounded.find(image(), PHRASES), opened("grounded-sam2").find(image(), PHRASES))


def test_the_digest_is_of_all_files_that_labels_depend_on(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "dino", tmp_path / "dino")
    first = labeller_digest(models / "sam2", models / "dino")
    assert labeller_digest(models / "sam2", tmp_path / "dino") == first
    assert labeller_digest(models / "sam2") != labeller_digest(models / "dino")
    (tmp_path / "dino" / "pytorch_model.bin").write_bytes(b"never read")
    assert labeller_digest(models / "sam2", tmp_path / "dino") == first
    (tmp_path / "dino" / "vocab.txt").write_text("car")
    assert labeller_digest(models / "sam2", tmp_path / "dino") != first


# what is refused


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._mark),)


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(folder / "owned")))


def cut(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])


def more_words(folder: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(folder)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edit(name: str, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: changed(folder, name, **fields)


def text(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())["text_config"]
        changed(folder, "config.json", text_config=found | fields)

    return change


Code = {"auto_map": {"AutoModel": "code.Model"}}
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another model": (edit("config.json", model_type="bert"), r"model_type 'bert'; give the dir"),
    "no model": (edit("config.json", model_type=None), r"clipseg/config.json has .* None"),
    "no configuration": (without("config.json"), r"config.json is missing: copy the whole"),
    "only pickles": (only_pickles, r"only pytorch_model.bin, which can run code .*save_pretrained"),
    "code": (
        edit("config.json", **Code),
        r"config.json: auto_map is .* code or weights elsewhere; take",
    ),
    "code of a part": (
        text(**Code),
        r"config.json: auto_map is .* code or weights elsewhere; take",
    ),
    "code of a tokenizer": (edit("tokenizer_config.json", **Code), r"tokenizer_config.json: auto_"),
    "a kernel": (text(_attn_implementation="org/kernel"), r"_attn_implementation is 'org/kernel'"),
    "weights elsewhere": (
        edit("config.json", transformers_weights="../other.safetensors"),
        r"transformers_weights is '\.\./other",
    ),
    "quantised": (edit("config.json", quantization_config={"bits": 4}), r"quantization_config is"),
    "another tokenizer": (more_words, r"tokenizer in .*clipseg has 139 tokens and the model 138"),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        r"adapter for another model",
    ),
    "no tokenizer": (without("tokenizer.json"), r"no tokenizer.json and no vocabulary; copy"),
    "no weights": (without("model.safetensors"), r"has no model.safetensors; write"),
    "cut weights": (cut, r"model.safetensors is cut short or damaged"),
    "more layers": (text(num_hidden_layers=3), r"it lacks 16 tensors of the model"),
    "other widths": (edit("config.json", reduce_dim=12), r"transformers cannot open .*clipseg"),
    "a bomb": (text(max_position_embeddings=1 << 30), r"cannot open .*clipseg"),
    "too few words": (text(vocab_size=3), r"cannot open"),
    "no squares": (
        edit("preprocessor_config.json", size={"height": 64, "width": 32}),
        r"64x32; CLIPSeg takes squares",
    ),
    "a huge image": (
        edit("preprocessor_config.json", size={"height": 1 << 20, "width": 1 << 20}),
        r"preprocessor_config.json: size is .*16 to 4096 pixels",
    ),
    "no division": (edit("preprocessor_config.json", image_std=[0, 1, 1]), r"image_std is \[0, 1"),
    "other pixels": (edit("preprocessor_config.json", rescale_factor=1), r"rescale_factor is 1; "),
    "fails in use": (edit("config.json", extract_layers=[9]), r"cannot (open|label)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_directory_that_cannot_be_used_is_refused_with_the_remedy(
    models: Path, tmp_path: Path, case: str
) -> None:
    folder = tmp_path / "clipseg"
    shutil.copytree(models / "clipseg", folder)
    open_labeller("clipseg", folder)
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(LabellerError, match=message):
        open_labeller("clipseg", folder)
    assert not (folder / "owned").exists()


def test_pickles_beside_the_weights_are_not_opened(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clipseg"
    shutil.copytree(models / "clipseg", folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(folder / "owned")))
    assert isinstance(open_labeller("clipseg", folder), ClipSeg)
    assert not (folder / "owned").exists()


def test_the_kind_says_which_directories_are_needed(models: Path) -> None:
    sam2, dino = models / "sam2", models / "dino"
    check_labeller("grounded-sam2", sam2, dino)
    with pytest.raises(LabellerError, match=r"kind 'grounded-sam2', path: .* 'grounding-dino'; g"):
        check_labeller("grounded-sam2", dino, sam2)
    with pytest.raises(LabellerError, match=r"has no detector; give the directory of a grounding"):
        check_labeller("grounded-sam2", sam2)
    with pytest.raises(LabellerError, match=r"'sam2'; give the directory of a sam3 or a sam3_vid"):
        check_labeller("sam3", sam2)
    with pytest.raises(LabellerError, match=r"'yolo' is not one of sam3, clipseg, grounded-sam2"):
        check_labeller("yolo", sam2)
    with pytest.raises(LabellerError, match=r"nowhere is not a directory; give that of a clipseg"):
        check_labeller("clipseg", models / "nowhere")
