"""`segmint runs`, `show` and `checkpoints` list everything in a store, damaged entries included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from infra.store import Store, publish_version, write_shard
from segmint.cli import ENVIRONMENT, QUIET, app
from tasks.plan.table import stored_plan

IDENTITY = "0123abcd" * 8
VERSION = "nightly-0123abcd"
CHECKPOINT = f"{VERSION}-89abcdef"
WEIGHTS = "f" * 64
LONG = "a-name-that-is-longer-than-any-terminal-is-wide-" * 4 + "end"


class Shell:
    """Runs a command line on a store; keeps what it printed."""

    def __init__(self, store: Store, capture: pytest.CaptureFixture[str]) -> None:
        self.store = store
        self._capture = capture

    def __call__(self, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app([*words, "--set", f"store.url={self.store.url}"])
        printed = self._capture.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    def json(self, *words: str) -> Any:
        """Return the one JSON document that a command prints."""
        code, out, _ = self(*words, "--json")
        assert code == 0
        return json.loads(out)

    def rows(self, command: str) -> dict[str, list[str]]:
        """Return the rows of a piped table, by each of their cells."""
        _, out, _ = self(command)
        lines = [line.split("\t") for line in out.splitlines()[2:]]
        return {cell: line for line in lines for cell in line}


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shell]:
    for name, value in {**ENVIRONMENT, **QUIET}.items():
        monkeypatch.setenv(name, value)
    yield Shell(Store.open(str(tmp_path / "store")), capsys)


def write_run(store: Store, name: str, identity: str = IDENTITY) -> None:
    """Settings and plan of a run of three rows in one shard."""
    settings = {
        "seed": 7,
        "vocabulary": "world",
        "generator": {"path": "embedded", "weights": WEIGHTS, "num_inference_steps": 25},
    }
    store.write_json(
        f"runs/{name}/settings.json",
        {"identity": identity, "settings": settings, "sample_settings": {}},
    )
    plan = {
        "row": range(3),
        "id": ["a", "b", "c"],
        "kind": ["single"] * 3,
        "prompt": ["a red car"] * 3,
        "classes": [["car"]] * 3,
        "phrases": [["car"]] * 3,
        "background": ["sand"] * 3,
        "sources": [[]] * 3,
        "seed": range(3),
        "shard": [0] * 3,
    }
    store.write_bytes(f"runs/{name}/plan.parquet", stored_plan([pd.DataFrame(plan)]))


def write_verdicts(store: Store, run: str, kept: int) -> None:
    """The shard of `select`, of which `kept` of three rows are kept."""
    table = pd.DataFrame({"id": ["a", "b", "c"]})
    write_shard(store, f"runs/{run}/select/00000", {}, table, {"kept": kept})


def publish(
    store: Store, version: str = VERSION, run: str = "nightly", **more: dict[str, str]
) -> None:
    """A version of two samples that show a car, one of them a bus too."""
    shard = f"versions/{version}/data/00000"
    arrays: dict[str, Any] = {
        "image": np.ones((2, 4, 4, 3), np.uint8),
        "label": np.zeros((2, 4, 4), np.uint8),
    }
    table = {"id": ["a", "b"], "kind": ["single", "multi"], "classes": [["car"], ["car", "bus"]]}
    write_shard(store, shard, arrays, pd.DataFrame(table))
    meta = {"run": run, "identity": IDENTITY, "classes": {"car": 1, "bus": 2}, "planned": 3}
    publish_version(store, version, shards=[shard], meta=meta | more)


def write_checkpoint(store: Store, name: str = CHECKPOINT, **changes: Any) -> None:
    """A finished checkpoint with one evaluation; its weights are not read by any command."""
    meta = {
        "checkpoint": name,
        "version": VERSION,
        "manifest": "0" * 64,
        "files": {},
        "classes": ["background", "car", "bus"],
        "recipe": {"config": "segformer-b0"},
    }
    store.write_json(f"checkpoints/{name}/meta.json", meta | changes)
    evaluation = {"set": "200 drawn scenes", "images": 200, "miou": 0.645, "iou": {"car": 0.6}}
    store.write_json(f"checkpoints/{name}/evaluations/0.json", evaluation | {"fingerprint": "0"})


def crown(store: Store, name: str) -> None:
    """Make a checkpoint the champion."""
    evaluation = {"set": "drawn", "fingerprint": "0", "miou": 0.6, "iou": {}}
    champion = {"checkpoint": name, "version": VERSION, "evaluation": evaluation}
    store.write_json("champions/00000001.json", champion)


# runs


def test_a_run_is_listed_with_its_rows_and_its_version(shell: Shell) -> None:
    write_run(shell.store, "nightly")
    write_verdicts(shell.store, "nightly", kept=2)
    publish(shell.store)
    (run,) = shell.json("runs")["runs"]
    dates = run.pop("created"), run.pop("changed")
    assert run == {
        "name": "nightly",
        "identity": IDENTITY,
        "planned": 3,
        "kept": 2,
        "version": VERSION,
        "damaged": [],
    }
    assert dates[0] <= dates[1]
    assert all(date.endswith("+00:00") for date in dates)


def test_an_unpublished_run_counts_what_is_kept_so_far(shell: Shell) -> None:
    write_run(shell.store, "begun")
    write_run(shell.store, "halfway")
    write_verdicts(shell.store, "halfway", kept=1)
    counted = {run["name"]: run["kept"] for run in shell.json("runs")["runs"]}
    assert counted == {"begun": None, "halfway": 1}
    assert shell.rows("runs")["halfway"][4:] == ["3", "1", "-"]


def test_an_empty_store_says_what_makes_an_entry(shell: Shell) -> None:
    assert "`segmint run` starts one" in shell("runs")[1]
    assert "`segmint train` makes one" in shell("checkpoints")[1]
    assert shell.json("runs") == {"runs": [], "damaged": []}
    assert shell.json("checkpoints") == {"checkpoints": [], "damaged": []}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("settings.json", b"{"),
        ("settings.json", b'{"identity": 3}'),
        ("settings.json", None),
        ("plan.parquet", b"no table"),
        ("plan.parquet", b""),
        ("select/00000.json", b'{"format": 99}'),
    ],
)
def test_a_damaged_run_is_listed_as_damaged_and_hides_no_other(
    shell: Shell, file: str, content: bytes | None
) -> None:
    for name in ("sound", "torn"):
        write_run(shell.store, name)
        write_verdicts(shell.store, name, kept=2)
    path = Path(shell.store.url) / "runs/torn" / file
    path.write_bytes(content) if content is not None else path.unlink()
    sound, torn = shell.json("runs")["runs"]
    assert (sound["kept"], sound["planned"], sound["damaged"]) == (2, 3, [])
    assert torn["name"] == "torn"
    (fault,) = torn["damaged"]
    assert f"runs/torn/{file.removesuffix('.json')}" in fault
    code, out, err = shell("runs")
    assert code == 0
    assert "sound" in out
    assert all(f"damaged: {fault}" in err for fault in torn["damaged"])


@pytest.mark.parametrize("name", [".hidden", "two words", "e\x1b[31mred", "ünicode", "-rf"])
def test_a_strange_name_among_the_runs_is_listed_and_harmless(shell: Shell, name: str) -> None:
    write_run(shell.store, "sound")
    folder = Path(shell.store.url) / "runs" / name
    folder.mkdir()
    (folder / "settings.json").write_text("{}")
    listed = {run["name"]: run["damaged"] for run in shell.json("runs")["runs"]}
    assert listed.pop("sound") == []
    assert all(faults for faults in listed.values())
    code, out, err = shell("runs")
    assert code == 0
    assert "\x1b" not in out + err


def test_a_file_among_the_runs_is_listed_as_damaged(shell: Shell) -> None:
    write_run(shell.store, "sound")
    (Path(shell.store.url) / "runs/notes.txt").write_text("remember the milk")
    notes, sound = shell.json("runs")["runs"]
    assert notes["damaged"]
    assert not sound["damaged"]


def test_a_damaged_publication_does_not_hide_the_runs(shell: Shell) -> None:
    write_run(shell.store, "nightly")
    publish(shell.store)
    manifest = Path(shell.store.url) / f"versions/{VERSION}/manifest.json"
    manifest.write_text('{"format": 99}')
    found = shell.json("runs")
    assert [run["name"] for run in found["runs"]] == ["nightly"]


def test_names_are_whole_when_the_output_is_piped(shell: Shell) -> None:
    write_run(shell.store, LONG)
    write_checkpoint(shell.store, LONG)
    assert shell.rows("runs")[LONG][0] == LONG
    assert shell.rows("checkpoints")[LONG][1] == LONG


# show


def test_a_version_shows_counts_classes_size_and_where_it_comes_from(shell: Shell) -> None:
    write_run(shell.store, "nightly")
    publish(shell.store)
    found = shell.json("show", VERSION)
    size = sum(
        path.stat().st_size
        for path in (Path(shell.store.url) / "versions" / VERSION).rglob("*")
        if path.is_file()
    )
    assert (found["version"], found["number"], found["samples"], found["shards"]) == (
        VERSION,
        1,
        2,
        1,
    )
    assert found["bytes"] == size
    assert found["kinds"] == {"single": 1, "multi": 1}
    assert found["classes"] == [
        {"name": "car", "id": 1, "images": 2},
        {"name": "bus", "id": 2, "images": 1},
    ]
    lineage = found["lineage"]
    assert (lineage["run"], lineage["identity"], lineage["planned"]) == ("nightly", IDENTITY, 3)
    assert (lineage["seed"], lineage["vocabulary"]) == (7, "world")
    assert (lineage["generator"], lineage["weights_sha256"]) == ("embedded", WEIGHTS)
    assert found["damaged"] == []


def test_lineage_names_the_label_maps_that_images_were_drawn_from(shell: Shell) -> None:
    write_run(shell.store, "nightly")
    publish(shell.store, drawn={"labels": "maps", "labels_digest": "ab12", "checkpoint": "flow"})
    lineage = shell.json("show", VERSION)["lineage"]
    assert (lineage["label_maps"], lineage["label_maps_sha256"]) == ("maps", "ab12")
    assert "label maps sha256" in shell("show", VERSION)[1]


def test_a_version_on_the_terminal_names_the_same_figures(shell: Shell) -> None:
    write_run(shell.store, "nightly")
    publish(shell.store)
    _, out, err = shell("show", VERSION)
    assert not err
    for expected in (VERSION, "2 in 1 shards", WEIGHTS, "nightly", "1\tcar\t2", "2\tbus\t1"):
        assert expected in out


@pytest.mark.parametrize(
    ("identity", "note"), [(None, "was deleted"), ("9" * 64, "other settings")]
)
def test_lineage_is_not_taken_from_another_run(
    shell: Shell, identity: str | None, note: str
) -> None:
    if identity:
        write_run(shell.store, "nightly", identity)
    publish(shell.store)
    lineage = shell.json("show", VERSION)["lineage"]
    assert note in lineage["note"]
    assert "weights_sha256" not in lineage


def test_an_unreadable_table_is_named_and_the_rest_is_shown(shell: Shell) -> None:
    publish(shell.store)
    (Path(shell.store.url) / f"versions/{VERSION}/data/00000.parquet").write_bytes(b"torn")
    found = shell.json("show", VERSION)
    assert found["samples"] == 2
    assert [each["images"] for each in found["classes"]] == [0, 0]
    assert "00000.parquet" in found["damaged"][0]


def test_an_unknown_version_lists_those_that_exist(shell: Shell) -> None:
    publish(shell.store)
    code, out, err = shell("show", "nowhere")
    assert (code, out) == (2, "")
    assert VERSION in err


# checkpoints


def test_a_checkpoint_is_listed_with_its_mean_iou_and_the_set(shell: Shell) -> None:
    write_checkpoint(shell.store)
    write_checkpoint(shell.store, f"{VERSION}-00000000", recipe={"config": "mask2former"})
    crown(shell.store, CHECKPOINT)
    other, champion = shell.json("checkpoints")["checkpoints"]
    assert champion == {
        "name": CHECKPOINT,
        "version": VERSION,
        "versions": [VERSION],
        "model": "segformer-b0",
        "state": "finished",
        "champion": True,
        "evaluations": [{"set": "200 drawn scenes", "images": 200, "miou": 0.645}],
        "damaged": [],
    }
    assert (other["model"], other["champion"]) == ("mask2former", False)
    row = shell.rows("checkpoints")[CHECKPOINT]
    assert (row[0], row[-2:]) == ("*", ["0.645", "200 drawn scenes"])


def test_a_checkpoint_of_several_versions_lists_them_all(shell: Shell) -> None:
    names = [VERSION, "night-1", "night-2"]
    listed = [{"name": name, "digest": "0" * 64} for name in names]
    write_checkpoint(shell.store, versions=listed)
    assert shell.json("checkpoints")["checkpoints"][0]["versions"] == names
    assert shell.rows("checkpoints")[CHECKPOINT][2] == f"{VERSION} and 2 more"


def test_unfinished_trainings_and_folds_are_told_from_checkpoints(shell: Shell) -> None:
    shell.store.write_bytes(f"checkpoints/{CHECKPOINT}/snapshot.safetensors", b"half")
    fold = {"files": {}, "classes": ["background", "car"], "recipe": {"config": "segformer"}}
    shell.store.write_json(f"checkpoints/{VERSION}-fold-0/meta.json", fold)
    states = {each["name"]: each["state"] for each in shell.json("checkpoints")["checkpoints"]}
    assert states == {CHECKPOINT: "unfinished", f"{VERSION}-fold-0": "fold"}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (f"checkpoints/{CHECKPOINT}/meta.json", b"torn"),
        (f"checkpoints/{CHECKPOINT}/meta.json", b"[]"),
        (f"checkpoints/{CHECKPOINT}/meta.json", b'{"files": {}, "classes": [], "recipe": 3}'),
        (f"checkpoints/{CHECKPOINT}/evaluations/0.json", b'{"miou": "high"}'),
        ("champions/00000001.json", b"{}"),
    ],
)
def test_a_damaged_checkpoint_is_listed_as_damaged_and_hides_no_other(
    shell: Shell, path: str, content: bytes
) -> None:
    write_checkpoint(shell.store, f"{VERSION}-00000000")
    write_checkpoint(shell.store)
    crown(shell.store, CHECKPOINT)
    (Path(shell.store.url) / path).write_bytes(content)
    found = shell.json("checkpoints")
    sound, torn = found["checkpoints"]
    assert sound["evaluations"]
    assert not sound["damaged"]
    assert torn["name"] == CHECKPOINT
    (fault,) = cast(list[str], [*torn["damaged"], *found["damaged"]])
    assert path in fault
    assert f"damaged: {fault}" in shell("checkpoints")[2]
