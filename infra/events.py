"""Events that the automations of a Prefect server react to.

Whoever reaches the server can emit one. So a payload starts flows with names only, never with
settings.

| event | meaning | payload |
|---|---|---|
| segmint.version.published | a version exists; triggers `retrain` | version, run |
| segmint.version.partial | the version lacks shards that failed | shards |
| segmint.keep-rate.low | a run kept too few of its images | kept, planned |
| segmint.champion.moved | another checkpoint became the champion | version, reason |
| segmint.champion.regressed | the champion measures worse than at promotion | miou, lost, set |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

__all__ = ["KEEP_RATE_LOW", "MOVED", "PARTIAL", "PUBLISHED", "REGRESSED", "emit"]

PUBLISHED = "segmint.version.published"
PARTIAL = "segmint.version.partial"
MOVED = "segmint.champion.moved"
REGRESSED = "segmint.champion.regressed"
KEEP_RATE_LOW = "segmint.keep-rate.low"


def emit(event: str, resource: str, name: str, payload: Mapping[str, Any]) -> None:
    """Emit an event of the resource `segmint.<resource>`, shown as `name` in the UI.

    Does nothing outside Prefect's flow and task runs.
    """
    if FlowRunContext.get() or TaskRunContext.get():
        about = {"prefect.resource.id": f"segmint.{resource}", "prefect.resource.name": name}
        emit_event(event=event, resource=about, payload=dict(payload))
