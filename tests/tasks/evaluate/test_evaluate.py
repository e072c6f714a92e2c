"""Figures of a checkpoint on the drawn world and on folders in VOC layout."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from infra.settings import EvaluateSettings, Settings
from infra.store import Store, StoreError
from infra.voc import VocError, VocFolder
from models.embedded.world import HELD_OUT
from models.segmenters import ArraySet, Segmenter, build_segmenter
from tasks.evaluate.evaluate import evaluate
from tasks.evaluate.measure import evaluate_segmenter, iou_of_counts, measure, summarise
from tasks.evaluate.sets import chosen_set, divide, drawn_truth
from tasks.evaluate.stored import evaluation_path, list_evaluations, read_counts
from tasks.train.train import train
from tests.infra.test_voc import add
from tests.models.test_segmenters import TINY, Squares
from tests.tasks.segmenting import VERSION, publish_squares, small_settings, write_run

CLASSES = ("background", "car", "bus")


class Painter(torch.nn.Module):
    """A network that reads the class from the red channel: 0, 100 and 200 are classes 0, 1, 2."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def data_preprocessor(self, batch: dict[str, Any], training: bool) -> dict[str, Any]:
        return {"inputs": torch.stack(batch["inputs"])}

    def predict(self, images: torch.Tensor) -> list[Any]:
        from models.segmenters.openmmlab import PixelData, SegDataSample

        self.sizes.append(tuple(images.shape))
        logits = (
            torch.nn.functional.one_hot((images[:, 0] / 100).round().long(), 3).permute(0, 3, 1, 2)
            * 100.0
        )
        return [SegDataSample(seg_logits=PixelData(data=one)) for one in logits]


@pytest.fixture
def painter() -> Segmenter:
    return Segmenter(Painter(), {}, CLASSES)


def painted(label: list[list[int]], said: list[list[int]] | None = None) -> dict[str, Any]:
    """An item that `Painter` segments as `said`, else correctly."""
    truth = torch.tensor(label, dtype=torch.uint8)
    red = (torch.tensor(said, dtype=torch.uint8) if said else truth) * 100
    return {"image": red.expand(3, *truth.shape), "label": truth, "id": str(label)}


def test_figures_are_those_of_the_pixels(painter: Segmenter) -> None:
    items: Any = [painted([[0, 0], [1, 1]]), painted([[0, 2], [1, 1]], said=[[0, 0], [1, 2]])]
    found = evaluate_segmenter(painter, items, "squares")
    assert found.iou == pytest.approx({"background": 3 / 4, "car": 3 / 4, "bus": 0})
    assert found.miou == pytest.approx(1 / 2)
    assert found.pixel_accuracy == pytest.approx(6 / 8)
    assert found.calibration_error == pytest.approx(2 / 8, abs=1e-4)
    assert found.images == 2 and found.seen is None
    assert found.uncertainty == pytest.approx({"background": 0, "car": 0, "bus": 0}, abs=1e-4)


def test_the_uncertainty_of_a_class_is_the_mean_entropy_of_its_pixels(painter: Segmenter) -> None:
    measured = measure(painter, cast(Any, [painted([[0, 1], [1, 255]]), painted([[1, 1], [0, 0]])]))
    measured.entropy[:] = [[0.1, 0.6, 0], [0.2, 0.2, 0]]
    found = summarise(measured, "squares", CLASSES, CLASSES)
    assert found.uncertainty == pytest.approx({"background": 0.1, "car": 0.2, "bus": None})


def test_classes_that_the_set_cannot_show_stay_out_of_the_mean(painter: Segmenter) -> None:
    items: Any = [painted([[0, 0], [1, 1]], said=[[0, 0], [1, 2]])]
    found = evaluate_segmenter(painter, items, "squares", known=("background", "car"))
    assert found.iou["bus"] == 0
    assert found.miou == pytest.approx((1 + 1 / 2) / 2)


