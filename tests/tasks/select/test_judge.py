"""Judging: each rejection has its reason, and no verdict depends on other rows of the shard."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from infra.settings import SelectSettings, Settings
from infra.store import Store, read_marker, read_shard, write_shard
from tasks.plan.rows import start_run
from tasks.select.judge import REASONS, judge_rows
from tasks.select.select import select

IDS = {"car": 1, "tree": 2}
SETTINGS = SelectSettings()


def good(**changes: Any) -> dict[str, Any]:
    """One sound sample: a noisy image, a car of 14 % of it, sure of itself."""
    image = np.random.default_rng(0).integers(40, 200, (64, 64, 3)).astype(np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[20:44, 20:44] = 1
    sample = {
        "image": image,
        "label": label,
        "kind": "single",
        "classes": ["car"],
        "confidence": 0.9,
    }
    return sample | {"consistency": 0.8, "finite": True} | changes


def label_with(*boxes: slice | tuple[slice, slice], value: int = 1) -> np.ndarray:
    label = np.zeros((64, 64), np.uint8)
    for box in boxes:
        label[box] = value
    return label


def judge(*samples: dict[str, Any], settings: SelectSettings = SETTINGS) -> pd.DataFrame:
    table = pd.DataFrame(
        [{k: v for k, v in s.items() if k not in ("image", "label")} for s in samples]
    )
    table.insert(0, "row", np.arange(len(samples)))
    table.insert(1, "id", [f"{row:08d}" for row in range(len(samples))])
    images, labels = (np.stack([s[field] for s in samples]) for field in ("image", "label"))
    return judge_rows(images, labels, table, settings, IDS)


QUARTERS = [np.s_[y : y + 16, x : x + 16] for y in (4, 40) for x in (4, 40)]
UNSOUND = {
    "nan": good(finite=False),
    "black": good(image=np.full((64, 64, 3), 3, np.uint8)),
    "absent": good(contrast=0.05),
    "ignored": good(label=label_with(np.s_[:40], value=255)),
    "missing class": good(classes=["car", "tree"]),
    "area": good(label=label_with(np.s_[3:6, 3:6])),
    "components": good(label=label_with(*(np.s_[y : y + 8, 8:40] for y in range(0, 60, 12)))),
    "confidence": good(confidence=0.3),
    "disagreement": good(consistency=0.2),
}


def test_a_sound_sample_is_kept_with_its_measures() -> None:
    (verdict,) = judge(good()).to_dict("records")
    assert verdict["keep"] and verdict["reason"] == ""
    assert verdict["score"] == pytest.approx(0.72)
    assert verdict["coverage"] == pytest.approx(576 / 4096)
    assert (verdict["ignored"], verdict["components"], verdict["largest"]) == (0, 1, 1)


@pytest.mark.parametrize("reason", UNSOUND)
def test_an_unsound_sample_is_rejected_with_its_reason(reason: str) -> None:
    (verdict,) = judge(UNSOUND[reason]).to_dict("records")
    assert (verdict["keep"], verdict["reason"]) == (False, reason)


def test_every_reason_is_tested_and_documented() -> None:
    assert set(UNSOUND) | {"rank"} == set(REASONS)


def test_a_verdict_does_not_depend_on_the_rest_of_the_shard() -> None:
    together = judge(good(), *UNSOUND.values(), good())
    assert list(together["reason"]) == ["", *UNSOUND, ""]
    alone = pd.concat([judge(sample) for sample in (good(), *UNSOUND.values(), good())])
    assert together.drop(columns=["row", "id"]).to_dict("list") == alone.drop(
        columns=["row", "id"]
    ).to_dict("list")


def test_the_first_reason_of_several_is_given() -> None:
    (verdict,) = judge(good(finite=False, confidence=0.1)).to_dict("records")
    assert verdict["reason"] == "nan"


def test_images_that_are_not_numbers_are_rejected() -> None:
    image = good()["image"].astype(np.float32)
    image[3, 3, 1] = np.nan
    assert judge(good(image=image))["reason"].item() == "nan"


def test_an_image_of_one_colour_is_rejected_whatever_the_colour() -> None:
    image = np.full((64, 64, 3), (90, 120, 30), np.uint8)
    assert judge(good(image=image))["reason"].item() == "black"


def test_scores_that_are_not_numbers_do_not_pass() -> None:
    verdicts = judge(good(confidence=np.nan), good(consistency=np.nan))
    assert list(verdicts["reason"]) == ["confidence", "disagreement"]
    assert list(verdicts["score"]) == [0, 0]


def test_contrast_is_judged_where_it_was_measured() -> None:
    assert judge(good(contrast=np.nan), good(contrast=0.5))["keep"].all()


def test_a_foreground_that_fills_the_image_is_rejected() -> None:
    assert judge(good(label=np.ones((64, 64), np.uint8)))["reason"].item() == "area"


def test_a_negative_is_kept_if_its_label_is_empty_and_its_image_sane() -> None:
    negative = {"kind": "negative", "classes": [], "confidence": np.nan, "consistency": np.nan}
    empty = np.zeros((64, 64), np.uint8)
    verdicts = judge(
        good(label=empty, **negative),
        good(**negative),
        good(label=empty, **negative | {"image": empty[..., None].repeat(3, 2)}),
    )
    assert list(verdicts["reason"]) == ["", "area", "black"]
    assert verdicts["score"].iloc[0] == 1


def test_two_equal_objects_of_a_class_are_not_too_many_pieces() -> None:
    assert judge(good(label=label_with(*QUARTERS[:2])))["keep"].item()


def test_four_equal_pieces_are_too_many_unless_the_scene_was_composed_so() -> None:
    pieces = label_with(*QUARTERS)
    verdicts = judge(good(label=pieces), good(label=pieces, kind="composed"))
    assert list(verdicts["reason"]) == ["components", ""]


def test_specks_are_not_counted_as_pieces() -> None:
    label = good()["label"]
    label[0, ::8] = 1
    assert judge(good(label=label))["components"].item() == 1


def test_a_label_of_another_size_is_refused() -> None:
    table = pd.DataFrame({"id": ["a"]})
    with pytest.raises(ValueError, match="do not fit"):
        judge_rows(
            np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 9), np.uint8), table, SETTINGS, IDS
        )


def test_a_label_value_that_no_class_has_is_refused_with_the_sample() -> None:
    with pytest.raises(ValueError, match="label of 00000001 holds 7"):
        judge(good(), good(label=label_with(np.s_[:9], value=7)))


def test_a_shard_in_the_store_is_judged_once(tmp_path: Path) -> None:
    settings = Settings(
        store={"url": str(tmp_path)},
        classes=("car",),
        plan={"images": 3, "multi": 0, "negatives": 0},
    )
    store = Store.open(str(tmp_path))
    samples = [good(), UNSOUND["nan"], UNSOUND["area"]]
    start_run(store, settings)
    plan = store.read_table("runs/nightly/plan.parquet")
    arrays = {
        field: np.stack([s[field] for s in samples]) for field in ("image", "label", "finite")
    }
    scores = plan[["row", "id"]].assign(confidence=0.9, consistency=0.8)
    write_shard(
        store,
        "runs/nightly/synthesize/00000",
        {f: arrays[f] for f in ("image", "finite")},
        plan[["row", "id"]],
    )
    write_shard(store, "runs/nightly/refine/00000", {"label": arrays["label"]}, scores)
    marker = select.shard(settings, 0)
    assert marker.stats == {"kept": 1, "rejected": {"area": 1, "nan": 1}}
    assert list(read_shard(store, "runs/nightly/select/00000")[1]["reason"]) == ["", "nan", "area"]
    store.delete("runs/nightly/refine")
    assert select.shard(settings, 0) == marker == read_marker(store, "runs/nightly/select/00000")
