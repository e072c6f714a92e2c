"""May a stored run go on under these settings?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.settings.identity import differences
from infra.settings.settings import Settings
from infra.sources import SettingsError

__all__ = ["check_same_run"]


def check_same_run(stored: Mapping[str, Any], settings: Settings) -> None:
    """Raise `SettingsError`, listing the differences, if the run would make other samples.

    `stored` is the `record()` of the run of the same name in the store.
    """
    differing = list(differences(stored["sample_settings"], settings.sample_settings()))
    if differing:
        raise SettingsError(
            f"run {settings.name!r} is in the store with other settings: {'; '.join(differing)}. "
            "Give this run another name, or the same settings to resume it"
        )
