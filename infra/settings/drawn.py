"""Settings of a run that draws label maps, and those that only a text-to-image run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra.settings.settings import Settings
from infra.sources import SettingsError

__all__ = ["check_drawn"]

# Without effect where a SemFlow draws label maps: nothing is prompted, attended or refined.
_OF_TEXT = {
    "plan": (
        "multi",
        "negatives",
        "captions",
        "captioned",
        "budget",
        "backgrounds",
        "counts",
        "sizes",
        "subclasses",
    ),
    "generator": ("guidance_scale", "guidance_rescale", "excitation", "attention", "dtype"),
    "refine": (
        "method",
        "labellers",
        "affinity_steps",
        "propagation_steps",
        "pamr_iterations",
        "ignore_band",
    ),
    "select": ("min_contrast",),
}
_OF_FLOWS = {"generator": ("labels", "labels_digest", "layouts")}


def check_drawn(settings: Settings) -> None:
    """Check that the generator's settings, and those that depend on it, go together.

    Raises `SettingsError` for a SemFlow without label maps or with one side of the size alone, and
    for settings without effect on the images of this generator that are not at their default.
    """
    chosen = settings.generator
    if chosen.flow is None:
        remedy = "leave it out, or give generator.path = 'semflow:CHECKPOINT' to draw label maps"
        _refuse_needless(settings, _OF_FLOWS, remedy)
        return
    _refuse_needless(
        settings, _OF_TEXT, "leave it out: label maps are drawn without prompts and attention"
    )
    if chosen.labels is None:
        raise SettingsError(
            f"generator.path is {chosen.path!r}, but generator.labels is not set; give the label "
            "maps to draw: a version's name, or a folder in VOC layout with a / (./maps)"
        )
    if (chosen.height is None) != (chosen.width is None):
        raise SettingsError(
            f"generator.height is {chosen.height} and generator.width {chosen.width}; give both "
            "to resize the label maps, or neither to keep their size"
        )


def _refuse_needless(
    settings: Settings, needless: Mapping[str, Sequence[str]], remedy: str
) -> None:
    for section, names in needless.items():
        values = getattr(settings, section)
        for name in names:
            value = getattr(values, name)
            if value != type(values).model_fields[name].default:
                raise SettingsError(
                    f"{section}.{name} = {value!r} has no effect on generator.path = "
                    f"{settings.generator.path!r}; {remedy}"
                )
