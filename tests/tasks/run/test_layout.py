"""The one definition of the stages: order, shards, and the settings that enable them."""

from __future__ import annotations

import pytest

from infra.settings import Settings
from tasks.run.layout import STAGES, shard_path, stage_folder, stage_named

GENERATED = range(3)
COMPOSED = range(3, 5)


def enabled(**sections: dict[str, object]) -> set[str]:
    recorded = Settings(**sections).resolved()  # type: ignore[arg-type]
    return {each.name for each in STAGES if each.enabled(recorded)}


def test_settings_enable_affinity_noise_learning_and_scenes() -> None:
    plain = enabled(compose={"images": 0})
    assert plain == {"synthesize", "refine", "select", "publish-shards", "publish"}
    assert enabled(compose={"images": 4}) - plain == {"compose"}
    noise = enabled(compose={"images": 0}, select={"folds": 2}) - plain
    assert noise == {"screen", "learn-fold", "hold-out", "rank"}
    affinity = enabled(compose={"images": 0}, refine={"method": "diffumask"}) - plain
    assert affinity == {"learn-affinity"}


def test_a_stage_has_the_shards_of_its_rows() -> None:
    shards = {each.name: each.shards(GENERATED, COMPOSED) for each in STAGES}
    assert shards["hold-out"] == [0, 1, 2]
    assert shards["compose"] == [3, 4]
    assert shards["select"] == shards["publish-shards"] == [0, 1, 2, 3, 4]
    assert shards["rank"] == shards["learn-fold"] == []


def test_a_stage_has_one_name_for_its_task_and_its_folder() -> None:
    assert shard_path("night", "hold-out", 7) == "runs/night/hold-out/00007"
    names = [each.name for each in STAGES]
    assert len(set(names)) == len(names)


def test_an_unknown_stage_and_one_without_shards_are_refused() -> None:
    with pytest.raises(KeyError, match=r"held-out.*stages are synthesize"):
        stage_named("held-out")
    with pytest.raises(KeyError, match="'rank' leaves no shards"):
        stage_folder("night", "rank")
