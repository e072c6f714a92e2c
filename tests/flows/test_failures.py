"""A failure in a run is named, and affects nothing else."""

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
    undisturbed: Settings, folder: Path
) -> None:
    chosen = nights.settings(folder)
    obstacle = folder / "runs/night/select/00004.parquet"
    obstacle.mkdir(parents=True)
    with pytest.raises(NightFailedError) as failure:
        nights.run(chosen)
    message = str(failure.value)
    assert message.startswith("shard 00004: select ")
    assert "00004.parquet" in message
    assert "shard 00000" not in message
    assert message.endswith(
        "Everything finished is in the store: fix the cause and start the run again"
    )
    assert nights.finished(undisturbed) - nights.finished(chosen) == {"runs/night/select/00004"}
    assert list_versions(nights.store_of(chosen)) == []
    obstacle.rmdir()
    assert nights.run(chosen) == {"select": nights.ROWS, "publish-shards": nights.ROWS}
    assert nights.objects(folder) == nights.objects(Path(undisturbed.store.url))


def test_a_partial_run_publishes_without_the_shards_that_failed(
    undisturbed: Settings, folder: Path
) -> None:
    chosen = nights.settings(folder, publish={"partial": True})
    obstacle = folder / "runs/night/select/00004.parquet"
    obstacle.mkdir(parents=True)
    store, whole = nights.store_of(chosen), nights.version(undisturbed)
    nights.run(chosen)
    (partial,) = list_versions(store)
    manifest = read_version(store, partial.version)
    assert partial.version.startswith(f"{whole}-without-") and manifest.meta["without"] == [4]
    shards = {name.partition("-")[0] for name in manifest.shards}
    assert shards == {f"{shard:05d}" for shard in range(4)}
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


def test_two_runs_that_publish_at_once_both_survive(folder: Path, tmp_path: Path) -> None:
    names = enumerate(("red", "green"))
    chosen = [nights.settings(folder, name=name, seed=seed) for seed, name in names]
    processes = [nights.start(each, tmp_path / f"{each.name}.log") for each in chosen]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    store = nights.store_of(chosen[0])
    published = {manifest.version for manifest in list_versions(store)}
    assert published == {nights.version(each) for each in chosen}
    for each in chosen:
        assert verify_stored_run(store, each.name) == []
        assert verify_version(store, nights.version(each)) == []


def test_two_processes_that_run_the_same_run_at_once_leave_the_same_bytes(
    undisturbed: Settings, folder: Path, tmp_path: Path
) -> None:
    chosen = nights.settings(folder)
    processes = [nights.start(chosen, tmp_path / f"{number}.log") for number in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert nights.objects(folder) == nights.objects(Path(undisturbed.store.url))


def _broken(folder: Path, file: str, values: dict[str, float]) -> Path:
    """Copy the embedded pipeline and set all numbers of some tensors to a value."""
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
def test_images_of_a_broken_model_are_rejected_and_not_published(
    file: str, values: dict[str, float], reason: str, folder: Path, tmp_path: Path
) -> None:
    broken = _broken(tmp_path / "broken", f"{file}/diffusion_pytorch_model.safetensors", values)
    chosen = nights.settings(folder, generator={"path": str(broken)})
    with pytest.raises(
        NothingKeptError, match=rf"none of 10 rows was kept \(.*{reason}.*nothing is published"
    ):
        nights.run(chosen)
    _, table = nights.samples(chosen)
    assert set(table.loc[table["kind"] != "composed", "select.reason"]) == {reason}
    assert not table["select.keep"].any()
    assert list_versions(nights.store_of(chosen)) == []


def test_verify_finds_each_missing_shard_of_each_stage(undisturbed: Settings, folder: Path) -> None:
    shutil.copytree(undisturbed.store.url, folder)
    store = nights.store_of(nights.settings(folder))
    assert verify_stored_run(store, "night") == []
    for path in sorted(nights.finished(undisturbed)):
        marker = store.read_bytes(f"{path}.json")
        store.delete(f"{path}.json")
        assert [problem.path for problem in verify_stored_run(store, "night")] == [f"{path}.json"]
        store.write_bytes(f"{path}.json", marker)
