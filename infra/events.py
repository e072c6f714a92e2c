"""Events: what the automations of a Prefect server listen for, by name.

segmint.version.published    a dataset version is there: triggers `retrain`; payload version, samples, settings
segmint.champion.moved       another checkpoint is the champion; payload version, reason
segmint.champion.regressed   the champion measures worse than when it became champion; payload miou, lost, set
segmint.version.partial      it lacks shards that could not be made; payload shards
segmint.keep-rate.low        a night kept too little of what it made; payload kept, planned
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

__all__ = ["KEEP_RATE_LOW", "MOVED", "PARTIAL", "PUBLISHED", "REGRESSED", "tell"]

PUBLISHED = "segmint.version.published"
PARTIAL = "segmint.version.partial"
MOVED = "segmint.champion.moved"
REGRESSED = "segmint.champion.regressed"
KEEP_RATE_LOW = "segmint.keep-rate.low"


def tell(event: str, resource: str, name: str, payload: Mapping[str, Any]) -> None:
    """Emit an event of the resource `segmint.<resource>`, called `name` in the UI; outside
    Prefect's runs, nothing.
    """
    if FlowRunContext.get() or TaskRunContext.get():
        about = {"prefect.resource.id": f"segmint.{resource}", "prefect.resource.name": name}
        emit_event(event=event, resource=about, payload=dict(payload))
