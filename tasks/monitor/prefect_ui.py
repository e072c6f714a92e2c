"""ProgressArtifacts: how far a run is, as artifacts of its flow run that Prefect's UI shows and that change in
place.

Their keys are the same whatever the run, so that Prefect keeps their history.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from tasks.monitor.totals import Totals

__all__ = ["ProgressArtifacts"]


class _Shown(NamedTuple):
    type: str
    data: Any
    description: str


class ProgressArtifacts:
    """The artifacts of one flow run."""

    def __init__(self, flow_run: UUID) -> None:
        self._flow_run = flow_run
        self._made: dict[str, tuple[UUID, _Shown]] = {}

    def show(self, totals: Totals) -> None:
        """Make or update what has changed. Raises what Prefect's client raises."""
        with get_client(sync_client=True) as client:
            for key, shown in _artifacts(totals):
                if key not in self._made:
                    content = shown._asdict()
                    made = client.create_artifact(
                        ArtifactCreate(key=key, flow_run_id=self._flow_run, **content)
                    )
                    self._made[key] = made.id, shown
                elif self._made[key][1] != shown:
                    identity = self._made[key][0]
                    client.update_artifact(
                        identity, ArtifactUpdate(data=shown.data, description=shown.description)
                    )
                    self._made[key] = identity, shown


def _artifacts(totals: Totals) -> Iterator[tuple[str, _Shown]]:
    for name, stage in totals.stages.items():
        yield f"progress-{name}", _Shown("progress", round(100 * stage.share, 1), stage.told)
    if rates := [
        _rate(stage, worker, work.units, work.seconds)
        for (stage, worker), work in totals.work.items()
    ]:
        yield (
            "rates",
            _Shown(
                "table", json.dumps(rates), "Work by stage and worker, since this run was started"
            ),
        )
    if totals.resources:
        yield (
            "machines",
            _Shown("table", json.dumps(_machines(totals.resources)), "Workers' disks and GPUs"),
        )


def _rate(stage: str, worker: str, units: int, seconds: float) -> dict[str, Any]:
    rate = round(units / seconds, 2) if seconds else None
    return {
        "stage": stage,
        "worker": worker,
        "done": units,
        "seconds": round(seconds, 1),
        "a second": rate,
    }


def _machines(resources: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row a worker.

    All have the same columns, for Prefect's pages take those of the first row.
    """
    names = dict.fromkeys(name for found in resources.values() for name in found)
    columns = {name: f"{name.removesuffix('_bytes').replace('_', ' ')}, GB" for name in names}
    return [
        {"worker": worker}
        | {column: _gigabytes(found.get(name)) for name, column in columns.items()}
        for worker, found in sorted(resources.items())
    ]


def _gigabytes(count: float | None) -> float | None:
    return None if count is None else round(count / 1e9, 1)
