"""Budgets: schemas of the weights that a promotion stores, and that the next plan reads."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Planned", "Steering", "Survey", "Weights", "Wording"]

Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weights = dict[str, Amount]
Factors = dict[str, Annotated[float, Field(gt=0, le=1e6)]]


class _Part(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Wording(_Part):
    """Weights of what a prompt can say, by name; those of sub-classes by class."""

    backgrounds: Factors | None = None
    counts: Factors | None = None
    sizes: Factors | None = None
    subclasses: dict[str, Factors] | None = None


class Planned(_Part):
    """The champion, as the next run's plan reads it."""

    budget: Weights = {}
    weights: Wording = Wording()


class _Object(_Part):
    row: int
    of: str
    missing: Share
    uncertain: Share


class Survey(_Part):
    """survey.json of a run: how a checkpoint predicts objects of a run that it did not see."""

    checkpoint: str
    objects: list[_Object]


class _Steered(_Part):
    what: str
    name: str
    weight: Amount
    measured: int | None = None
    missing: Amount | None = None
    uncertain: Amount | None = None
    kept: Amount | None = None


class Steering(_Part):
    """budget.json of a run: what set the next run's weights, as the report shows it."""

    rows: list[_Steered] = []
