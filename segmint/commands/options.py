"""Options that commands share, the settings and the store that they name, and what comes next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.settings import Settings
    from infra.store import Store

__all__ = ["Config", "Flags", "Json", "again", "settings_of", "store_of"]

Config = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings, as .toml or .yaml.")
]
Flags = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="FIELD=VALUE",
        help="One setting, such as plan.images=200; may be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def settings_of(config: Path | None, flags: list[str] | None) -> Settings:
    """Return the settings of a command line: flags, environment, file, defaults.

    `{date}` stays in the name; `tasks.plan.resolve` says which date a command means.
    """
    from infra.settings import Settings

    return Settings(_file=config, _flags=flags or ())


def store_of(settings: Settings) -> Store:
    """Open the settings' store."""
    from infra.blocks import open_store

    return open_store(settings.store)


def again(words: list[str], config: Path | None, flags: list[str] | None) -> str:
    """Return a command line to paste: these words with the same configuration."""
    same = ["--config", str(config)] if config else []
    for flag in flags or ():
        same += ["--set", flag]
    return shlex.join(["segmint", *words, *same])
