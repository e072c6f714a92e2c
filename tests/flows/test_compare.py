"""Models are trained on one version, measured on one set, and shown on one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.compare import compare
from infra.store import Store
from tests.tasks.compare.test_plan import two_models
from tests.tasks.segmenting import VERSION, publish_squares, small_settings


@pytest.mark.slow
def test_models_are_trained_and_compared_on_one_page(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, evaluate={"images": 6, "batch_size": 4})
    store = Store.open(settings.store.url)
    publish_squares(store, run="nightly")
    store.write_json("runs/nightly/settings.json", {})
    found = compare(two_models(settings, tmp_path), version=VERSION)
    folder = f"comparisons/{found['name']}"
    assert store.read_json(f"{folder}/comparison.json") == json.loads(json.dumps(found))
    first, second = found["contenders"]
    assert [first["model"], second["model"]] == ["tiny", "other"]
    for each in (first, second):
        assert each["trained"]["images"] == 4 * 4
        assert each["cost"]["peak_bytes"] > 4 * each["cost"]["parameters"]
        assert each["cost"]["images_per_second"] > 0
        assert sum(each["reliability"][0]) == 6 * 128 * 128
    assert first["cost"]["parameters"] < second["cost"]["parameters"]
    gained = second["miou"] - first["miou"]
    assert second["difference"]["difference"] == pytest.approx(gained)
    page = store.read_bytes(f"{folder}/comparison.html").decode()
    assert page.count("data:image/webp") == len(found["pictures"])
    names = [each["checkpoint"] for each in (first, second)]
    assert all(name in page for name in names)
    with get_client(sync_client=True) as client:
        key = ArtifactFilterKey(like_="comparison")
        artifacts = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    keys = {each.key for each in artifacts}
    assert keys == {"comparison", "comparison-segmenters", "comparison-page"}
    assert "training.json" not in store.list("runs/nightly")  # whose report shows its own training
    again = compare(settings, names)
    assert again["name"] != found["name"] and again["pictures"] == found["pictures"]
    assert [each["iou"] for each in again["contenders"]] == [first["iou"], second["iou"]]
