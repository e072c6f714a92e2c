"""The settings of a run, merged from keyword values, flags, the environment and a file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from infra.explain import explain
from infra.hidden import refuse_written
from infra.layers import Layer
from infra.settings.data import (
    ComposeSettings,
    GeneratorSettings,
    PlanSettings,
    RefineSettings,
    SelectSettings,
)
from infra.settings.identity import EXCLUDED, INCLUDED, hash_samples, sample_settings
from infra.settings.operation import (
    AlarmSettings,
    ComputeSettings,
    PublishSettings,
    RetentionSettings,
    StoreSettings,
    WatchSettings,
)
from infra.settings.places import check_places
from infra.settings.section import describe_defaults, names
from infra.settings.training import (
    CompareSettings,
    EvaluateSettings,
    PromoteSettings,
    TrainSettings,
)
from infra.sources import SettingsError, merge, read_layers
from infra.vocabulary import Vocabulary, load_vocabulary

__all__ = ["Settings"]


class Settings(BaseSettings):
    """All settings of a run. Frozen. Equal `identity` means equal samples."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        json_schema_extra=describe_defaults,
    )

    name: str = Field(
        default="nightly", pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]|\{date\})*$", max_length=100
    )
    """Run name: letters, digits, '.', '_', '-', a letter or digit first. {date}: the run's date."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Random seed. Another seed makes other images from the same settings."""
    vocabulary: str = Field(default="world", min_length=1)
    """voc, coco, ade20k, cityscapes, world, or a JSON file of that format."""
    classes: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(names)] = None
    """Names of the classes to generate. Default: all classes of the vocabulary."""
    store: StoreSettings = StoreSettings()
    """Where datasets, runs and checkpoints are stored."""
    plan: PlanSettings = PlanSettings()
    """Number and kinds of images."""
    generator: GeneratorSettings = GeneratorSettings()
    """Text-to-image pipeline."""
    refine: RefineSettings = RefineSettings()
    """Attention maps to label maps."""
    compose: ComposeSettings = ComposeSettings()
    """Scenes with several objects."""
    select: SelectSettings = SelectSettings()
    """Which samples may be published."""
    train: TrainSettings = TrainSettings()
    """The segmenter and its training."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """Evaluation set of the segmenter."""
    promote: PromoteSettings = PromoteSettings()
    """When a challenger becomes the champion."""
    compare: CompareSettings = CompareSettings()
    """Segmenters that are trained to be compared."""
    compute: ComputeSettings = ComputeSettings()
    """Where tasks run."""
    publish: PublishSettings = PublishSettings()
    """What happens if some shards of a run failed."""
    retention: RetentionSettings = RetentionSettings()
    """What segmint gc keeps."""
    alarm: AlarmSettings = AlarmSettings()
    """When a run asks for attention."""
    watch: WatchSettings = WatchSettings()
    """Progress and metrics of a run."""

    def __init__(
        self, _file: Path | None = None, _flags: Sequence[str] = (), **values: Any
    ) -> None:
        layers = read_layers(type(self), _file, _flags, values)
        problem = ""
        try:
            refuse_written(layers)
            check_places(values, own=lambda: merge([*layers[1:], _defaults(type(self))]))
            super().__init__(**merge(layers))
        except ValidationError as error:
            problem = explain(error, layers, type(self))
        except RecursionError:
            problem = "a setting is nested too deeply; correct it"
        if problem:  # out here it has no context, which holds all values
            raise SettingsError(problem)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the values that `__init__` merged.

        pydantic-settings' own merge does not record which source a value came from.
        """
        return (init_settings,)

    def dated(self, day: date) -> Settings:
        """Return the settings of that day's run if the name has `{date}`, else these settings.

        The name gets the date, and the seed is one that no other day has.
        """
        if "{date}" not in self.name:
            return self
        name = self.name.replace("{date}", day.isoformat())
        return self.model_copy(update={"name": name, "seed": self.seed + day.toordinal()})

    def load_vocabulary(self) -> Vocabulary:
        """Return the vocabulary with only `classes`. Raises `VocabularyError`."""
        return load_vocabulary(self.vocabulary).choose(self.classes)

    def resolved(self) -> dict[str, Any]:
        """Return all settings as JSON values, without hidden options."""
        return self.model_dump(mode="json")

    def sample_settings(self) -> dict[str, Any]:
        """Return the settings that can change a sample, see `infra.settings.identity`."""
        dumped = self.model_dump(mode="json", include=INCLUDED, exclude=EXCLUDED)
        return sample_settings(dumped, self.load_vocabulary())

    def record(self) -> dict[str, Any]:
        """Return what a run stores: `identity`, `settings` (resolved) and `sample_settings`."""
        return {
            "identity": self.identity,
            "settings": self.resolved(),
            "sample_settings": self.sample_settings(),
        }

    @property
    def identity(self) -> str:
        """SHA-256 (64 hex digits) of the settings that can change a sample."""
        return hash_samples(self.sample_settings())


def _defaults(model: type[BaseSettings]) -> Layer:
    return Layer("the default", model.model_construct().model_dump())
