"""Prepare: checks everything that can be checked before a GPU starts, then writes the plan."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import task
from pydantic import BaseModel, PlainSerializer, PlainValidator, WithJsonSchema

from infra.blocks import open_store
from infra.settings import Settings, check_drawn
from infra.store import Store
from tasks.maps.flow import load_flow
from tasks.maps.layouts import open_layouts
from tasks.plan.resolve import resolve
from tasks.plan.rows import Inputs, start_run
from tasks.plan.table import Plan
from tasks.plan.tokens import load_tokenizer
from tasks.train.check import check_segmenter, check_sources
from tasks.train.protocols import check_sets

__all__ = ["Shards", "plan_inputs", "prepare"]


def _range(value: Any) -> range:
    return value if isinstance(value, range) else range(*value)


# Sent as start, stop and step: a flow run's parameters are 512 KiB at most, and a hundred thousand
# numbers are more.
Numbers = Annotated[
    range,
    PlainValidator(_range),
    PlainSerializer(lambda numbers: [numbers.start, numbers.stop, numbers.step]),
    WithJsonSchema({"type": "array", "items": {"type": "integer"}}),
]


class Shards(BaseModel):
    """Numbers of the generated shards, and of the shards composed of their objects."""

    generated: Numbers
    composed: Numbers

    @property
    def all(self) -> list[int]:
        """Return both, in order."""
        return [*self.generated, *self.composed]


def plan_inputs(store: Store, settings: Settings) -> Inputs:
    """Open what the plan is made for: the generator's tokenizer, or the label maps that it draws.

    Raises `PlanError` for a pipeline without a tokenizer, and what `load_flow` and `open_layouts`
    raise for a SemFlow and its label maps.
    """
    if settings.generator.flow is not None:
        load_flow(store, settings)
        return {"layouts": open_layouts(store, settings)}
    count_tokens, max_tokens = load_tokenizer(settings.generator.path)
    return {"count_tokens": count_tokens, "max_tokens": max_tokens}


@task(name="prepare")
def prepare(settings: Settings) -> tuple[Settings, Shards]:
    """Check store, generator and segmenter, and write the run's settings and plan once.

    Returns the resolved settings (`tasks.plan.resolve`) and the numbers of the run's shards. Raises
    what is wrong with them: `SettingsError`, `PlanError`, `PipelineError`, `StoreError`.
    """
    store = open_store(settings.store)
    store.probe()
    check_drawn(settings)
    check_sets(settings)
    check_segmenter(settings)
    check_sources(store, settings)
    inputs = plan_inputs(store, settings)
    settings = resolve(store, settings)
    settings = start_run(store, settings, **inputs)
    plan = Plan(store, settings)
    return settings, Shards(generated=plan.generated, composed=plan.composed)
