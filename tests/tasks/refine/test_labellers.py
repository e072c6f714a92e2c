"""Labels by a labeller: what it finds, how far it is trusted, and which files it is."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch

from infra.settings import LabellerSettings, RefineSettings, Settings, SettingsError
from infra.store import Store, read_shard, write_shard
from models.labellers import Found, open_labeller
from models.labellers.checks import KINDS
from models.masks import IGNORE
from tasks.plan.resolve import resolve
from tasks.plan.rows import start_run
from tasks.refine.labellers import label_found, load_labellers, with_labellers
from tasks.refine.labels import refine, refine_rows
from tasks.select.judge import judge_rows
from tests.models.labelling import write_clipseg

SIDE = 32
IDS = {"car": 3, "tree": 7}
CAR = (slice(4, 20), slice(6, 22))
TREE = (slice(20, 30), slice(20, 30))


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clipseg"
    write_clipseg(folder)
    return folder


def labelled(folder: Path, **labeller: Any) -> dict[str, Any]:
    """The section `refine` of a run that this labeller labels."""
    chosen = {"kind": "clipseg", "path": str(folder), **labeller}
    return {"method": "labeller", "labellers": [chosen]}


def found(*masks: Any, certainty: tuple[float, ...], high: float = 0.9) -> Found:
    """What a labeller finds of phrases in these places."""
    scores = torch.full((len(masks), SIDE, SIDE), 0.05)
    for score, mask in zip(scores, masks, strict=True):
        score[mask] = high
    return Found(scores, certainty)


def attended(mask: Any) -> torch.Tensor:
    """Scores (1, 2, H, W) of background and object by attention."""
    inside = torch.full((SIDE, SIDE), 0.1)
    inside[mask] = 0.9
    return torch.stack([1 - inside, inside])[None]


def test_each_pixel_has_the_phrase_that_fits_it_best() -> None:
    both = found(CAR, TREE, certainty=(0.9, 0.5))
    both.scores[1][CAR] = 0.6  # less than the car's
    refined = label_found(both, attended(CAR), [3, 7], 0.1)
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    wanted[CAR] = 3
    wanted[TREE] = 7
    np.testing.assert_array_equal(refined.label[0], wanted)
    assert refined.label.dtype == torch.uint8 and refined.label.shape == (1, SIDE, SIDE)


def test_scores_near_the_edge_of_a_mask_are_ignored_by_the_band() -> None:
    unsure = found(CAR, certainty=(0.9,))
    unsure.scores[0, 22:30] = 0.53  # 0.06 over the background's
    wide, narrow = (label_found(unsure, attended(CAR), [3], band).label[0] for band in (0.1, 0.05))
    assert (wide[22:30] == IGNORE).all() and (narrow[22:30] == 3).all()
    assert (wide[CAR] == 3).all()


def test_confidence_is_the_certainty_of_the_pixels_phrases() -> None:
    refined = label_found(found(CAR, TREE, certainty=(0.9, 0.5)), attended(CAR), [3, 7], 0.1)
    assert refined.confidence.item() == pytest.approx((256 * 0.9 + 100 * 0.5) / 356)


def test_consistency_is_low_where_attention_and_labeller_disagree() -> None:
    seen = found(CAR, certainty=(0.9,))
    half = (CAR[0], slice(14, 22))
    for place, iou in ((CAR, 1.0), (half, 0.5), (TREE, 0.0)):
        refined = label_found(seen, attended(place), [3], 0.1)
        assert refined.consistency.item() == pytest.approx(iou, abs=1e-6)


def test_what_is_not_found_has_label_and_confidence_0_and_is_rejected() -> None:
    nothing = Found(torch.zeros(1, SIDE, SIDE), (0.0,))
    refined = label_found(nothing, attended(CAR), [3], 0.1)
    assert not refined.label.any()
    assert refined.confidence.tolist() == refined.consistency.tolist() == [0.0]
    row = {"row": 0, "id": "0", "kind": "single", "classes": ["car"]}
    table = pd.DataFrame([{**row, "confidence": 0.0, "consistency": 0.0}])
    noise = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    verdict = judge_rows(noise, refined.label.numpy(), table, Settings().select, IDS)
    assert not verdict["keep"][0] and verdict["reason"][0] == "missing class"


def sample() -> dict[str, Any]:
    """Two noisy images, and attention on the middle of each."""
    rng = np.random.default_rng(0)
    maps = np.full((2, 3, 8, 8), 0.1, np.float16)
    maps[:, :, 2:6, 2:6] = 1
    return {
        "images": rng.integers(0, 256, (2, 48, 64, 3), dtype=np.uint8),
        "attention": maps,
        "cross": maps,
        "rows": pd.DataFrame(
            {
                "row": [4, 5],
                "id": ["4", "5"],
                "classes": [["car", "tree"], []],
                "phrases": [["a red car", "tree"], []],
            }
        ),
    }


def test_rows_are_labelled_by_the_phrases_of_their_prompts(clipseg: Path) -> None:
    labeller = open_labeller("clipseg", clipseg)
    given = sample()
    settings = RefineSettings(**labelled(clipseg))
    labels, table = refine_rows(**given, settings=settings, ids=IDS, labeller=labeller)
    seen = labeller.find(torch.from_numpy(given["images"][0]), ["a red car", "tree"])
    assert set(np.unique(labels[0])) <= {0, 3, 7, IGNORE} and (labels[0] == 3).any()
    best = seen.scores.argmax(0).numpy()
    sure = (labels[0] != IGNORE) & (labels[0] > 0)
    assert (np.array([3, 7])[best] == labels[0])[sure].mean() > 0.9  # but for holes that are filled
    assert 0 < table["confidence"][0] <= max(seen.certainty)
    assert table["contrast"][0] == pytest.approx(0.9, abs=0.01)
    assert not labels[1].any() and table["coverage"][1] == 0  # no phrase


def test_a_shard_is_labelled_by_the_labeller_of_its_settings(clipseg: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    settings = Settings(
        store={"url": str(tmp_path)},
        refine=labelled(clipseg),
        classes=("car",),
        plan={"images": 2, "multi": 0.0, "negatives": 0.0},
    )
    settings = start_run(store, resolve(store, settings))
    rows = store.read_table("runs/nightly/plan.parquet")
    made = sample()
    arrays = {name: made[name] for name in ("attention", "cross")} | {"image": made["images"]}
    write_shard(store, "runs/nightly/synthesize/00000", arrays, rows[["row", "id"]])
    refine.shard(settings, 0)
    stored, table = read_shard(store, "runs/nightly/refine/00000", ["label"])
    ids = settings.load_vocabulary().ids
    made["rows"] = rows
    (labeller,) = load_labellers(settings)
    expected, measures = refine_rows(**made, settings=settings.refine, ids=ids, labeller=labeller)
    np.testing.assert_array_equal(stored["label"], expected)
    np.testing.assert_allclose(table["confidence"], measures["confidence"])


def test_the_digest_of_the_files_is_part_of_the_run(clipseg: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    first = resolve(store, Settings(refine=labelled(clipseg)))
    assert len(first.refine.labellers[0].digest or "") == 64
    assert with_labellers(first) == first
    other = tmp_path / "other"
    shutil.copytree(clipseg, other)
    write_clipseg(other).half().save_pretrained(other)
    changed = with_labellers(Settings(refine=labelled(other)))
    assert changed.refine.labellers[0].digest != first.refine.labellers[0].digest
    assert with_labellers(Settings()) == Settings()


def test_other_files_than_the_digest_says_are_refused(clipseg: Path) -> None:
    settings = Settings(refine=labelled(clipseg, digest="ab12"))
    with pytest.raises(SettingsError, match=r"labellers\.0\.digest is ab12, .* remove refine"):
        with_labellers(settings)
    with pytest.raises(SettingsError, match=r"labellers\.0\.digest is ab12, .* remove refine"):
        load_labellers(settings)


def test_a_directory_of_another_model_is_found_before_the_run(
    clipseg: Path, tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path))
    for kind in ({"kind": "sam3"}, {"path": str(tmp_path / "none")}):
        with pytest.raises(SettingsError, match=r"refine\.labellers\.0: kind .* (sam3|not a dir)"):
            resolve(store, Settings(refine=labelled(clipseg, **kind)))


def test_threads_of_a_process_share_one_labeller(clipseg: Path) -> None:
    settings = with_labellers(Settings(refine=labelled(clipseg)))
    with ThreadPoolExecutor(4) as pool:
        opened = [each for (each,) in pool.map(lambda _: load_labellers(settings), range(4))]
    assert len(set(map(id, opened))) == 1
    assert load_labellers(Settings()) == []


def test_without_a_labeller_the_generator_s_device_is_not_needed() -> None:
    assert load_labellers(Settings(generator={"device": "cuda:99"})) == []


def test_the_settings_know_the_kinds_that_there_are() -> None:
    kinds = get_args(LabellerSettings.model_fields["kind"].annotation)
    assert set(kinds) == KINDS.keys()
    assert [kind for kind in KINDS if "detector" in KINDS[kind]] == ["grounded-sam2"]
