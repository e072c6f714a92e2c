"""The faults that `benchmarks.faults` plants pass the tests of a sample by itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.faults import FAULTS, Planted, auroc, edge_distance, label_edge, plant, settings_of
from infra.settings import Settings
from tasks.plan.rows import make_plan
from tasks.select.judge import judge_rows


@pytest.fixture(scope="module")
def chosen() -> Settings:
    plan = settings_of("quick").plan.model_copy(update={"images": 300})
    return settings_of("quick").model_copy(update={"plan": plan})


@pytest.fixture(scope="module")
def planned(chosen: Settings) -> pd.DataFrame:
    return make_plan(chosen, chosen.load_vocabulary())


@pytest.fixture(scope="module")
def planted(chosen: Settings, planned: pd.DataFrame) -> Planted:
    return plant(planned, chosen)


@pytest.mark.slow
def test_every_kind_of_fault_is_planted_and_changes_the_label(planted: Planted) -> None:
    faulty = planted.faults[planted.faults != ""]
    assert set(faulty) == {fault.__name__ for fault in FAULTS}
    for row in planted.faults.index:
        same = np.array_equal(planted.labels[row], planted.truth[row])
        assert same == (row not in faulty.index)


def test_the_plan_names_the_classes_of_a_spoiled_label(
    chosen: Settings, planned: pd.DataFrame, planted: Planted
) -> None:
    ids = chosen.load_vocabulary().ids
    rows = planned.set_index("row")
    for row in planted.faults.index[planted.faults.isin(["swapped", "missing"])]:
        named = {ids[name] for name in rows.at[row, "classes"]}
        assert named == set(np.unique(planted.labels[row])) - {0}


def test_the_screen_lets_swapped_and_missing_classes_through(
    chosen: Settings, planned: pd.DataFrame, planted: Planted
) -> None:
    rows = planned[planned["row"].map(planted.faults).isin(["swapped", "missing"])]
    table = rows.assign(confidence=1.0, consistency=1.0).reset_index(drop=True)
    images = np.stack([planted.images[row] for row in rows["row"]])
    labels = np.stack([planted.labels[row] for row in rows["row"]])
    verdicts = judge_rows(images, labels, table, chosen.select, chosen.load_vocabulary().ids)
    assert len(rows) >= 5
    assert verdicts["keep"].mean() > 0.9  # a small object may still be too small


def test_the_edge_of_a_square_is_its_border_and_distances_are_to_it() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[3:6, 3:6] = 2
    edge = label_edge(label)
    assert edge.sum() == 25 - 1  # all but the centre of the pixels around and in the square
    assert edge_distance(label)[4, 4] == pytest.approx(1, abs=0.05)
    assert (edge_distance(label)[edge] == 0).all()
    assert edge_distance(np.zeros((3, 4), np.uint8)).min() == 5


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    scores, positive = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
    assert auroc(scores, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
