"""Runs whose labels come from a labeller instead of attention."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import SettingsError
from infra.store import read_version
from models.labellers import labeller_digest
from tasks.run.verify import verify_stored_run
from testbed import nights
from tests.models.labelling import write_clipseg


def test_a_labeller_labels_a_night_and_another_does_not_resume_it(
    folder: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "clipseg"
    model = write_clipseg(directory)
    labeller = {"kind": "clipseg", "path": str(directory)}
    refine = {"method": "labeller", "labellers": [labeller]}
    chosen = nights.settings(folder, refine=refine, classes=("ball", "fish"))
    assert nights.run(chosen)["refine"] == 8
    store = nights.store_of(chosen)
    stored = store.read_json("runs/night/settings.json")["settings"]["refine"]["labellers"]
    assert [each["digest"] for each in stored] == [labeller_digest(directory)]
    assert verify_stored_run(store, "night") == []
    manifest = read_version(store, nights.version(chosen))
    (path,) = (name for name in manifest.files if name.startswith("card"))
    card = store.read_bytes(f"versions/{manifest.version}/{path}").decode()
    assert f"digest {labeller_digest(directory)}; its licence" in card
    assert nights.run(chosen) == {}  # all of it is in the store
    model.half().save_pretrained(directory)
    with pytest.raises(
        SettingsError, match=r"other settings: refine\.labellers was .*another name"
    ):
        nights.run(chosen)
