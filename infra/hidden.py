"""Hidden values: options of the store that no dump, `repr`, log or error shows.

Whatever comes from the environment is hidden, and so is every option that is not known to be
harmless. A dump leaves hidden options out, so the process that reads it gets them from its own
environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Secret, SecretBytes, SecretStr

from infra.config_files import SettingsError
from infra.credentials import holds_credential, is_harmless, leaves
from infra.layers import Layer

__all__ = ["Hidden", "hide", "hide_all", "refuse_written", "reveal", "shown_names", "written"]

_OPTIONS = ("store", "options")
_NAME = re.compile(r"[\w -]{1,64}")
_REMEDY = (
    "take it out and set it in the environment, as JSON in SEGMINT_STORE__OPTIONS, or in the "
    "Prefect block that store.block names; keys of S3 as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY"
)


class Hidden(Secret[Any]):
    """A value that is shown as ***. `reveal` returns it."""

    def _display(self) -> str:
        return "***"


_SECRETS = (Secret, SecretStr, SecretBytes)


def hide(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Return options, with those that are not known to be harmless as `Hidden`."""
    if isinstance(value, Mapping):
        return {name: hide(inner, (*path, str(name))) for name, inner in value.items()}
    if isinstance(value, Hidden):
        return value
    if isinstance(value, _SECRETS):
        return Hidden(value.get_secret_value())
    return value if is_harmless(path, value) else Hidden(value)


def hide_all(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with all options of the store as `Hidden`."""
    store = values.get("store")
    if not isinstance(store, Mapping) or "options" not in store:
        return values
    return {**values, "store": {**store, "options": _hidden(store["options"])}}


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _hidden(inner) for name, inner in value.items()}
    return Hidden(value)


def written(value: Any) -> Any:
    """Return options without the hidden ones, and without tables that hold nothing else."""
    if not isinstance(value, Mapping):
        return list(value) if isinstance(value, tuple) else value
    kept = {
        name: written(inner) for name, inner in value.items() if not isinstance(inner, _SECRETS)
    }
    return {name: inner for name, inner in kept.items() if inner != {} or value[name] == {}}


def reveal(value: Any) -> Any:
    """Return options as the file system needs them."""
    if isinstance(value, Mapping):
        return {name: reveal(inner) for name, inner in value.items()}
    return value.get_secret_value() if isinstance(value, _SECRETS) else value


def shown_names(path: Sequence[str]) -> list[str]:
    """Return names of settings and options, with … for those that are more than a few words."""
    return [name if _NAME.fullmatch(name) else "…" for name in path]


def refuse_written(layers: Sequence[Layer]) -> None:
    """Raise `SettingsError` for a credential that would be stored and shown.

    That is an option that is not known to be harmless in a file, a flag or a parameter, and a URL
    with a user, a query or a fragment anywhere.
    """
    for layer in layers:
        for path, value in leaves(layer.values):
            if isinstance(value, _SECRETS):
                continue
            named = shown_names(path)
            where = f"{'.'.join(named)} ({layer.origin(named)})"
            if path[:2] == _OPTIONS and not is_harmless(path[2:], value):
                raise SettingsError(f"setting {where} may be a credential: {_REMEDY}")
            if isinstance(value, str) and holds_credential(value):
                remedy = _REMEDY if path[0] == "store" else "give a URL without them"
                raise SettingsError(
                    f"setting {where} has a user, a password, a query or a fragment, which would "
                    f"be shown: {remedy}"
                )
