"""Where a flow run may read, write and send: its worker decides, not its parameters.

Whoever may use Prefect's server fills in the parameters of a run. So a place that they name, such
as a store, a folder or an endpoint, has to be the one that the worker's environment gives, or lie
in one that `SEGMINT_ALLOWED` lists there. A command's own settings are free: whoever types them
could as well read and write those places without segmint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.layers import field_of, variable_of
from infra.settings.section import booleans, names
from infra.sources import ALLOWED, SettingsError
from infra.text import UNSEEN

__all__ = ["NO_VALUE", "PLACES", "check_places"]

_WORKER = "PREFECT__FLOW_RUN_ID"  # Prefect sets it in the process of a run that a worker starts
NO_VALUE = r"(?!)"  # no value names no place
_NAME = r"[A-Za-z][A-Za-z0-9_-]*"
_STORED = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # a version or a checkpoint of the run's own store
# Settings that name a place, each with a pattern of the values that name none.
PLACES: Mapping[str, str] = {
    "vocabulary": _NAME,
    "store.url": NO_VALUE,
    "store.options": NO_VALUE,
    "store.block": NO_VALUE,
    "plan.captions": NO_VALUE,
    "generator.path": f"embedded|semflow:{_STORED}",
    "generator.labels": _STORED,
    "refine.labellers.path": NO_VALUE,
    "refine.labellers.detector": NO_VALUE,
    "train.model": _NAME,
    "train.weights": "random",
    "train.real": "drawn",
    "evaluate.voc": NO_VALUE,
    "compare.models": _NAME,
    "compute.runner": "threads|dask-local|dask-kubernetes",
    "compute.kubernetes.namespace": NO_VALUE,
    "compute.kubernetes.image": NO_VALUE,
    "compute.kubernetes.secret": NO_VALUE,
    "compute.kubernetes.service_account": NO_VALUE,
    "watch.metrics": NO_VALUE,
    "watch.lines": "-",
    "watch.links": NO_VALUE,
}
_LISTS = frozenset({"compare.models"})


def check_places(
    given: Mapping[str, Any],
    own: Callable[[], Mapping[str, Any]],
    places: Mapping[str, str] = PLACES,
) -> None:
    """Raise `SettingsError` if a worker's flow run was given a place that the worker has not.

    `given` are the nested values of the parameters. `own` returns those of the environment and
    defaults; it is called on a worker only.
    """
    if _WORKER not in os.environ:
        return
    values = own()
    for path, value in _leaves(given):
        field = ".".join(path)
        known = field_of(path)
        harmless = next((places[p] for p in places if f"{known}.".startswith(f"{p}.")), None)
        if harmless is None or value is None or _same(value, _at(values, path)):
            continue
        # names of a list may also be one text, with commas between them
        each = names(value) if field in _LISTS else [value]
        if not all(re.fullmatch(harmless, str(one)) or _is_allowed(str(one)) for one in each):
            variable = variable_of(path) if places is PLACES else ""
            hidden = path[0] == "store" or "://" in str(value)  # it may hold a credential
            shown = "" if hidden else f" = {value!r}"
            raise SettingsError(_refusal(f"{field}{shown}", variable))


def _refusal(what: str, variable: str) -> str:
    return (
        f"setting {what} (given as a parameter of this run): only the worker's environment says "
        f"where its runs read, write and send; {f'set {variable} there, or ' if variable else ''}"
        f"list the place in {ALLOWED} there (folders and addresses, with commas between them)"
    )


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for name, value in values.items():
        if (inner := _numbered(value)) is not None:
            yield from _leaves(inner, (*above, str(name)))
        else:
            yield (*above, str(name)), value


def _numbered(value: Any) -> Mapping[str, Any] | None:
    """Return a table, or a list of tables by their numbers; None for any other value."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        return {str(number): each for number, each in enumerate(value)}
    return None


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = (_numbered(values) or {}).get(name)
    return values


def _same(one: Any, other: Any) -> bool:
    return _text(one) == _text(other)


def _text(value: Any) -> str:
    """Return a value as the environment would hold it, also if it is hidden like a `SecretStr`."""
    hidden = getattr(value, "get_secret_value", None)
    return str(booleans(hidden() if hidden else value))


def _is_allowed(value: str) -> bool:
    entries = (entry.strip() for entry in os.environ.get(ALLOWED, "").split(","))
    return any(_lies_in(value, entry) for entry in entries if entry)


def _lies_in(value: str, place: str) -> bool:
    # ~ and chains such as zip::s3://… would lead elsewhere
    if UNSEEN.search(value) or value.startswith("~") or "::" in value:
        return False
    if "://" in value or "://" in place:
        inside = value == place or value.startswith(f"{place.rstrip('/')}/")
        return inside and ".." not in re.split(r"[/\\]", value)
    path = Path(value).resolve()
    return Path(place).resolve() in (path, *path.parents)
