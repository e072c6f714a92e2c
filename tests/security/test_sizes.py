"""Small files that describe large things are refused before memory is taken for those."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from infra.memory import available_memory
from infra.settings import EvaluateSettings, Settings
from infra.store import Store
from infra.voc import VocError, VocFolder
from models.generators import PipelineError, check_pipeline, load_pipeline, pipeline_folder
from models.limits import Limit, SizeError, limit_of, limited
from models.segmenters import (
    Inference,
    build_segmenter,
    bytes_to_predict,
    pack_segmenter,
    predict_probabilities,
    unpack_segmenter,
)
from models.segmenters.inference import batches_of_one_size
from tasks.evaluate.evaluate import evaluate_checkpoint
from tasks.train.checkpoints import write_folder
from tests.models.test_segmenters import SHIPPED, TINY
from tests.test_malformed import little_memory

__all__ = ["little_memory"]

CLASSES = ("ground", "car")
SECONDS = 20  # of processor time; two libraries start in them
LARGE = 8190  # pixels of a side; below the limit of what is read


@pytest.fixture
def in_time(little_memory: None) -> Iterator[None]:
    """The test ends within `SECONDS` of processor time and within the memory of a refusal."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A folder with one picture of 67 million pixels in some hundred kB."""
    folder = tmp_path / "voc"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    picture = Image.new("L", (LARGE, LARGE))
    picture.save(folder / "JPEGImages" / "a.png")
    shutil.copy(folder / "JPEGImages" / "a.png", folder / "SegmentationClass" / "a.png")
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\n")
    assert (folder / "JPEGImages" / "a.png").stat().st_size < 200_000
    return folder


def test_a_picture_that_needs_more_memory_than_there_is_is_refused_before_evaluation(
    photograph: Path, tmp_path: Path, in_time: None
) -> None:
    store = Store.open(str(tmp_path / "store"))
    meta = {"checkpoint": "c", "version": "v", "manifest": "m", "classes": list(CLASSES)}
    write_folder(store, "checkpoints/c", build_segmenter("segformer-b0", CLASSES), meta)
    settings = Settings(evaluate=EvaluateSettings(voc=str(photograph)))
    with pytest.raises(VocError, match=r"a\.png is 8190 x 8190 pixels.*GiB.*leave it out"):
        evaluate_checkpoint(store, settings, "c")
    assert not store.list("checkpoints/c/evaluations")


def test_the_largest_picture_is_found_by_its_header(photograph: Path) -> None:
    Image.new("RGB", (10, 20)).save(photograph / "JPEGImages" / "b.jpg")
    Image.new("L", (10, 20)).save(photograph / "SegmentationClass" / "b.png")
    (photograph / "ImageSets/Segmentation/val.txt").write_text("b\na\nb\n")
    found = VocFolder(photograph, "val", CLASSES).largest()
    assert found == (photograph / "JPEGImages" / "a.png", LARGE, LARGE)


