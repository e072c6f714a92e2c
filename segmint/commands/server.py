"""Commands about the installation: doctor, setup, pretrain."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from segmint import console as show
from segmint.commands.options import Config, Flags, Json, settings_of

if TYPE_CHECKING:
    from infra.doctor import Check
    from infra.settings import Settings

__all__ = ["doctor", "pretrain", "setup"]


def doctor(
    security: Annotated[
        bool,
        typer.Option("--security", help="Check instead what of docs/security.md is kept here."),
    ] = False,
    config: Config = None,
    flags: Flags = None,
    json: Json = False,
) -> None:
    """Check versions, devices, store, free space, generator and servers; exit 1 if one fails."""
    settings = settings_of(config, flags)
    checks = _security(settings) if security else _needs(settings)
    if json:
        show.as_json([asdict(check) for check in checks])
    else:
        rows = [
            (show.mark(check.ok), check.name, check.detail, "" if check.ok else check.remedy)
            for check in checks
        ]
        title = "What docs/security.md promises" if security else "What a run needs"
        show.table(title, ["", "check", "found", "remedy"], rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _security(settings: Settings) -> list[Check]:
    from infra.posture import security_checks

    return security_checks(settings)


def _needs(settings: Settings) -> list[Check]:
    from infra.blocks import open_store
    from infra.doctor import diagnose
    from models.generators import load_pipeline
    from tasks.maps.flow import load_flow

    def open_generator() -> str:
        generator = settings.generator
        if generator.flow is not None:
            load_flow(open_store(settings.store), settings)
            return f"{generator.path}: SemFlow opens"
        pipeline = load_pipeline(generator.path, device=generator.device, dtype=generator.dtype)
        return f"{generator.path}: {type(pipeline).__name__} opens"

    return diagnose(settings, open_generator=open_generator)


def setup(
    slots: Annotated[
        int | None, typer.Option(min=1, help="GPUs of all runs together, for compute.limit.")
    ] = None,
    without_password: Annotated[
        bool,
        typer.Option(
            "--without-password",
            help="Accept a server without a password: whoever reaches it runs code on its workers.",
        ),
    ] = False,
    config: Config = None,
    flags: Flags = None,
) -> None:
    """Create what a Prefect server needs: work pool, limit, credentials block, automations.

    What exists is left as it is. A server without a password is refused.
    """
    settings = settings_of(config, flags)
    from infra.fleet import set_up
    from infra.local_server import prefect_api

    with prefect_api():
        done = set_up(settings, slots, without_password)
    show.table("On the Prefect server", ["", "what"], [(each.how, each.what) for each in done])
    show.facts(
        [
            ("next", "prefect --no-prompt deploy --all"),
            ("", "prefect worker start --pool segmint"),
        ]
    )


def pretrain(config: Config = None, flags: Flags = None) -> None:
    """Train the embedded generator, the oracle and the token autoencoder on the drawn world.

    It has settings of its own; a wrong one is answered with the valid names.
    """
    from flows.pretrain import pretrain as train_models
    from infra.local_server import prefect_api
    from infra.sources import read_flat
    from models.embedded.pretraining import Recipe

    recipe = read_flat(Recipe, config, flags or ())
    with prefect_api() as api, show.progress():
        pipeline, oracle, tokens = api.tracked(train_models)(recipe)
    show.facts([("pipeline", pipeline), ("oracle", oracle), ("tokens", tokens)])
