"""What goes wrong in a night is named, and takes nothing along."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from infra.settings import Settings, SettingsError
from infra.store import list_versions, read_version, verify_version
from models.generators import pipeline_folder
from tasks.publish.version import NothingKeptError
from tasks.run.failures import NightFailedError
from tasks.run.verify import verify_stored_run
from testbed import nights


def test_a_failing_shard_is_named_and_all_others_are_finished(
    undisturbed: Settings, place: Path
) -> None:
    chosen, obstacle = nights.settings(place), place / "runs/night/select/00004.parquet"
    obstacle.mkdir(parents=True)
    with pytest.raises(NightFailedError) as failure:
        nights.run(chosen)
    told = str(failure.value)
    assert told.startswith("shard 00004: select ")
    assert "00004.parquet" in told
    assert "shard 00000" not in told
    assert told.endswith(
        "Everything finished is in the store: fix the cause and start the run again"
    )
    assert nights.finished(undisturbed) - nights.finished(chosen) == {"runs/night/select/00004"}
    assert list_versions(nights.store_of(chosen)) == []
    obstacle.rmdir()
    assert nights.run(chosen) == {"select": nights.ROWS, "publish-shards": nights.ROWS}
    assert nights.objects(place) == nights.objects(Path(undisturbed.store.url))


def test_a_night_may_publish_without_the_shards_that_failed(
    undisturbed: Settings, place: Path
) -> None:
    chosen, obstacle = (
        nights.settings(place, publish={"partial": True}),
        place / "runs/night/select/00004.parquet",
    )
    obstacle.mkdir(parents=True)
    store, whole = nights.store_of(chosen), nights.version(undisturbed)
    nights.run(chosen)
    (partial,) = list_versions(store)
    manifest = read_version(store, partial.version)
    assert partial.version.startswith(f"{whole}-without-") and manifest.meta["without"] == [4]
    assert {name.partition("-")[0] for name in manifest.shards} == {
        f"{shard:05d}" for shard in range(4)
    }
    assert verify_version(store, partial.version) == []
    obstacle.rmdir()
    nights.run(chosen)
    assert [manifest.version for manifest in list_versions(store)] == [partial.version, whole]


def test_a_run_of_the_same_name_with_other_settings_is_refused(undisturbed: Settings) -> None:
    other = nights.settings(undisturbed.store.url, seed=5, plan={"images": 9})
    with pytest.raises(
        SettingsError, match=r"plan\.images was 8, is 9; seed was 7, is 5.*another name"
    ):
        nights.run(other)


def test_two_nights_published_at_once_by_two_processes_both_survive(
    place: Path, tmp_path: Path
) -> None:
    chosen = [
        nights.settings(place, name=name, seed=seed) for seed, name in enumerate(("red", "green"))
    ]
    processes = [nights.start(each, tmp_path / f"{each.name}.log") for each in chosen]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    store = nights.store_of(chosen[0])
    assert {manifest.version for manifest in list_versions(store)} == {
        nights.version(each) for each in chosen
    }
    for each in chosen:
        assert (
            verify_stored_run(store, each.name) == verify_version(store, nights.version(each)) == []
        )


def test_one_night_run_by_two_processes_at_once_is_one_night(
    undisturbed: Settings, place: Path, tmp_path: Path
) -> None:
    chosen = nights.settings(place)
    processes = [nights.start(chosen, tmp_path / f"{number}.log") for number in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert nights.objects(place) == nights.objects(Path(undisturbed.store.url))


def _broken(folder: Path, file: str, values: dict[str, float]) -> Path:
    """A copy of the embedded pipeline with all numbers of some tensors replaced."""
    shutil.copytree(pipeline_folder("embedded"), folder)
    weights = load_file(folder / file)
    for name, value in values.items():
        weights[name].fill_(value)
    save_file(weights, folder / file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("unet", {"conv_in.bias": math.nan}, "nan"),
        ("vae", {"decoder.conv_out.weight": 0.0, "decoder.conv_out.bias": -1.0}, "black"),
        ("vae", {"decoder.conv_out.weight": 0.0, "decoder.conv_out.bias": 0.0}, "black"),
    ],
    ids=["NaN", "black", "grey"],
)
def test_pictures_of_a_broken_model_are_rejected_and_not_published(
    file: str, values: dict[str, float], reason: str, place: Path, tmp_path: Path
) -> None:
    broken = _broken(tmp_path / "broken", f"{file}/diffusion_pytorch_model.safetensors", values)
    chosen = nights.settings(place, generator={"path": str(broken)})
    with pytest.raises(
        NothingKeptError, match=rf"none of 10 rows was kept \(.*{reason}.*nothing is published"
    ):
        nights.run(chosen)
    _, table = nights.samples(chosen)
    assert set(table.loc[table["kind"] != "composed", "select.reason"]) == {reason}
    assert not table["select.keep"].any()
    assert list_versions(nights.store_of(chosen)) == []


def test_verify_expects_of_each_stage_the_rows_it_has_to_do(
    undisturbed: Settings, place: Path
) -> None:
    shutil.copytree(undisturbed.store.url, place)
    store = nights.store_of(nights.settings(place))
    assert verify_stored_run(store, "night") == []
    for path in sorted(nights.finished(undisturbed)):
        marker = store.read_bytes(f"{path}.json")
        store.delete(f"{path}.json")
        assert [problem.path for problem in verify_stored_run(store, "night")] == [f"{path}.json"]
        store.write_bytes(f"{path}.json", marker)
