"""Options that commands share, and what they open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.settings import Settings
    from infra.store import Store

__all__ = ["Config", "Flags", "settings_of", "store_of"]

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


def settings_of(config: Path | None, flags: list[str] | None) -> Settings:
    """Return the settings of a command line: flags, environment, file, defaults."""
    from infra.settings import Settings

    return Settings(_file=config, _flags=flags or ())


def store_of(settings: Settings) -> Store:
    """Open the settings' store."""
    from infra.blocks import open_store

    return open_store(settings.store)
