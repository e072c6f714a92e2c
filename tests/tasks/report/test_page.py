"""The report of runs in every state: finished, unfinished and damaged."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from infra.settings import Settings
from infra.store import MissingError, Store, publish_version, write_shard
from models.embedded import world
from tasks.report.figures import advice, class_rows, reason_rows, time_rows
from tasks.report.page import write_report
from tasks.report.steps import draw_steps
from tasks.report.stored_run import read_stored_run
from testbed.plans import write_plan

RUN = "demo-run"
SHARD = 8
PROMPT = 'a <script>alert(1)</script> & "red" car'


class Night:
    """A small run of the drawn world, written stage by stage.

    It has 24 generated rows and 4 composed ones, in shards of 8.
    """

    def __init__(self, root: Path) -> None:
        self.store = Store.open(str(root))
        self.settings = Settings(
            name=RUN, _flags=["plan.images=24", "plan.shard_size=8", "compose.images=4"]
        )
        self.drawings = [world.draw(seed) for seed in range(28)]
        self.table = pd.DataFrame([self._row(number) for number in range(28)])

    def _row(self, row: int) -> dict[str, Any]:
        names = list(dict.fromkeys(thing.name for thing in self.drawings[row].scene.objects))[:3]
        kind = {0: "negative", 1: "single"}.get(len(names), "multi")
        background = self.drawings[row].scene.ground
        prompt = f"a photo of {' and '.join(names)} on {background}"
        return {
            "row": row,
            "id": f"{row:08d}",
            "kind": "composed" if row >= 24 else kind,
            "prompt": PROMPT if row == 1 else prompt,
            "classes": names,
            "phrases": names,
            "background": background,
            "seed": row * 7919 % 104729,
            "shard": row // SHARD,
        }

    def plan(self) -> None:
        self.store.write_json(f"runs/{RUN}/settings.json", self.settings.record())
        write_plan(self.store, f"runs/{RUN}/plan.parquet", self.table)

    def stage(self, name: str, shard: int) -> None:
        rows = self.table[self.table["shard"] == shard]
        drawings = [self.drawings[row] for row in rows["row"]]
        arrays, columns = getattr(self, f"_{name}")(drawings, rows)
        table = rows[["row", "id"]].assign(**columns)
        write_shard(
            self.store, f"runs/{RUN}/{name}/{shard:05d}", arrays, table, seconds=2.5 + shard
        )

    def _synthesize(self, drawings: list[world.Drawing], rows: pd.DataFrame) -> Any:
        cross = np.stack(
            [
                attention_of(d, list(names))
                for d, names in zip(drawings, rows["classes"], strict=True)
            ]
        )
        return {
            "image": np.stack([d.image for d in drawings]),
            "cross": cross,
            "attention": cross,
        }, {}

    def _refine(self, drawings: list[world.Drawing], rows: pd.DataFrame) -> Any:
        labels = np.stack([ignored_at_edges(d.label) for d in drawings])
        return {"label": labels}, {"confidence": [0.5 + (row * 7 % 10) / 20 for row in rows["row"]]}

    def _compose(self, drawings: list[world.Drawing], rows: pd.DataFrame) -> Any:
        fields = {
            name: np.stack([getattr(d, name) for d in drawings])
            for name in ("image", "label", "instance")
        }
        return fields, {"confidence": [0.8] * len(rows)}

    def _select(self, drawings: list[world.Drawing], rows: pd.DataFrame) -> Any:
        reasons = [("", "area", "", "confidence", "")[row % 5] for row in rows["row"]]
        return {}, {"keep": [not r for r in reasons], "reason": reasons, "score": [0.5] * len(rows)}

    def all_stages(self) -> None:
        self.plan()
        for shard in range(3):
            self.stage("synthesize", shard)
            self.stage("refine", shard)
        self.stage("compose", 3)
        for shard in range(4):
            self.stage("select", shard)

    def publish(self) -> None:
        version = read_stored_run(self.store, RUN).version
        path = f"versions/{version}/data/00000"
        images = np.stack([d.image for d in self.drawings[:2]])
        write_shard(
            self.store,
            path,
            {"image": images, "label": images[..., 0] * 0},
            pd.DataFrame({"id": ["a", "b"]}),
        )
        publish_version(self.store, version, shards=[path], meta={"run": RUN})

    def train(self) -> None:
        steps = range(20, 2001, 20)
        curve = [
            {
                "step": s,
                "loss": 2.2 * np.exp(-s / 500) + 0.2 + 0.03 * np.sin(s),
                "images_per_second": 31.0,
            }
            for s in steps
        ]
        self.store.write_json(f"runs/{RUN}/training.json", {"curve": curve})
        iou = {c["name"]: 0.95 - 0.07 * c["id"] for c in world.vocabulary()["classes"]} | {
            "background": 0.97,
            "bird": None,
        }
        evaluation = {"set": "drawn scenes", "images": 500, "miou": 0.612, "iou": iou}
        self.store.write_json(f"runs/{RUN}/evaluation.json", evaluation)
        car = {"what": "class", "name": "car", "weight": 0.8, "missing": 0.12, "kept": 0.6}
        snow = {"what": "backgrounds", "name": "snow", "weight": 1.35, "missing": 1.7}
        long = {"what": "subclasses of bus", "name": "long", "weight": 1.1, "measured": 3}
        self.store.write_json(f"runs/{RUN}/budget.json", {"rows": [car, snow, long]})

    def page(self) -> str:
        return self.store.read_bytes(write_report(self.store, RUN)).decode()


def attention_of(drawing: world.Drawing, names: list[str]) -> np.ndarray[Any, Any]:
    """Return three maps (3, 16, 16) of at most three words: each object's mask, blurred."""
    ids = {c["name"]: c["id"] for c in world.vocabulary()["classes"]}
    masks = [drawing.label == ids[name] for name in names]
    maps = np.zeros((3, 16, 16), np.float16)
    for number, mask in enumerate(masks):
        maps[number] = ndimage.gaussian_filter(mask.astype(np.float32), 8)[4::8, 4::8]
    return maps


