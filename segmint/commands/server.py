"""Commands about the installation: setup, doctor, pretrain."""

from __future__ import annotations

from typing import Annotated

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, settings_of


def setup(
    slots: Annotated[
        int | None, typer.Option(min=1, help="GPUs of all runs together, for compute.limit.")
    ] = None,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Make what a Prefect server needs: work pool, limit, block of credentials, automations.

    Again: what is missing.
    """
    settings = settings_of(config, flags)
    from infra.fleet import set_up

    show.table(
        "On the Prefect server",
        ["", "what"],
        [(done.how, done.what) for done in set_up(settings, slots)],
    )
    show.console.print(
        "next: prefect --no-prompt deploy --all  ·  prefect worker start --pool segmint"
    )


def doctor(config: Config = None, flags: Flags = None) -> None:
    """Check versions, devices, store, free space, generator and servers; exit 1 if something is
    wrong.
    """
    settings = settings_of(config, flags)
    from infra.doctor import diagnose
    from models.generators import load_pipeline

    def open_generator() -> str:
        generator = settings.generator
        pipeline = load_pipeline(generator.path, device=generator.device, dtype=generator.dtype)
        return f"{generator.path}: {type(pipeline).__name__} opens"

    checks = diagnose(settings, open_generator=open_generator)
    rows = [
        (show.mark(check.ok), check.name, check.detail, "" if check.ok else check.remedy)
        for check in checks
    ]
    show.table("What a run needs", ["", "check", "found", "remedy"], rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def pretrain(config: Config = None, flags: Flags = None) -> None:
    """Train the embedded generator and the oracle anew on the drawn world; settings are of their
    own.
    """
    from flows.pretrain import pretrain as train_models
    from infra.local_server import prefect_api
    from infra.sources import read_flat
    from models.embedded.pretraining import Recipe

    recipe = read_flat(Recipe, config, flags or ())
    with prefect_api() as api, show.progress():
        pipeline, oracle = api.tracked(train_models)(recipe)
    show.facts([("pipeline", pipeline), ("oracle", oracle)])
