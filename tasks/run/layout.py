"""Layout: the stages of a run in order, and where each stores its shards.

    runs/<run>/<stage>/<shard>       shards of every stage but the last
    versions/<version>/data/         shards that `publish-shards` copies there

This is the only list of stages. The flow, the report, the check of stored runs and the progress
of task runs all take theirs from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "STAGES",
    "Stage",
    "shard_folders",
    "shard_name",
    "shard_path",
    "stage_folder",
    "stage_named",
    "version_name",
]

RecordedSettings = Mapping[str, Any]  # sections by name, as `Settings.resolved()` returns them


def _always(_: RecordedSettings) -> bool:
    return True


def _learns_affinity(settings: RecordedSettings) -> bool:
    return bool(settings.get("refine", {}).get("method") == "diffumask")


def _learns_noise(settings: RecordedSettings) -> bool:
    return bool(settings.get("select", {}).get("folds"))


def _composes(settings: RecordedSettings) -> bool:
    return bool(settings.get("compose", {}).get("images"))


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    `name` is that of its Prefect task, and of its folder in the run where it has shards.
    `rows` are the planned rows that it works on. `per` says what one result of it is for: a shard,
    a fold of noise learning, or the whole run; only stages per shard leave shards in the store.
    `enabled` tells from recorded settings whether a run has this stage.
    """

    name: str
    rows: Literal["generated", "composed", "all"]
    per: Literal["shard", "fold", "run"] = "shard"
    enabled: Callable[[RecordedSettings], bool] = _always

    @property
    def in_run(self) -> bool:
        """Whether it leaves shards in the run's own folder."""
        return self.per == "shard" and self.name != "publish-shards"

    def shards(self, generated: Sequence[int], composed: Sequence[int]) -> list[int]:
        """Numbers of its shards, given those with generated and those with composed rows."""
        numbers: list[int] = []
        if self.per == "shard" and self.rows != "composed":
            numbers += generated
        if self.per == "shard" and self.rows != "generated":
            numbers += composed
        return numbers


STAGES = (
    Stage("synthesize", "generated"),
    Stage("learn-affinity", "generated", "run", _learns_affinity),
    Stage("refine", "generated"),
    Stage("screen", "generated", enabled=_learns_noise),
    Stage("learn-fold", "generated", "fold", _learns_noise),
    Stage("hold-out", "generated", enabled=_learns_noise),
    Stage("rank", "generated", "run", _learns_noise),
    Stage(
        "select", "all"
    ),  # composed rows after `compose`, which needs the generated ones' verdicts
    Stage("compose", "composed", enabled=_composes),
    Stage("publish-shards", "all"),
    Stage("publish", "all", "run"),
)
_BY_NAME = {each.name: each for each in STAGES}


def stage_named(name: str) -> Stage:
    """The stage of this name. Raises `KeyError` with the known names if there is none."""
    if name not in _BY_NAME:
        raise KeyError(f"no stage {name!r}; stages are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def stage_folder(run: str, name: str) -> str:
    """Folder in the store of a stage's shards in a run. Raises `KeyError` if it has none there."""
    if not stage_named(name).in_run:
        raise KeyError(f"stage {name!r} leaves no shards in a run")
    return f"runs/{run}/{name}"


def shard_folders(run: str, version: str) -> dict[str, str]:
    """Folder in the store of every stage that leaves shards, by name, in the order of the stages.

    The last is that of `publish-shards`, in the version.
    """
    return {
        each.name: stage_folder(run, each.name) if each.in_run else f"versions/{version}/data"
        for each in STAGES
        if each.per == "shard"
    }


def shard_path(run: str, name: str, shard: int) -> str:
    """Path in the store, without suffix, of one shard of a stage; errors as `stage_folder`."""
    return f"{stage_folder(run, name)}/{shard_name(shard)}"


def shard_name(shard: int) -> str:
    """The name of a shard's files and of its progress: five digits or more."""
    return f"{shard:05d}"


def version_name(run: str, identity: str) -> str:
    """Name of the dataset version that a run with these settings publishes."""
    return f"{run}-{identity[:8]}"
