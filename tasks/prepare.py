"""Prepare: everything that can be found wrong before a GPU starts is found here; then the plan stands in the store."""

from __future__ import annotations

from prefect import task
from pydantic import BaseModel
from transformers import CLIPTokenizer

from infra.settings import Settings
from infra.store import Store
from models.generators import check_pipeline, pipeline_folder
from tasks.plan import start_run
from tasks.progress import announce

__all__ = ["Shards", "prepare"]


class Shards(BaseModel):
    """Numbers of the shards that are generated, and of those composed of what was generated."""

    generated: list[int]
    composed: list[int]


@task(name="prepare")
def prepare(settings: Settings) -> tuple[Settings, Shards]:
    """Check store and generator, write the run's settings and plan or find them written; return what there is to do.

    The settings come back with the plan's budget resolved, and are those of the run from then on.
    """
    store = Store.open(settings.store.url, settings.store.options)
    store.probe()
    folder = pipeline_folder(settings.generator.path)
    check_pipeline(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    settings = start_run(
        store,
        settings,
        count_tokens=lambda prompts: [len(ids) for ids in tokenizer(prompts)["input_ids"]],
        max_tokens=tokenizer.model_max_length,
    )
    plan = store.read_table(f"runs/{settings.name}/plan.parquet")
    composed = plan["kind"] == "composed"
    for stage, rows in {
        "synthesize": ~composed,
        "refine": ~composed,
        "compose": composed,
        "select": composed | True,
    }.items():
        announce(stage, int(rows.sum()))
    shards = {
        name: sorted({int(s) for s in plan.loc[rows, "shard"]})
        for name, rows in (("generated", ~composed), ("composed", composed))
    }
    return settings, Shards(**shards)
