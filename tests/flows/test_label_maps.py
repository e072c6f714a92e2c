"""Nights of label maps: a SemFlow draws them, and reads its own masks back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.settings import Settings, SettingsError
from infra.store import SegmentationDataset, read_shard, read_version
from models.segmenters import build_segmenter
from tasks.plan.prepare import prepare
from tasks.publish.version import NothingKeptError
from tasks.report.examples import draw_cells
from tasks.report.page import render
from tasks.report.stored_run import read_stored_run
from tasks.run.failures import NightFailedError
from tasks.run.verify import verify_stored_run
from testbed import nights
from tests.tasks.drawing import (
    CLASSES,
    COUNT,
    label_map,
    publish_maps,
    settings,
    store_checkpoint,
    tiny_flow,
    voc_maps,
)

SHARDS = range(3)  # of generated rows


def drawing(folder: Path, **sections: Any) -> Settings:
    """Settings of a small run in a store with a flow and label maps."""
    chosen = settings(str(folder), **sections)
    store = nights.store_of(chosen)
    if not store.exists("checkpoints/flow/meta.json"):
        store_checkpoint(store, "flow")
        publish_maps(store, instances=True)
    return chosen


def published(chosen: Settings) -> list[dict[str, Any]]:
    samples = SegmentationDataset(chosen.store.url, nights.version(chosen))
    return [samples[index] for index in range(len(samples))]


def test_the_given_label_maps_are_published_with_their_images(folder: Path) -> None:
    chosen = drawing(folder)
    worked = nights.run(chosen)
    assert (worked["synthesize"], worked["refine"], worked["select"]) == (8, 8, 8)
    store = nights.store_of(chosen)
    samples = published(chosen)
    plan = store.read_table("runs/night/plan.parquet")
    assert [each["id"] for each in samples] == plan["id"].tolist()
    for sample, [number] in zip(samples, plan["sources"], strict=True):
        np.testing.assert_array_equal(sample["label"], label_map(number))
        assert sample["image"].float().std() > 1
    images = {sample["image"].numpy().tobytes() for sample in samples}
    assert len(images) == 8 > COUNT  # the same map twice is two images
    paths = read_version(store, nights.version(chosen)).paths
    instances = np.concatenate([read_shard(store, p, ["instance"])[0]["instance"] for p in paths])
    for instance, [number] in zip(instances, plan["sources"], strict=True):
        assert (9 in instance) == (number == 4)  # the only car in a shard with instances
    assert verify_stored_run(store, "night") == []
    assert nights.run(chosen) == {}  # all of it is in the store


def test_card_and_manifest_say_what_the_images_were_drawn_from(folder: Path) -> None:
    chosen = drawing(folder)
    nights.run(chosen)
    store = nights.store_of(chosen)
    manifest = read_version(store, nights.version(chosen))
    drawn = manifest.meta["drawn"]
    assert drawn["labels_digest"] == read_version(store, "maps").digest
    assert (drawn["checkpoint"], drawn["labels"], drawn["layouts"]) == ("flow", "maps", "given")
    (path,) = (name for name in manifest.files if name.startswith("card"))
    card = store.read_bytes(f"versions/{manifest.version}/{path}").decode()
    assert drawn["labels_digest"] in card and drawn["weights"] in card and "attention" not in card


def test_images_whose_mask_does_not_come_back_are_rejected(folder: Path) -> None:
    chosen = drawing(folder, select={"min_confidence": 0.65})
    with pytest.raises(NothingKeptError, match=r"none of 8 rows was kept \(8 confidence\)"):
        nights.run(chosen)  # the flow's weights are random


def test_a_resumed_run_leaves_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    chosen = drawing(folder)
    obstacle = folder / "runs/night/synthesize/00001.parquet"
    obstacle.mkdir(parents=True)
    with pytest.raises(NightFailedError, match="shard 00001: synthesize "):
        nights.run(chosen)
    obstacle.rmdir()
    nights.run(chosen)
    other = drawing(tmp_path / "other" / "store")
    nights.run(other)
    ours, theirs = nights.objects(folder), nights.objects(Path(other.store.url))
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []


@pytest.mark.parametrize("changes", [{"plan": {"shard_size": 8}}, {"compute": {"workers": 2}}])
def test_samples_are_the_same_for_any_shard_size_and_workers(
    changes: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    ours = drawing(folder, generator={"batch_size": 1}, **changes)
    theirs = drawing(tmp_path / "other" / "store", generator={"batch_size": 1})
    nights.run(ours)
    nights.run(theirs)
    for one, other in zip(published(ours), published(theirs), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])


def test_layouts_and_scenes_are_composed_of_the_label_maps(folder: Path) -> None:
    layouts = drawing(folder, name="layouts", generator={"layouts": "composed"})
    nights.run(layouts)
    labels = [sample["label"].numpy() for sample in published(layouts)]
    given = {label_map(number).tobytes() for number in range(COUNT)}
    assert not given & {label.tobytes() for label in labels}
    scenes = drawing(folder, name="scenes", compose={"images": 2, "spliced": 0.0})
    assert nights.run(scenes)["compose"] == 2
    assert len(published(scenes)) == 10


def test_a_folder_s_maps_are_drawn_at_the_size_of_the_settings(folder: Path) -> None:
    voc = voc_maps(folder.parent / "voc", [label_map(0), label_map(1, side=80)])
    size = {"height": 72, "width": 64}
    chosen = drawing(folder, generator={"labels": str(voc), **size}, plan={"images": 2})
    nights.run(chosen)
    for sample in published(chosen):
        assert sample["image"].shape == (3, 72, 64) and sample["label"].shape == (72, 64)


def test_the_report_shows_the_mask_that_was_read_back(folder: Path) -> None:
    chosen = drawing(folder)
    nights.run(chosen)
    store = nights.store_of(chosen)
    stored = read_stored_run(store, "night")
    assert "image, label and the mask that was read back" in render(store, stored)
    cells = list(draw_cells(store, stored, stored.counts.picked))
    assert cells and {"car", "bus", "car, bus"} >= {cell.caption for cell in cells} - {""}
    for cell in cells:
        image, label, read = cell.tiles
        assert image.shape == label.shape == read.shape
        assert not np.array_equal(label, read) and not np.array_equal(image, read)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"generator": {"path": "semflow:none"}}, r"no finished checkpoint 'none' .* are: flow"),
        ({"generator": {"path": "semflow:"}}, r"checkpoint '' is no name"),
        ({"generator": {"path": "semflow:other"}}, r"is a EncoderDecoder, .* train\.model = 'sem"),
        ({"generator": {"labels": "none"}}, r"no version 'none' .* there are: maps; .* \./none"),
        ({"generator": {"weights": "ab12"}}, r"weights is ab12, but the digest of .* flow is"),
        ({"generator": {"labels_digest": "ab12"}}, r"labels_digest is ab12, but the digest of 'ma"),
        ({"classes": ["car", "tree"]}, r"has the classes background, car, bus, and the vocabulary"),
        ({"generator": {"labels": None}}, r"generator\.labels is not set; give the label maps"),
        ({"plan": {"budget": {"car": 2.0}}}, r"plan\.budget = .*no effect on .*semflow:flow"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_an_error_before_anything_is(
    sections: dict[str, Any], message: str, folder: Path
) -> None:
    chosen = drawing(folder, **sections)
    store_checkpoint(nights.store_of(chosen), "other", build_segmenter("segformer", CLASSES))
    with pytest.raises(SettingsError, match=message):
        prepare.fn(chosen)
    assert not nights.store_of(chosen).exists("runs/night/settings.json")


def test_another_flow_or_other_maps_are_another_run(folder: Path) -> None:
    chosen = drawing(folder)
    resolved, _ = prepare.fn(chosen)
    assert prepare.fn(chosen)[0].identity == resolved.identity
    store = nights.store_of(chosen)
    other = copy.deepcopy(tiny_flow())
    other.network.get_buffer("text").add_(1)
    store_checkpoint(store, "flow", other)
    with pytest.raises(SettingsError, match=r"generator\.weights was '.*', is '"):
        prepare.fn(chosen)
    publish_maps(store, "more")
    with pytest.raises(SettingsError, match=r"generator\.labels(_digest)? was"):
        prepare.fn(drawing(folder, generator={"labels": "more"}))
