"""Segmenters are built, trained, interrupted, saved, and predict images of any size.

The networks are tiny; all else is real.
"""

import json
import logging
import multiprocessing
import random
from pathlib import Path
from typing import Any, cast

import mmseg
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from models import metrics
from models.scenes import components
from models.segmenters import (
    PRESETS,
    ArraySet,
    DrawnScenes,
    Execution,
    Inference,
    Objects,
    Segmenter,
    Snapshots,
    Trained,
    TrainingError,
    TrainingRecipe,
    batches_of_one_size,
    build_segmenter,
    load_segmenter,
    pack_segmenter,
    paste_object,
    predict_probabilities,
    save_segmenter,
    train_segmenter,
    unpack_segmenter,
)
from models.segmenters.distortions import blur, occlude, tilt
from models.segmenters.fitting import fit_model, read_model
from models.segmenters.openmmlab import MODELS, isolated
from models.segmenters.samples import Augmentation, TrainingView, Views, augment
from models.segmenters.sources import translation

CLASSES = ("background", "red", "blue")
TINY = """
crop = dict(type="RandomCrop", crop_size=(512, 512))  # all but the model is left aside
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True,
        size=(512, 512)),
    pretrained="open-mmlab://not_to_be_fetched",
    backbone=dict(
        type="MixVisionTransformer", embed_dims=8, num_stages=2, num_layers=[1, 1],
        num_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2], sr_ratios=[4, 2], out_indices=(0, 1),
        init_cfg=dict(type="Pretrained", checkpoint="https://nowhere.invalid/mit.pth")),
    decode_head=dict(
        type="SegformerHead", in_channels=[8, 16], in_index=[0, 1], channels=16, num_classes=150,
        norm_cfg=norm_cfg, align_corners=False, dropout_ratio=0.1,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False)),
    train_cfg=dict(), test_cfg=dict(mode="whole"))
"""


class Squares(Dataset[Any]):
    """Images of 64 × 64 pixels with a red or a blue square on grey, by index."""

    def __init__(self, count: int = 24) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        image, label = rng.integers(100, 150, (3, 64, 64)), np.zeros((64, 64), np.uint8)
        top, left = rng.integers(0, 32, 2)
        image[:, top : top + 32, left : left + 32] = np.array([[220, 30, 30], [30, 30, 220]])[
            index % 2
        ][:, None, None]
        label[top : top + 32, left : left + 32] = 1 + index % 2
        label[0, 0] = 255
        return {
            "image": torch.from_numpy(image.astype(np.uint8)),
            "label": torch.from_numpy(label),
            "id": f"square {index}",
        }