def test_unseen_classes_have_their_own_mean(painter: Segmenter) -> None:
    items: Any = [painted([[0, 0], [1, 2]], said=[[0, 0], [1, 1]])]
    found = evaluate_segmenter(painter, items, "squares", unseen=("bus",))
    assert (found.seen, found.unseen, found.harmonic) == pytest.approx((3 / 4, 0, 0))


def test_the_fingerprint_is_of_images_labels_and_classes_only(painter: Segmenter) -> None:
    items: Any = [painted([[0, 0], [1, 1]]), painted([[0, 2], [1, 1]])]
    base = evaluate_segmenter(painter, items, "squares").fingerprint
    assert evaluate_segmenter(painter, items, "other name", batch_size=1).fingerprint == base
    assert evaluate_segmenter(painter, items[::-1], "squares").fingerprint != base
    renamed = replace(painter, classes=("background", "car", "boat"))
    assert evaluate_segmenter(renamed, items, "squares").fingerprint != base


def test_a_set_without_labels_is_refused(painter: Segmenter) -> None:
    items: Any = [{**painted([[0, 0]]), "label": torch.full((1, 2), 255, dtype=torch.uint8)}]
    with pytest.raises(ValueError, match="set 'blank' has no labelled pixel in 1 images"):
        evaluate_segmenter(painter, items, "blank")


def test_an_id_beyond_the_classes_is_named(painter: Segmenter) -> None:
    with pytest.raises(ValueError, match="truth holds class id 7, but there are 3 classes"):
        evaluate_segmenter(
            painter,
            cast(Any, [{**painted([[0, 0]]), "label": torch.full((1, 2), 7, dtype=torch.uint8)}]),
            "odd",
        )


def voc_photographs(root: Path, split: str, classes: tuple[str, ...]) -> ArraySet:
    return ArraySet(VocFolder(root, split, classes), classes)


def test_photographs_are_measured_at_their_own_size(painter: Segmenter, tmp_path: Path) -> None:
    shapes = [(150, 40), (150, 40), (33, 260), (150, 40)]
    for number, shape in enumerate(shapes):
        add(tmp_path, f"{number}", np.zeros(shape, np.uint8))
    found = evaluate_segmenter(painter, voc_photographs(tmp_path, "val", CLASSES), "photographs")
    assert found.images == 4
    assert painter.network.sizes == [(2, 3, 160, 128), (1, 3, 128, 288), (1, 3, 160, 128)]


def test_the_folders_ids_are_translated_by_name(tmp_path: Path) -> None:
    add(tmp_path, "one", np.array([[0, 1, 2, 255]]))
    (tmp_path / "classes.txt").write_text("bus\ncow\ncar\n")
    photographs = voc_photographs(tmp_path, "val", CLASSES)
    assert photographs[0]["label"].tolist() == [[2, 0, 1, 255]]
    assert photographs.known == CLASSES


def test_a_wrong_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VocError, match=r"val\.txt is missing"):
        voc_photographs(tmp_path, "val", CLASSES)


def test_drawn_truth_is_the_same_every_time() -> None:
    first, second = (drawn_truth(2, CLASSES) for _ in range(2))
    assert torch.equal(first[1]["image"], second[1]["image"])
    assert torch.equal(first[1]["label"], second[1]["label"])
    assert first.known == CLASSES


def test_a_published_version_can_be_measured_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    found = evaluate_segmenter(
        build_segmenter(str(tmp_path / "tiny.py"), CLASSES), Squares(4), "squares"
    )
    assert 0 <= found.miou <= 1 and 0 <= found.calibration_error <= 1


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


def test_the_evaluation_lies_beside_its_checkpoint_and_with_the_run(settings: Settings) -> None:
    store = Store.open(settings.store.url)
    publish_squares(store)
    write_run(store, {"car": [True]})
    name = train.fn(settings, VERSION)
    found = evaluate.fn(settings, name)
    assert found["set"] == "3 drawn scenes" and set(found["iou"]) == set(CLASSES)
    assert store.read_json(evaluation_path(name, found["fingerprint"])) == found
    assert store.read_json("runs/nightly/evaluation.json") == {**found, "checkpoint": name}
    assert evaluate.fn(settings, name) == found
    assert list_evaluations(store, name) == [evaluation_path(name, found["fingerprint"])]


