"""The stored plan: what a task reads of it, and how damage and foreign plans are refused."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from infra.settings import Settings
from infra.store import Store, StoreError
from infra.store.errors import FormatError
from infra.store.folder import Folder
from infra.store.tables import grouped
from tasks.plan.notes import FORMAT
from tasks.plan.prepare import Shards
from tasks.plan.rows import PlanError, make_plan, start_run
from tasks.plan.table import COLUMNS, Plan, stored_plan, stored_shards
from tasks.run.verify import verify_stored_run

PATH = "runs/nightly/plan.parquet"
SETTINGS = Settings(seed=5, plan={"images": 1000, "shard_size": 10}, compose={"images": 95})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A plan of 100 generated and 10 composed shards, in eight groups of at most 16."""
    store = Store.open(str(tmp_path / "store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.plan.rows.GROUP_ROWS", 160)
        start_run(store, SETTINGS)
    return store


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_plan(SETTINGS, SETTINGS.load_vocabulary())


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Place and size of all that is read of files in part; reading a whole one is an error."""
    pieces = list[tuple[int, int]]()
    fill = Folder.fill

    def filling(self: Folder, wanted: Any) -> None:
        pieces.extend((start, len(buffer)) for _, start, buffer in wanted)
        fill(self, wanted)

    monkeypatch.setattr(Folder, "fill", filling)
    monkeypatch.setattr(Folder, "get", lambda self, path: pytest.fail(f"{path} is read whole"))
    return pieces


def test_a_shard_s_rows_are_those_of_the_plan_that_was_made(
    store: Store, table: pd.DataFrame
) -> None:
    plan = Plan(store, SETTINGS)
    for shard in range(110):
        pd.testing.assert_frame_equal(plan.of_shard(shard), table[table["shard"] == shard])
    assert plan.of_shard(110).empty
    pd.testing.assert_frame_equal(store.read_table(PATH), table)


def test_what_the_whole_plan_holds_is_known_without_reading_rows(
    store: Store, table: pd.DataFrame, fetched: list[tuple[int, int]]
) -> None:
    plan = Plan(store, SETTINGS)
    assert (plan.generated, plan.composed, plan.scenes, len(plan)) == (
        range(100),
        range(100, 110),
        95,
        1095,
    )
    assert plan.notes.kinds == table["kind"].value_counts().to_dict()
    assert plan.notes.phrases == table["phrases"].map(len).max()
    assert len(fetched) == 1


def test_a_task_reads_the_footer_and_the_one_group_that_has_its_shard(
    store: Store, fetched: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.store.groups.TAIL", 1 << 13)
    file = pq.ParquetFile(f"{store.url}/{PATH}").metadata
    groups = [file.row_group(number) for number in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [160] * 6 + [40, 95]
    plan = Plan(store, SETTINGS)
    footer = len(fetched)
    assert len(plan.of_shard(34)) == 10
    size = sum(groups[2].column(number).total_compressed_size for number in range(len(COLUMNS)))
    assert fetched[footer:] == [(groups[2].column(0).dictionary_page_offset, size)]


def test_of_columns_only_those_that_are_asked_for_are_fetched(
    store: Store, fetched: list[tuple[int, int]]
) -> None:
    plan = Plan(store, SETTINGS)
    fetched.clear()
    kinds = [kind for rows in plan.columns(["kind"]) for kind in rows["kind"].to_pylist()]
    assert len(kinds) == 1095
    assert len(fetched) == 8


def notes_of(table: pd.DataFrame) -> dict[str, Any]:
    """The notes of the plan of `SETTINGS`."""
    return {
        "format": FORMAT,
        "kinds": table["kind"].value_counts().to_dict(),
        "generated": 100,
        "composed": 10,
        "phrases": 3,
    }


def flipped(store: Store, at: int) -> None:
    path = Path(store.url, PATH)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_of_a_group_is_named_and_costs_no_other_group_anything(store: Store) -> None:
    column = pq.ParquetFile(f"{store.url}/{PATH}").metadata.row_group(2).column(3)
    flipped(store, column.data_page_offset + 5)
    plan = Plan(store, SETTINGS)
    assert len(plan.of_shard(0)) == len(plan.of_shard(109)) / 0.5 == 10
    with pytest.raises(
        StoreError, match=r"plan\.parquet, rows group 2 .*column 'prompt' has changed.*run again"
    ):
        plan.of_shard(40)
    with pytest.raises(
        StoreError, match=r"plan\.parquet .*column 'prompt' of rows group 2 has changed"
    ):
        store.read_table(PATH)
    assert [problem.path for problem in verify_stored_run(store, "nightly")] == [PATH]


def test_any_flipped_byte_is_found_by_whoever_reads_the_whole(store: Store) -> None:
    size = Path(store.url, PATH).stat().st_size
    for at in [0, 3, *range(4, size, 997), size - 5, size - 1]:
        flipped(store, at)
        with pytest.raises(StoreError, match=r"plan\.parquet"):
            store.read_table(PATH)
        flipped(store, at)
    store.read_table(PATH)


def test_a_damaged_or_cut_footer_is_refused_when_the_plan_is_opened(store: Store) -> None:
    path = Path(store.url, PATH)
    data = path.read_bytes()
    for at in range(1, 2000, 37):
        flipped(store, -at)
        with pytest.raises(StoreError, match=r"(?s)plan\.parquet .*run again"):
            Plan(store, SETTINGS)
        path.write_bytes(data)
    path.write_bytes(data[:-100])
    with pytest.raises(StoreError, match=r"(?s)plan\.parquet .*run again"):
        Plan(store, SETTINGS)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, "has no format, this version of segmint reads format 1; delete the file"),
        (2, "has format 2, this version of segmint reads format 1; use a newer segmint"),
        ("1", "has format '1', this version of segmint reads format 1; use a newer"),
    ],
)
def test_a_plan_of_another_format_is_refused(
    store: Store, table: pd.DataFrame, stored: Any, message: str
) -> None:
    notes = {name: value for name, value in notes_of(table).items() if name != "format"}
    notes |= {"format": stored} if stored is not None else {}
    store.write_bytes(PATH, grouped([table], COLUMNS, ["shard"], notes))
    for read in (lambda: Plan(store, SETTINGS), lambda: stored_shards(store, "nightly")):
        with pytest.raises(FormatError, match=rf"plan\.parquet {re.escape(message)}"):
            read()


def test_the_shards_of_a_run_are_known_without_its_settings(store: Store) -> None:
    assert stored_shards(store, "nightly") == (range(100), range(100, 110))


CHANGES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "row": lambda rows: rows["row"] + 1,
    "id": lambda rows: ["00000000"] * len(rows),
    "kind": lambda rows: ["composed"] * len(rows),
    "classes": lambda rows: [["<script>"]] * len(rows),
    "shard": lambda rows: rows["shard"].where(rows.index != rows.index[5], 105),
    "sources": lambda rows: [[1094]] * len(rows),
}


@pytest.mark.parametrize("column", CHANGES)
def test_rows_that_no_plan_of_this_run_has_are_refused_as_they_are_read(
    store: Store, table: pd.DataFrame, column: str
) -> None:
    def groups() -> Iterator[pd.DataFrame]:
        for _, rows in table.groupby(table["shard"] // 10):
            yield rows.assign(**{column: CHANGES[column](rows)})

    store.write_bytes(PATH, grouped(groups(), COLUMNS, ["shard"], notes_of(table)))
    with pytest.raises(
        PlanError, match=rf"plan\.parquet: {column} .* is of no plan of this run; delete the file"
    ):
        list(Plan(store, SETTINGS).columns([column]))


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": {"single": 10**9}},
        {"generated": 10**9},
        {"phrases": -1},
        {"composed": "2"},
        {"more": 1},
    ],
    ids=str,
)
def test_notes_that_do_not_fit_the_rows_are_refused(
    store: Store, table: pd.DataFrame, change: dict[str, Any]
) -> None:
    notes = notes_of(table) | change
    store.write_bytes(PATH, grouped([table], COLUMNS, ["shard"], notes))
    with pytest.raises(PlanError, match=r"plan\.parquet.* delete the file and run again"):
        Plan(store, SETTINGS)


def test_a_plan_whose_footer_does_not_tell_where_its_shards_are_is_refused(
    store: Store, table: pd.DataFrame
) -> None:
    store.write_bytes(PATH, grouped([table], COLUMNS, ["row"], notes_of(table)))
    with pytest.raises(
        StoreError, match=r"plan\.parquet .*does not tell the bounds of column 'shard'.*run again"
    ):
        Plan(store, SETTINGS)


def test_an_empty_plan_is_a_plan(store: Store) -> None:
    store.write_bytes(PATH, stored_plan([]))
    plan = Plan(store, SETTINGS)
    assert (len(plan), plan.generated, plan.composed) == (0, range(0), range(0))
    assert store.read_table(PATH).empty


def test_a_hundred_thousand_shards_fit_into_the_parameters_of_a_flow_run() -> None:
    shards = Shards(generated=range(200_000), composed=range(200_000, 300_000))
    assert len(shards.model_dump_json()) < 100
    assert Shards.model_validate_json(shards.model_dump_json()) == shards
    assert np.array_equal(shards.all, np.arange(300_000))
