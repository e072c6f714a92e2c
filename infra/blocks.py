"""Prefect blocks: credentials kept on a team's server, and in no file, parameter or log."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, cast

from infra.hidden import reveal
from infra.settings import SettingsError, StoreSettings
from infra.store import Store

__all__ = ["open_store"]


def open_store(chosen: StoreSettings) -> Store:
    """Return the store of the settings, with the options in the block `store.block` if it is set.

    A process reads a block once. Raises `SettingsError` for a block that cannot be read or does not
    hold a JSON object.
    """
    secret = _secret(chosen.block) if chosen.block else {}
    return Store.open(chosen.url, {**reveal(chosen.options), **secret})


@lru_cache
def _secret(name: str) -> dict[str, Any]:
    # Prefect takes a second to import, which a store without a block does not need
    from prefect.blocks.system import Secret

    try:
        held = cast("Secret[Any]", Secret.load(name)).get()
        value = json.loads(held) if isinstance(held, str) else held
        problem = ""
    except ValueError as error:  # no such block, or no JSON
        problem = type(error).__name__
    if problem:  # here, so that it is not linked to an error that holds the block's text
        raise SettingsError(
            f"store.block: no Secret block {name!r} with a JSON object of fsspec options can be "
            f"read ({problem}); make it in Prefect's UI under Blocks, or set PREFECT_API_URL to "
            "its server"
        )
    if not isinstance(value, dict):
        raise SettingsError(
            f"store.block: block {name!r} holds {type(value).__name__}; give a JSON object"
        )
    return value
