"""Prepare: everything that can be found wrong before a GPU starts is found here; then the plan
stands in the store.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import task
from prefect.runtime import flow_run
from pydantic import BaseModel, PlainSerializer, PlainValidator, WithJsonSchema

from infra.blocks import open_store
from infra.settings import Settings
from models.generators import PipelineError, check_pipeline, pipeline_digest, pipeline_folder
from tasks.plan.rows import load_tokenizer, start_run
from tasks.plan.table import Plan
from tasks.train.protocols import check_sets

__all__ = ["Shards", "prepare"]


def _range(value: Any) -> range:
    return value if isinstance(value, range) else range(*value)


Numbers = Annotated[
    range,
    PlainValidator(_range),
    PlainSerializer(lambda numbers: [numbers.start, numbers.stop, numbers.step]),
    WithJsonSchema({"type": "array", "items": {"type": "integer"}}),
    # as its ends: a flow run's parameters are 512 KiB at most, which a hundred thousand numbers are not
]


class Shards(BaseModel):
    """Numbers of the shards that are generated, and of those composed of what was generated."""

    generated: Numbers
    composed: Numbers

    @property
    def all(self) -> list[int]:
        """Both, in order."""
        return [*self.generated, *self.composed]


@task(name="prepare")
def prepare(settings: Settings) -> tuple[Settings, Shards]:
    """Check store and generator, write the run's settings and plan or find them written; return
    what there is to do.

    The settings come back as those of this very run: dated, with the generator's digest and the
    plan's budget.
    """
    store = open_store(settings.store)
    store.probe()
    check_sets(settings)
    count_tokens, max_tokens = load_tokenizer(settings.generator.path)
    settings = with_weights(
        settings.dated((flow_run.scheduled_start_time or datetime.now(UTC)).date())
    )
    settings = start_run(store, settings, count_tokens=count_tokens, max_tokens=max_tokens)
    plan = Plan(store, settings)
    return settings, Shards(generated=plan.generated, composed=plan.composed)


def with_weights(settings: Settings) -> Settings:
    """The settings with the digest of the generator's files, so that other weights are another run.

    Raises `PipelineError` for a directory that cannot be sampled from, and for one that is not what
    the settings name.
    """
    folder, wanted = pipeline_folder(settings.generator.path), settings.generator.weights
    check_pipeline(folder)
    found = pipeline_digest(folder)
    if wanted not in (None, found):
        raise PipelineError(
            f"generator.weights is {wanted}, but {folder} has {found}; take the one out or mend the other"
        )
    return settings.model_copy(
        update={"generator": settings.generator.model_copy(update={"weights": found})}
    )
