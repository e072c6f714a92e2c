"""Weighting: how often the samples of each version and class are drawn, as the user wants it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from infra.explain import nearest
from infra.settings import SettingsError, TrainSettings
from infra.store import Manifest
from tasks.schemas import origin_of

__all__ = ["UNWEIGHTED", "Weighting", "check_classes", "weighting_of"]

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Weighting:
    """Weights above 0 by name of version and of class; 1 for those that are not named.

    A class of twice the weight is shown twice as often, and a sample of a version of twice the
    weight is drawn twice as often as another one that shows the same classes (`even_shares`).
    """

    versions: Weights = field(default_factory=dict)
    classes: Weights = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.versions or self.classes)

    def checked(self, manifests: Sequence[Manifest]) -> Sequence[Manifest]:
        """Return the manifests of a training, of which the first names the classes.

        Raises `SettingsError` for the weight of a version or class that is not among them.
        """
        names = [each.version for each in manifests]
        for name in self.versions:
            if name not in names:
                raise SettingsError(
                    f"train.version_weights names {name!r}, but the training takes "
                    f"{', '.join(names)}; add it to train.versions, or leave its weight out"
                )
        check_classes(self, origin_of(manifests[0]).classes)
        return manifests


UNWEIGHTED = Weighting()


def weighting_of(train: TrainSettings) -> Weighting:
    """Return the weights of the settings."""
    return Weighting(train.version_weights, train.class_weights)


def check_classes(weighting: Weighting, names: Collection[str]) -> None:
    """Raise `SettingsError` for the weight of a class that is not one of `names`."""
    for name in weighting.classes:
        if name not in names:
            raise SettingsError(
                f"train.class_weights names {name!r}, which is no class of this training: "
                f"{nearest(name, names)}"
            )