def test_attention_between_all_pixels_is_what_a_large_picture_takes() -> None:
    segmenter = build_segmenter("segformer", CLASSES)
    queries, keys = (8192 // 4) ** 2, (8192 // 32) ** 2
    needed = bytes_to_predict(segmenter, LARGE, LARGE)
    assert 4 * queries * keys <= needed <= 4 * 4 * queries * keys


def test_a_network_that_predicts_by_windows_takes_little_for_a_large_picture() -> None:
    whole = build_segmenter("segformer", CLASSES)
    windows: Any = build_segmenter("segformer", CLASSES)
    windows.network.test_cfg.update(mode="slide", crop_size=(512, 512), stride=(341, 341))
    needed = bytes_to_predict(whole, LARGE, LARGE)
    assert bytes_to_predict(windows, LARGE, LARGE) < needed / 100
    assert bytes_to_predict(whole, LARGE, LARGE, Inference(window=512)) < needed / 100
    assert bytes_to_predict(whole, LARGE, LARGE, Inference(scales=(2.0,))) > 3 * needed


def test_a_convolutional_network_takes_as_much_as_its_largest_layer() -> None:
    config = SHIPPED / "unet" / "unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py"
    segmenter = build_segmenter(str(config), CLASSES)
    level = 64 * 4 * 512 * 512  # 64 channels at full size, the first and widest
    assert 2 * level <= bytes_to_predict(segmenter, 512, 512) <= 8 * level


def test_what_is_said_is_less_than_what_is_taken() -> None:
    """Predicting takes at least the bytes that were computed: no picture that fits is refused."""
    from torch.profiler import ProfilerActivity, profile

    segmenter = build_segmenter("segformer", CLASSES)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        predict_probabilities(segmenter, torch.zeros(1, 3, 512, 512, dtype=torch.uint8))
    taken = sum(max(0, event.self_cpu_memory_usage) for event in found.key_averages())
    assert 0 < bytes_to_predict(segmenter, 512, 512) <= taken


def test_free_memory_is_some_and_no_more_than_the_machine_has() -> None:
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < available_memory() <= total


def test_large_images_are_predicted_a_few_at_a_time() -> None:
    def items(side: int, count: int) -> list[Any]:
        return [{"image": torch.empty(3, side, side, device="meta")} for _ in range(count)]

    def sizes(side: int, count: int) -> list[int]:
        return [len(batch) for batch in batches_of_one_size(items(side, count), 16)]

    assert sizes(64, 20) == [16, 4]
    assert sizes(2048, 5) == [4, 1]
    assert sizes(8192, 2) == [1, 1]


Change = Callable[[dict[str, Any]], None]
GROWN: dict[str, Change] = {
    "layers": lambda m: m["backbone"].update(num_layers=[200_000, 1]),
    "layers without end": lambda m: m["backbone"].update(num_layers=[10**12, 1]),
    "width": lambda m: m["backbone"].update(embed_dims=1 << 15),
    "width that no machine has": lambda m: m["backbone"].update(embed_dims=1 << 40),
    "channels": lambda m: m["decode_head"].update(channels=1 << 28),
    "classes": lambda m: m["decode_head"].update(num_classes=1 << 30),
    "heads": lambda m: m.update(auxiliary_head=[m["decode_head"]] * 400),
    "convolutions": lambda m: m.update(
        decode_head={
            "type": "FCNHead",
            "in_channels": 16,
            "channels": 8,
            "num_convs": 10**9,
            "num_classes": 2,
        }
    ),
    "kernel": lambda m: m.update(
        decode_head={
            "type": "FCNHead",
            "in_channels": 16,
            "channels": 8,
            "kernel_size": 50_001,
            "num_classes": 2,
        }
    ),
    "window": lambda m: m.update(
        backbone={"type": "SwinTransformer", "embed_dims": 8, "window_size": 400}
    ),
    "picture": lambda m: m.update(
        backbone={"type": "VisionTransformer", "img_size": 1 << 20, "embed_dims": 12}
    ),
}


@pytest.mark.parametrize("name", GROWN)
def test_a_checkpoint_s_config_describes_no_more_than_its_weights(
    name: str, tmp_path: Path, in_time: None
) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    files = pack_segmenter(build_segmenter(str(tmp_path / "tiny.py"), CLASSES))
    config = json.loads(files["config.json"])
    GROWN[name](config["model"])
    with pytest.raises(ValueError, match="it asks for over"):
        unpack_segmenter({**files, "config.json": json.dumps(config).encode()})


@pytest.mark.parametrize("name", ["layers without end", "width that no machine has", "classes"])
def test_a_config_file_describes_a_network_of_some_size(
    name: str, tmp_path: Path, in_time: None
) -> None:
    (tmp_path / "large.py").write_text(
        {
            "layers without end": TINY.replace("num_layers=[1, 1]", "num_layers=[100_000, 1]"),
            "width that no machine has": TINY.replace("embed_dims=8", f"embed_dims={1 << 40}"),
            "classes": TINY.replace("channels=16", f"channels={1 << 32}"),
        }[name]
    )
    with pytest.raises(ValueError, match="it asks for over"):
        build_segmenter(str(tmp_path / "large.py"), CLASSES)


PIPELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "layers of text": ("text_encoder/config.json", {"num_hidden_layers": 200_000}),
    "words": ("text_encoder/config.json", {"vocab_size": 1 << 40}),
    "layers of blocks": ("unet/config.json", {"layers_per_block": 200_000}),
    "layers of attention": ("unet/config.json", {"transformer_layers_per_block": 200_000}),
    "layers of pictures": ("vae/config.json", {"layers_per_block": 200_000}),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_s_configuration_describes_no_more_than_its_weights(
    name: str, tmp_path: Path, in_time: None
) -> None:
    shutil.copytree(pipeline_folder("embedded"), tmp_path / "p")
    file, change = PIPELINES[name]
    path = tmp_path / "p" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PipelineError, match="it asks for over"):
        load_pipeline(tmp_path / "p", device="cpu")
    assert torch.is_grad_enabled()  # what the libraries switch off they switch on again


@pytest.mark.parametrize("steps", [10**6, 10**10, 10**15])
def test_a_scheduler_has_some_thousand_steps(steps: int, tmp_path: Path, in_time: None) -> None:
    """Diffusers computes the noise of each in a loop."""
    shutil.copytree(pipeline_folder("embedded"), tmp_path / "p")
    path = tmp_path / "p" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": steps}))
    with pytest.raises(PipelineError, match=r"'num_train_timesteps' is 10+;"):
        check_pipeline(tmp_path / "p")


def test_a_limit_counts_tensors_and_numbers() -> None:
    with limited(Limit(2, 100)):
        torch.empty(99)
        with pytest.raises(SizeError):
            torch.linspace(0, 1, 2)
    with limited(Limit(1, 100)):
        torch.empty(1)
        with pytest.raises(SizeError):
            torch.zeros(1)
    shapes = [(3, 4), (5,)]
    assert limit_of(shapes).tensors > 2 and limit_of(shapes).numbers > 17