@pytest.fixture
def config(tmp_path: Path) -> str:
    """An mmsegmentation config file of a very small SegFormer, with the usual traps in it."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return str(path)


@pytest.fixture
def recipe(config: str) -> TrainingRecipe:
    return TrainingRecipe(config, 6, batch_size=4, learning_rate=8e-3, warmup=2, precision="fp32")


def miou_on_squares(trained: Trained) -> float:
    """Return the mIoU on squares that no training saw."""
    items = [Squares()[index] for index in range(100, 108)]
    images = torch.stack([item["image"] for item in items])
    truth = torch.stack([item["label"] for item in items])
    said = predict_probabilities(trained.segmenter, images).argmax(1)
    confusion = metrics.confusion_matrix(said.numpy(), truth.numpy(), len(CLASSES))
    return metrics.mean_iou(metrics.class_iou(confusion))


def weights(trained: Trained) -> bytes:
    return pack_segmenter(trained.segmenter)["weights.safetensors"]


def test_a_config_file_is_fitted_to_the_classes_and_fetches_nothing(config: str) -> None:
    segmenter = build_segmenter(config, CLASSES)
    logits = segmenter.network(torch.zeros(2, 3, 64, 64))
    assert logits.shape[:2] == (2, 3)
    assert not any(isinstance(part, torch.nn.SyncBatchNorm) for part in segmenter.network.modules())
    assert "nowhere" not in json.dumps(segmenter.config) and "open-mmlab" not in json.dumps(
        segmenter.config
    )


SHIPPED = Path(mmseg.__file__).parent / ".mim" / "configs"
CITYSCAPES = [
    "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
]


@pytest.mark.parametrize("count", [3, 19])
@pytest.mark.parametrize("config_name", CITYSCAPES)
def test_a_config_s_class_weights_are_not_those_of_other_classes(
    config_name: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert "class_weight" in (SHIPPED / config_name).read_text()
    classes = [f"class {index}" for index in range(count)]
    segmenter = build_segmenter(str(SHIPPED / config_name), classes)
    losses = [part for part in segmenter.network.modules() if hasattr(part, "class_weight")]
    assert losses and all(loss.class_weight is None for loss in losses)
    assert "class_weight of OhemCrossEntropy is left out" in caplog.text


@pytest.mark.parametrize("config_name", CITYSCAPES)
def test_networks_with_losses_of_their_own_train_with_other_classes(config_name: str) -> None:
    config = str(SHIPPED / config_name)
    recipe = TrainingRecipe(config, 1, batch_size=2, learning_rate=1e-3, precision="fp32")
    assert train_segmenter(Squares(), CLASSES, recipe).curve[0]["loss"] > 0


def test_the_weight_of_no_object_is_fitted_to_the_classes() -> None:
    loss = {"type": "CrossEntropyLoss", "class_weight": [1.0] * 150 + [0.1]}
    fitted = fit_model({"type": "EncoderDecoder", "decode_head": {"loss_decode": loss}}, 3)
    assert fitted["decode_head"]["loss_decode"]["class_weight"] == [1.0, 1.0, 1.0, 0.1]


def test_the_fused_head_is_mmsegmentations_head() -> None:
    segmenter: Any = build_segmenter("segformer-b0", CLASSES)
    head = segmenter.config["model"]["decode_head"] | {"type": "SegformerHead"}
    with isolated():
        plain = MODELS.build(head)
    plain.load_state_dict(segmenter.network.decode_head.state_dict())
    levels = [
        torch.randn(2, channels, 32 // 2**i, 32 // 2**i)
        for i, channels in enumerate(head["in_channels"])
    ]
    assert torch.allclose(segmenter.network.decode_head(levels), plain(levels), atol=1e-5)


@pytest.mark.parametrize(
    ("config_name", "classes", "message"),
    [
        (
            "segformer-b9",
            CLASSES,
            r"config='segformer-b9' is neither one of \['eomt', 'gss', 'gss-",
        ),
        ("segformer-b0", ("background",), "give 2 to 255 different names"),
        ("segformer-b0", ("background", "car", "car"), "give 2 to 255 different names"),
    ],
)
def test_a_wrong_choice_is_named(config_name: str, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_segmenter(config_name, classes)


def test_a_config_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "schedule.py").write_text("optimizer = dict(type='SGD')\n")
    with pytest.raises(ValueError, match=r"schedule\.py holds no `model`"):
        build_segmenter(str(tmp_path / "schedule.py"), CLASSES)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_config_file_may_hold_the_model_of_a_preset(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"model = {PRESETS[name]}\n")
    assert read_model(str(path)) == PRESETS[name]


def test_a_config_file_of_an_eomt_is_built(tmp_path: Path) -> None:
    path = tmp_path / "eomt.py"
    path.write_text(f"model = {PRESETS['eomt'] | {'layers': 2, 'blocks': 1, 'queries': 7}}\n")
    network: Any = build_segmenter(str(path), CLASSES).network
    assert network.query.weight.shape == (7, 128) and network.num_classes == len(CLASSES)


@pytest.mark.slow
def test_training_learns(config: str) -> None:
    recipe = TrainingRecipe(
        config=config, steps=120, batch_size=8, learning_rate=1e-2, warmup=5, precision="fp32"
    )
    trained = train_segmenter(Squares(), CLASSES, recipe)
    items = [Squares()[index] for index in range(100, 108)]
    said = predict_probabilities(
        trained.segmenter, torch.stack([item["image"] for item in items])
    ).argmax(1)
    truth = torch.stack([item["label"] for item in items])
    iou = metrics.class_iou(metrics.confusion_matrix(said.numpy(), truth.numpy(), 3))
    assert metrics.mean_iou(iou) > 0.7
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"] / 2


def test_the_same_training_gives_the_same_weights(recipe: TrainingRecipe) -> None:
    first, second = (
        train_segmenter(Squares(), CLASSES, recipe, Execution(every=2)) for _ in range(2)
    )
    assert weights(first) == weights(second)
    assert first.curve == second.curve
    other = TrainingRecipe(**{**recipe.__dict__, "seed": 1})
    assert weights(train_segmenter(Squares(), CLASSES, other)) != weights(first)


@pytest.mark.slow
def test_loading_processes_change_nothing(recipe: TrainingRecipe) -> None:
    alone = train_segmenter(Squares(), CLASSES, recipe)
    assert weights(train_segmenter(Squares(), CLASSES, recipe, Execution(workers=1))) == weights(
        alone
    )


class PowerCutError(Exception):
    """Stands for a machine that is switched off."""


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_weights(recipe: TrainingRecipe) -> None:
    kept: dict[str, bytes] = {}
    snapshots = Snapshots(
        lambda: kept.get("it"), lambda content: kept.update(it=content), seconds=0
    )

    def pull_the_plug(row: dict[str, float]) -> None:
        if row["step"] == 4:
            raise PowerCutError

    steps: list[float] = []
    with pytest.raises(PowerCutError):
        train_segmenter(
            Squares(),
            CLASSES,
            recipe,
            Execution(every=1, progress=pull_the_plug, snapshots=snapshots),
        )
    follow = Execution(every=1, progress=lambda row: steps.append(row["step"]), snapshots=snapshots)
    resumed = train_segmenter(Squares(), CLASSES, recipe, follow)
    undisturbed = train_segmenter(Squares(), CLASSES, recipe, Execution(every=1))
    assert steps == [4, 5, 6]
    assert weights(resumed) == weights(undisturbed)
    assert resumed.curve == undisturbed.curve


def test_a_snapshot_of_another_training_is_left_aside(recipe: TrainingRecipe) -> None:
    kept: dict[str, bytes] = {}
    snapshots = Snapshots(
        lambda: kept.get("it"), lambda content: kept.update(it=content), seconds=0
    )
    train_segmenter(Squares(), CLASSES, recipe, Execution(every=2, snapshots=snapshots))
    other = TrainingRecipe(**{**recipe.__dict__, "seed": 1})
    assert weights(
        train_segmenter(Squares(), CLASSES, other, Execution(snapshots=snapshots))
    ) == weights(train_segmenter(Squares(), CLASSES, other))


def test_progress_tells_step_loss_and_rate(recipe: TrainingRecipe) -> None:
    rows: list[dict[str, float]] = []
    trained = train_segmenter(Squares(), CLASSES, recipe, Execution(every=4, progress=rows.append))
    assert [row["step"] for row in rows] == [4, 6]
    assert all(row["steps"] == 6 and row["images_per_second"] > 0 for row in rows)
    assert trained.curve == [
        {name: row[name] for name in ("step", "loss", "learning_rate")} for row in rows
    ]


def test_training_leaves_the_process_as_it_was(
    recipe: TrainingRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)

    def state() -> list[Any]:
        managed = [list(MMLogger._instance_dict), list(DefaultScope._instance_dict)]
        draws = [
            random.getstate(),
            cast(Any, np.random.get_state())[1].tolist(),
            torch.get_rng_state().tolist(),
        ]
        return [
            *managed,
            *draws,
            multiprocessing.get_start_method(allow_none=True),
            logging.getLogger().handlers[:],
        ]

    before = state()
    train_segmenter(Squares(), CLASSES, recipe)
    assert state() == before
    assert list(Path.cwd().iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_precision_is_probed_and_told(recipe: TrainingRecipe) -> None:
    probed = TrainingRecipe(**{**recipe.__dict__, "precision": "auto", "steps": 1})
    assert train_segmenter(Squares(), CLASSES, probed).precision in ("fp32", "bf16")


def test_half_precision_learns_the_same_task(recipe: TrainingRecipe) -> None:
    half = TrainingRecipe(**{**recipe.__dict__, "precision": "bf16"})
    full, low = (
        train_segmenter(Squares(), CLASSES, chosen).curve[-1]["loss"] for chosen in (recipe, half)
    )
    assert low == pytest.approx(full, rel=0.05)


def test_a_label_with_an_unknown_id_is_named(recipe: TrainingRecipe) -> None:
    with pytest.raises(
        ValueError,
        match=r"sample square \d+: label id [12], but there are 2 classes|label id 2, but",
    ):
        train_segmenter(Squares(), CLASSES[:2], recipe)


def test_an_empty_set_is_refused(recipe: TrainingRecipe) -> None:
    with pytest.raises(ValueError, match="the labelled set is empty"):
        train_segmenter(Squares(0), CLASSES, recipe)


def test_a_loss_that_is_not_finite_stops_the_training(recipe: TrainingRecipe) -> None:
    wild = TrainingRecipe(**{**recipe.__dict__, "learning_rate": 1e30, "warmup": 0})
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d: lower learning_rate"):
        train_segmenter(Squares(), CLASSES, wild, Execution(every=1))


def test_every_sample_is_seen_once_an_epoch() -> None:
    seen: list[int] = []

    class Watched(Squares):
        def __getitem__(self, index: int) -> dict[str, Any]:
            seen.append(index)
            return super().__getitem__(index)

    view = TrainingView(Watched(5), Views(15, num_classes=3, crop=(64, 64), scale=(1, 1), seed=0))
    for position in range(15):
        view[position]
    epochs = [seen[start : start + 5] for start in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_object_is_cut_once_and_pasted_unchanged_as_often_as_it_is_drawn() -> None:
    reads: list[int] = []

    class Watched(Squares):
        def __getitem__(self, index: int) -> dict[str, Any]:
            reads.append(index)
            return super().__getitem__(index)

    remembered = Objects(Watched(4))
    for seed in range(60):
        item = Squares(4)[seed % 4]
        pasted = [
            paste_object(item["image"], item["label"], each, [1, 2], np.random.default_rng(seed))
            for each in (remembered, Objects(Squares(4)))
        ]
        assert all(torch.equal(a, b) for a, b in zip(*pasted, strict=True))
    assert len(reads) <= 4 * 2  # a sample and a class each


def test_an_object_too_large_to_be_remembered_is_cut_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.segmenters.copies._REMEMBERED", 1000)
    objects = Objects(Squares(4))
    first, again = (
        [cutout for index in range(4) for cutout in objects.of(index, 1)] for _ in range(2)
    )
    assert first
    for one, other in zip(first, again, strict=True):
        assert one is not other and np.array_equal(one.colour, other.colour)


@pytest.mark.parametrize("size", [(20, 90), (64, 64), (100, 30)])
def test_augmentation_keeps_labels_on_their_pixels(size: tuple[int, int]) -> None:
    label = torch.zeros(size, dtype=torch.uint8)
    label[: size[0] // 2, : size[1] // 3] = 1
    image = torch.where(label.bool(), 200, 60).to(torch.uint8).expand(3, *size)
    for draw in range(20):
        view, cut = augment(
            image, label, np.random.default_rng(draw), crop=(48, 56), scale=(0.5, 2)
        )
        assert view.shape == (3, 48, 56) and cut.shape == (48, 56)
        assert set(cut.unique().tolist()) <= {0, 1, 255}
        grey = view.float().mean(0)
        inside, outside = grey[cut == 1], grey[cut == 0]
        if inside.numel() and outside.numel():
            assert (inside.median() > outside.median()).item()


def test_a_scaled_label_stays_on_its_image_to_a_twentieth_of_a_pixel() -> None:
    shifts = []
    rows, columns = torch.arange(128.0)[:, None], torch.arange(128.0)
    for draw in range(200):
        rng = np.random.default_rng(draw)
        top, left, radius = rng.uniform(45, 80), rng.uniform(45, 80), rng.uniform(8, 20)
        inside = radius - torch.hypot(rows - top, columns - left)
        image = (200 * (inside + 0.5).clamp(0, 1)).round().to(torch.uint8).expand(3, 128, 128)
        view, cut = augment(image, (inside >= 0).byte(), rng, crop=(180, 180), scale=(0.75, 1.33))
        grey = view.float().mean(0)
        grey = grey - grey[cut == 0].median()
        weights = [torch.where(cut == 255, 0, grey), (cut == 1).float()]
        image_at, label_at = (_centroid(weight) for weight in weights)
        shifts.append(label_at - image_at)
    assert torch.stack(shifts).mean(0).abs().max() <= 0.05


def _centroid(weights: torch.Tensor) -> torch.Tensor:
    rows, columns = (torch.arange(float(side)) for side in weights.shape)
    return torch.stack([(weights.sum(1) * rows).sum(), (weights.sum(0) * columns).sum()]) / (
        weights.sum()
    )


SQUARE = torch.zeros(96, 96, dtype=torch.uint8)
SQUARE[20:70, 30:60] = 1


@pytest.mark.parametrize("distort", [blur, occlude, tilt])
def test_distortions_keep_labels_on_their_pixels_and_come_from_their_seed(distort: Any) -> None:
    image = torch.where(SQUARE.bool(), 200, 60).to(torch.uint8).expand(3, 96, 96)
    changed = 0
    for draw in range(10):
        (view, label), again = (
            distort(image, SQUARE, np.random.default_rng(draw)) for _ in range(2)
        )
        assert torch.equal(view, again[0]) and torch.equal(label, again[1])
        assert set(label.unique().tolist()) <= {0, 1, 255}
        inside, outside = (view.float().mean(0)[label == i] for i in (1, 0))
        assert inside.median() > 190 and outside.median() < 70
        changed += not torch.equal(view, image)
    assert changed == 10
    assert torch.equal(image, torch.where(SQUARE.bool(), 200, 60).to(torch.uint8).expand(3, 96, 96))


def test_augmentations_fall_to_their_share_of_the_pictures() -> None:
    def views(augmentation: Augmentation) -> list[Any]:
        chosen = Views(
            40, num_classes=3, crop=(96, 96), scale=(1, 1), seed=0, augmentation=augmentation
        )
        view = TrainingView(Squares(8), chosen)
        return [view[position]["data_samples"].gt_sem_seg.data for position in range(40)]

    plain, none, half, every = (
        views(Augmentation(occlusion=share)) for share in (0.0, 0.0, 0.5, 1.0)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, none, strict=True))
    differs = [
        [not torch.equal(a, b) for a, b in zip(plain, other, strict=True)]
        for other in (half, every)
    ]
    assert 10 <= sum(differs[0]) <= 30 and all(differs[1])
    pieces = [len(list(components(label[0].numpy()))) for label in views(Augmentation(splice=1.0))]
    assert np.mean(pieces) > 1.5 * np.mean(
        [len(list(components(label[0].numpy()))) for label in plain]
    )


def test_what_lies_beyond_the_picture_is_ignored() -> None:
    image, label = (
        torch.full((3, 10, 10), 9, dtype=torch.uint8),
        torch.ones(10, 10, dtype=torch.uint8),
    )
    _, cut = augment(image, label, np.random.default_rng(0), crop=(20, 20), scale=(1, 1))
    assert int((cut == 1).sum()) == 100 and int((cut == 255).sum()) == 300


def test_saved_segmenters_come_back_whole(config: str, tmp_path: Path) -> None:
    segmenter = build_segmenter(config, CLASSES)
    save_segmenter(segmenter, tmp_path / "saved")
    loaded = load_segmenter(tmp_path / "saved")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert loaded.classes == CLASSES
    assert torch.equal(
        predict_probabilities(loaded, images), predict_probabilities(segmenter, images)
    )
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "config.json",
        "weights.safetensors",
    ]


def test_a_checkpoint_cannot_name_foreign_code(config: str) -> None:
    files = pack_segmenter(build_segmenter(config, CLASSES))
    evil = files["config.json"].replace(b'"EncoderDecoder"', b'"os.system"')
    with pytest.raises(
        ValueError, match=r"types outside mmsegmentation's registry: model\.type = 'os\.system'"
    ):
        unpack_segmenter({**files, "config.json": evil})


def test_weights_that_do_not_fit_are_named(config: str, tmp_path: Path) -> None:
    three, two = (pack_segmenter(build_segmenter(config, CLASSES[:n])) for n in (3, 2))
    with pytest.raises(
        ValueError, match=r"(?s)not a segmenter's weights\.safetensors and config\.json: .*conv_seg"
    ):
        unpack_segmenter({**three, "weights.safetensors": two["weights.safetensors"]})
    with pytest.raises(ValueError, match=r"not a segmenter's"):
        unpack_segmenter({**three, "weights.safetensors": b"cut off"})
    with pytest.raises(ValueError, match=r"lacks \['weights\.safetensors', 'config\.json'\]"):
        load_segmenter(tmp_path)


@pytest.fixture
def segmenter(config: str) -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(config, CLASSES)


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (130, 64), (200, 300)])
def test_pictures_of_any_size_are_answered_at_their_size(
    segmenter: Segmenter, size: tuple[int, int]
) -> None:
    probabilities = predict_probabilities(
        segmenter, torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    )
    assert probabilities.shape == (2, 3, *size)
    assert torch.allclose(probabilities.sum(1), torch.ones(2, *size), atol=1e-5)


def test_padding_leaves_distant_pixels_alone(segmenter: Any) -> None:
    images = torch.randint(0, 256, (1, 3, 128, 256), dtype=torch.uint8)
    segmenter.network.backbone.layers[0][1] = segmenter.network.backbone.layers[1][1] = (
        torch.nn.ModuleList()
    )  # no attention
    whole, cut = (
        predict_probabilities(segmenter, images),
        predict_probabilities(segmenter, images[..., :200]),
    )
    assert torch.allclose(whole[..., :150], cut[..., :150], atol=1e-5)


def test_batches_hold_one_size_and_keep_the_order() -> None:
    sizes = [4, 4, 4, 2, 2, 4]
    items: list[Any] = [
        {"image": torch.zeros(3, size, 4), "id": str(number)} for number, size in enumerate(sizes)
    ]
    batches = [[item["id"] for item in batch] for batch in batches_of_one_size(items, 2)]
    assert batches == [["0", "1"], ["2"], ["3", "4"], ["5"]]


def test_drawn_scenes_are_held_out_and_take_the_names_of_the_segmenter() -> None:
    scenes = ArraySet(DrawnScenes(4), ("background", "boat", "spoon", "car"))
    ids = set(np.unique([scenes[index]["label"] for index in range(4)]).tolist())
    assert ids <= {0, 1, 3}
    assert scenes.known == ("background", "boat", "car")
    assert scenes[0]["image"].shape == (3, 128, 128) and int(scenes[0]["id"]) >= 1 << 40


def test_a_set_without_a_common_class_is_refused() -> None:
    with pytest.raises(
        ValueError, match="no class in common: background, car here, spoon in the segmenter"
    ):
        translation(("background", "car"), ("background", "spoon"))


def test_windows_larger_than_the_image_change_nothing(segmenter: Segmenter) -> None:
    images = torch.randint(0, 256, (2, 3, 140, 200), dtype=torch.uint8)
    whole = predict_probabilities(segmenter, images)
    assert torch.equal(whole, predict_probabilities(segmenter, images, inference=Inference()))
    windows = Inference(window=200)
    assert torch.equal(whole, predict_probabilities(segmenter, images, inference=windows))


def test_windows_cover_the_image_and_agree_with_it(segmenter: Segmenter) -> None:
    images = torch.randint(0, 256, (1, 3, 300, 410), dtype=torch.uint8)
    found = predict_probabilities(segmenter, images, inference=Inference(window=256))
    assert found.shape == (1, 3, 300, 410)
    assert torch.allclose(found.sum(1), torch.ones(1, 300, 410), atol=1e-5)
    first = predict_probabilities(segmenter, images[..., :256, :256])
    # nothing but the first window shows this corner
    assert torch.allclose(found[..., :40, :150], first[..., :40, :150], atol=1e-6)


def test_a_flip_makes_the_prediction_symmetric(segmenter: Segmenter) -> None:
    images = torch.randint(0, 256, (1, 3, 128, 160), dtype=torch.uint8)
    flipped = Inference(flip=True)
    one, other = (
        predict_probabilities(segmenter, each, inference=flipped)
        for each in (images, images.flip(-1))
    )
    assert torch.allclose(one, other.flip(-1), atol=1e-5)
    plain = predict_probabilities(segmenter, images)
    mirrored = predict_probabilities(segmenter, images.flip(-1)).flip(-1)
    assert torch.allclose(one, (plain + mirrored) / 2, atol=1e-5)


def test_scales_are_averaged_at_the_image_s_size(segmenter: Segmenter) -> None:
    images = torch.full((1, 3, 128, 160), 90, dtype=torch.uint8)
    images[..., 80:] = 200
    found = predict_probabilities(segmenter, images, inference=Inference(scales=(0.5, 1.0, 1.5)))
    assert found.shape == (1, 3, 128, 160)
    assert torch.allclose(found.sum(1), torch.ones(1, 128, 160), atol=1e-5)
    assert not torch.equal(found, predict_probabilities(segmenter, images))
