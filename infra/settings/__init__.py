"""Settings of a run: one frozen model, read from flags, the environment and a file.

`Settings(_file=…, _flags=…, **values)` merges, strongest first:

1. keyword values
2. flags: `plan.images=200`
3. environment variables: `SEGMINT_PLAN__IMAGES=200`
4. a TOML or YAML file
5. defaults

Unknown or wrong values raise `SettingsError` with the field, its source and the remedy.

Options of the store from the environment, and all that are not known to be harmless, are hidden:
the model holds them as `infra.hidden.Hidden`, and no dump, `repr` or error shows them. The others
may come from any source, and are shown.
"""

from __future__ import annotations

from infra.settings.data import (
    FLOW,
    ComposeSettings,
    GeneratorSettings,
    LabellerSettings,
    PlanSettings,
    RefineSettings,
    SelectSettings,
)
from infra.settings.drawn import check_drawn
from infra.settings.operation import (
    AlarmSettings,
    ComputeSettings,
    KubernetesSettings,
    PublishSettings,
    RetentionSettings,
    StoreSettings,
    WatchSettings,
)
from infra.settings.resume import check_same_run
from infra.settings.settings import Settings
from infra.settings.training import (
    CompareSettings,
    EvaluateSettings,
    PromoteSettings,
    TrainSettings,
)
from infra.sources import SettingsError

__all__ = [
    "FLOW",
    "AlarmSettings",
    "CompareSettings",
    "ComposeSettings",
    "ComputeSettings",
    "EvaluateSettings",
    "GeneratorSettings",
    "KubernetesSettings",
    "LabellerSettings",
    "PlanSettings",
    "PromoteSettings",
    "PublishSettings",
    "RefineSettings",
    "RetentionSettings",
    "SelectSettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "TrainSettings",
    "WatchSettings",
    "check_drawn",
    "check_same_run",
]