def ignored_at_edges(label: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(
        ndimage.maximum_filter(label, 3) != ndimage.minimum_filter(label, 3), 255, label
    ).astype(np.uint8)


class Reader(HTMLParser):
    """Collects tags, URLs and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "srcset", "data", "xlink:href")
        ]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Night:
    night = Night(tmp_path_factory.mktemp("store"))
    night.all_stages()
    night.publish()
    night.train()
    return night


@pytest.fixture(scope="module")
def page(finished: Night) -> str:
    return finished.page()


def test_a_finished_run_shows_every_section_and_its_figures(page: str) -> None:
    text = Reader(page).text
    kept = sum(row % 5 not in (1, 3) for row in range(28))
    for expected in (
        f"{kept} of 28 planned",
        "61.2 %",
        f"{RUN}-",
        "area",
        "confidence",
        "Composed scenes",
        "car 0.80 12.0 % — 60.0 %",  # weight in the next run, and what led to it
        "background snow 1.35 1.70 times — — 0 kind of bus long 1.10 — — — 3",
        "2 000",
    ):
        assert expected.replace(" ", "") in re.sub(r"\s", "", text)
    assert "not run" not in text
    assert page.count("<polyline") == 1 and "31 images per second" in text


def test_the_steps_from_attention_to_label_are_shown(night: Night, page: str) -> None:
    assert "From attention to label" in page and "split by colour" in page
    night.plan()
    night.stage("synthesize", 0)
    samples = read_stored_run(night.store, RUN).counts.picked.head(8)
    (sample, cell), *_ = draw_steps(night.store, read_stored_run(night.store, RUN), samples)
    assert len(cell.tiles) == 7 and len({tile.shape for tile in cell.tiles}) == 1
    found, grown = (tile[..., 0].astype(int) for tile in cell.tiles[3:5])
    assert len(sample["classes"]) and np.ptp(found) > 100 and np.ptp(grown) > 100


def test_a_labeller_s_label_has_no_steps_between_attention_and_itself(night: Night) -> None:
    labeller = {"kind": "clipseg", "path": "/models/clipseg"}
    night.settings = Settings(
        name=RUN,
        _flags=["plan.images=24", "plan.shard_size=8", "compose.images=4"],
        refine={"method": "labeller", "labellers": [labeller]},
    )
    night.plan()
    for stage in ("synthesize", "refine", "select"):
        night.stage(stage, 0)
    stored = read_stored_run(night.store, RUN)
    (_, cell), *_ = draw_steps(night.store, stored, stored.counts.picked.head(8))
    assert len(cell.tiles) == 4  # image, both maps of attention, label
    page = night.page()
    assert "label, as the labeller found it" in page and "split by colour" not in page


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    reader = Reader(page)
    assert reader.urls and all(url.startswith("data:") for url in reader.urls)
    assert not {"script", "iframe", "object", "embed"} & set(reader.tags)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_the_page_stays_under_three_megabytes(page: str) -> None:
    assert len(page.encode()) < 3_000_000


def test_prompts_and_class_names_are_escaped(night: Night) -> None:
    night.table["classes"] = [["<b>car</b>"]] * 28
    night.table["phrases"] = night.table["classes"]
    write_plan(night.store, f"runs/{RUN}/plan.parquet", night.table)
    write_shard(
        night.store,
        f"runs/{RUN}/synthesize/00000",
        {"image": np.zeros((8, 32, 32, 3), np.uint8)},
        night.table[:8][["row", "id"]],
    )
    page = night.page()
    assert "<script" not in page and "<b>car" not in page
    assert "&lt;script&gt;" in page and "&lt;b&gt;car" in page


def test_the_versions_of_a_training_on_several_are_named(night: Night) -> None:
    night.plan()
    night.train()
    path = f"runs/{RUN}/training.json"
    training = night.store.read_json(path)
    listed = [{"name": f"night-{number}", "digest": "0" * 64} for number in (2, 1)]
    assert "It learned from" not in Reader(night.page()).text
    night.store.write_json(path, training | {"samples": 1234, "versions": listed})
    text = re.sub(r"\s", " ", Reader(night.page()).text)
    assert "learned from 1 234 samples of 2 versions: night-2, night-1." in text


@pytest.mark.parametrize("stages", range(6))
def test_a_missing_stage_is_named_and_never_a_crash(night: Night, stages: int) -> None:
    night.store.write_json(f"runs/{RUN}/settings.json", night.settings.record())
    steps = [
        night.plan,
        lambda: [cast(Any, night).stage("synthesize", shard) for shard in range(3)],
        lambda: [cast(Any, night).stage("refine", shard) for shard in range(3)],
        lambda: night.stage("compose", 3),
        lambda: [cast(Any, night).stage("select", shard) for shard in range(4)],
    ]
    for step in steps[:stages]:
        step()
    text = Reader(night.page()).text
    for name, wanted in (
        ("synthesize", 2),
        ("compose", 4),
        ("select", 5),
        ("evaluate", 9),
        ("train", 9),
    ):
        assert (f"{name}: not run" in text) == (
            stages < wanted and (name != "compose" or stages > 0)
        ), name


def test_an_unfinished_run_names_the_command_that_finishes_it(night: Night) -> None:
    night.plan()
    night.stage("synthesize", 0)
    said = list(advice(read_stored_run(night.store, RUN)))
    assert said[0][1] == "segmint run" and "synthesize" in said[0][0]


def test_a_shard_without_its_marker_does_not_count(night: Night) -> None:
    night.plan()
    night.stage("synthesize", 0)
    night.stage("synthesize", 1)
    night.store.delete(f"runs/{RUN}/synthesize/00001.json")
    assert read_stored_run(night.store, RUN).stages["synthesize"].rows == SHARD


def test_damaged_files_are_named_and_the_rest_is_shown(night: Night) -> None:
    night.all_stages()
    night.store.write_bytes(f"runs/{RUN}/refine/00001.parquet", b"damaged")
    folder = Path(night.store.url, "runs", RUN, "synthesize", "00000.zarr", "image")
    [images] = [
        path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000
    ]
    images.write_bytes(images.read_bytes()[:4000] + b"\xff" * 4000 + images.read_bytes()[8000:])
    page = night.page()
    damaged = page.partition("Damaged: ")[2].partition("</p>")[0]
    assert (
        f"runs/{RUN}/refine/00001.parquet" in damaged and f"runs/{RUN}/synthesize/00000" in damaged
    )
    assert f"segmint verify {RUN}" in damaged


def test_equal_stores_give_equal_pages(finished: Night, page: str) -> None:
    assert finished.page() == page


def test_an_unknown_run_is_an_error_that_names_the_existing_ones(finished: Night) -> None:
    with pytest.raises(MissingError, match=RUN):
        write_report(finished.store, "other")


def test_class_rows_count_a_sample_for_each_of_its_classes(finished: Night) -> None:
    rows = {row["name"]: row for row in class_rows(read_stored_run(finished.store, RUN))}
    for name in ("car", "fish"):
        named = [
            row
            for row, names in zip(finished.table["row"], finished.table["classes"], strict=True)
            if name in names
        ]
        assert rows[name]["counts"].planned == rows[name]["counts"].made == len(named)
        assert rows[name]["counts"].kept == sum(row % 5 not in (1, 3) for row in named)
    assert rows["bird"]["iou"] is None and rows["car"]["iou"] == pytest.approx(0.88)


def test_reasons_add_up_to_the_rejections(finished: Night) -> None:
    stored = read_stored_run(finished.store, RUN)
    reasons = {reason: number for reason, number, _ in reason_rows(stored.counts)}
    assert reasons == {"area": 6, "confidence": 5}


def test_times_are_the_markers_own(finished: Night) -> None:
    rows = {row["stage"]: row for row in time_rows(read_stored_run(finished.store, RUN))}
    assert rows["synthesize"]["seconds"] == pytest.approx(2.5 + 3.5 + 4.5)
    assert rows["synthesize"]["rate"] == pytest.approx(24 / 10.5)
    assert rows["compose"]["shards"] == rows["compose"]["planned"] == 1


def test_the_time_table_has_the_stages_of_noise_learning(night: Night) -> None:
    night.settings = Settings(name=RUN, _flags=["select.folds=2", "compose.images=4"])
    night.all_stages()
    table = night.table[:8][["row", "id"]]
    for stage, seconds in (("screen", 1.5), ("hold-out", 4.0)):
        write_shard(night.store, f"runs/{RUN}/{stage}/00000", {}, table, seconds=seconds)
    version = read_stored_run(night.store, RUN).version
    network = {"seconds": 20.0, "recipe": {"steps": 10, "batch_size": 4}}
    night.store.write_json(f"checkpoints/{version}-fold-0/meta.json", network)
    rows = {row["stage"]: row for row in time_rows(read_stored_run(night.store, RUN))}
    names = ["synthesize", "refine", "screen", "learn-fold", "hold-out", "select", "compose"]
    assert list(rows) == names
    assert (rows["screen"]["seconds"], rows["hold-out"]["seconds"]) == (1.5, 4.0)
    assert (rows["screen"]["shards"], rows["screen"]["planned"]) == (1, 3)
    trained = rows["learn-fold"]
    assert (trained["shards"], trained["planned"], trained["rows"]) == (1, 2, 40)
    assert (trained["seconds"], trained["rate"]) == (20.0, 2.0)
    missing = next(text for text, _ in advice(read_stored_run(night.store, RUN)))
    assert missing.startswith("Unfinished: screen, learn-fold, hold-out.")


def test_a_stage_that_has_not_run_is_not_called_damaged(night: Night) -> None:
    night.settings = Settings(name=RUN, _flags=["select.folds=2", "compose.images=4"])
    night.all_stages()
    page = night.page()
    assert "prediction of a network that was not trained on the sample" in page
    assert "Damaged" not in page and "Unfinished: screen, learn-fold, hold-out." in page


def test_stages_that_a_run_does_not_have_are_not_in_the_time_table(finished: Night) -> None:
    rows = [row["stage"] for row in time_rows(read_stored_run(finished.store, RUN))]
    assert rows == ["synthesize", "refine", "select", "compose"]


def test_secrets_are_not_on_the_page(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    night.plan()
    assert "very-secret-value" not in night.page()