def test_another_way_to_predict_is_another_evaluation(settings: Settings) -> None:
    publish_squares(Store.open(settings.store.url))
    name = train.fn(settings, VERSION)
    ways: list[dict[str, Any]] = [{}, {"flip": True}, {"scales": (1.0, 1.5)}, {"window": 64}]
    chosen = [settings.evaluate.model_copy(update=way) for way in ways]
    found = [
        evaluate.fn(settings.model_copy(update={"evaluate": each}), name)["fingerprint"]
        for each in chosen
    ]
    assert len(set(found)) == len(ways)


def test_the_stored_counts_give_the_figures_of_the_deciding_images(settings: Settings) -> None:
    store = Store.open(settings.store.url)
    publish_squares(store)
    name = train.fn(settings, VERSION)
    found = evaluate.fn(settings, name)
    counts = read_counts(store, name, found)
    decision = found["decision"]
    assert counts.shape == (3, 3, 3) and decision["set"] == "3 other drawn scenes"
    iou = {name: value for name, value in decision["iou"].items() if value is not None}
    measured = iou_of_counts(counts.sum(0))
    assert iou == pytest.approx(dict(zip(CLASSES, measured, strict=True)))
    assert decision["iou"] != found["iou"]


def test_counts_that_do_not_fit_are_named(settings: Settings) -> None:
    store = Store.open(settings.store.url)
    publish_squares(store)
    name = train.fn(settings, VERSION)
    found = evaluate.fn(settings, name)
    path = evaluation_path(name, found["fingerprint"]).replace(".json", ".parquet")
    table = store.read_table(path)
    table.loc[table["decides"], "image"] += 3
    store.write_table(path, table)
    with pytest.raises(StoreError, match=r"parquet holds .*'image': 3.* does not fit 3 images"):
        read_counts(store, name, found)


def test_no_drawn_scene_both_decides_and_is_reported() -> None:
    chosen = chosen_set(EvaluateSettings(images=4), CLASSES)
    samples: Any = chosen.samples
    seeds = [int(samples[index]["id"]) for index in range(chosen.images)]
    assert len(set(seeds)) == 8 and min(seeds) >= HELD_OUT
    decides = chosen.decides([b""] * 8)
    assert decides.tolist() == [False] * 4 + [True] * 4


def test_a_photograph_keeps_its_half_under_another_name_and_in_a_larger_folder(
    painter: Segmenter, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 2, (8, 8)).astype(np.uint8) * 100 for _ in range(24)]
    halves: list[dict[bytes, bool]] = []
    for folder, count, prefix in ((tmp_path / "a", 12, "x"), (tmp_path / "b", 24, "y")):
        for number, red in enumerate(pictures[:count]):
            add(folder, f"{prefix}{number}", red // 100, suffix=".png")
            image = Image.fromarray(np.stack([red] * 3, 2))
            image.save(folder / "JPEGImages" / f"{prefix}{number}.png")
        of = chosen_set(EvaluateSettings(voc=str(folder)), CLASSES)
        found = measure(painter, of.samples)
        reported, deciding, of = divide(found, of)
        assert len(reported) + len(deciding) == count
        assert of.reported_name.endswith("val, reporting half")
        assert of.deciding_name.endswith("val, deciding half")
        halves.append(
            {**dict.fromkeys(reported.contents, False), **dict.fromkeys(deciding.contents, True)}
        )
    assert halves[0].items() <= halves[1].items()


def test_a_set_too_small_to_divide_says_so(painter: Segmenter, tmp_path: Path) -> None:
    add(tmp_path, "one", np.array([[0, 1]]))
    of = chosen_set(EvaluateSettings(voc=str(tmp_path)), CLASSES)
    reported, deciding, of = divide(measure(painter, of.samples), of)
    assert len(reported) == len(deciding) == 1
    assert of.reported_name == of.deciding_name == f"{tmp_path.name} val, too small to divide"
