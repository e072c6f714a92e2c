"""Two checkpoints, class by class."""

from pathlib import Path
from typing import Any

import pytest

from infra.store import Store
from tasks.evaluate.compare import comparison, write_comparison


def evaluation(miou: float, fingerprint: str = "a" * 64, **iou: float | None) -> dict[str, Any]:
    return {"set": "squares", "fingerprint": fingerprint, "miou": miou, "iou": iou}


def test_the_mean_comes_first_then_what_lost_most() -> None:
    rows = comparison(evaluation(0.5, car=0.6, bus=0.4), evaluation(0.6, car=0.5, bus=0.7))
    assert [row["class"] for row in rows] == ["mean", "car", "bus"]
    assert [row["difference"] for row in rows] == pytest.approx([0.1, -0.1, 0.3])


def test_a_class_that_one_of_them_lacks_has_no_difference_and_comes_last() -> None:
    rows = comparison(
        evaluation(0.5, car=0.6, bus=None), evaluation(0.6, tree=0.5, car=0.6, bus=0.1)
    )
    assert [(row["class"], row["difference"]) for row in rows[1:]] == [
        ("car", 0.0),
        ("bus", None),
        ("tree", None),
    ]


def test_evaluations_of_different_sets_are_not_compared() -> None:
    with pytest.raises(
        ValueError,
        match=r"different sets, squares .a{12}. and squares .b{12}.; evaluate both on one set",
    ):
        comparison(evaluation(0.5), evaluation(0.5, "b" * 64))


def test_a_comparison_stays_in_the_store(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    found = evaluation(0.5, car=0.6), evaluation(0.6, car=0.7)
    rows = write_comparison(store, ("old", "new"), found)
    stored = store.read_json("comparisons/old--new-aaaaaaaaaaaaaaaa.json")
    assert stored == {"first": "old", "second": "new", "set": "squares", "rows": rows}
