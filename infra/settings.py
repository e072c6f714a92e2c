"""What a run may be told: one frozen model, read from flags, the environment and a file, in that
order of precedence.

`Settings(_file=…, _flags=…, **values)` merges, strongest first: keyword values, flags
(`plan.images=200`), environment (`SEGMINT_PLAN__IMAGES=200`), a TOML or YAML file, defaults.
Whatever is unknown or wrong raises `SettingsError` with the field, where it came from and the
remedy. Credentials are taken from the environment alone and leave this model as attributes only:
never in a dump, in `repr` or in an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from infra.credentials import public, refuse_written
from infra.sources import SettingsError, explain, merge, read_layers
from infra.vocabulary import Vocabulary, load_vocabulary

__all__ = [
    "AlarmSettings",
    "ComposeSettings",
    "ComputeSettings",
    "EvaluateSettings",
    "GeneratorSettings",
    "KubernetesSettings",
    "PlanSettings",
    "PublishSettings",
    "RefineSettings",
    "RetentionSettings",
    "SelectSettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "TrainSettings",
    "WatchSettings",
    "check_same_run",
]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


def _leave_empty(schema: dict[str, Any]) -> None:
    """Tell defaults in words:

    Prefect's form would fill them in, and so overrule what a worker's environment says.
    """
    for field in schema.get("properties", {}).values():
        value = field.pop("default", None)
        if isinstance(value, str | int | float):
            field["description"] += f" [{json.dumps(value) if isinstance(value, bool) else value}]"


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # they explain the fields of Prefect's form
        model_title_generator=lambda section: section.__name__.removesuffix("Settings"),
        json_schema_extra=_leave_empty,
    )


def _booleans(value: Any) -> Any:
    """Flags and environment are text, and fsspec would take "false" for true."""
    if isinstance(value, Mapping):
        return {name: _booleans(inner) for name, inner in value.items()}
    return (
        {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(value, str)
        else value
    )


class StoreSettings(_Section):
    """Root of the dataset store: a folder or any fsspec URL, with options for its filesystem."""

    url: str = Field(default="out/store", min_length=1)
    """A folder, or s3://bucket/prefix and the like."""
    options: Annotated[dict[str, Any], BeforeValidator(_booleans)] = {}
    """Options of fsspec's filesystem, such as endpoint_url; credentials come from the environment
    or the block.
    """
    block: str | None = None
    """A Prefect Secret block that holds more options as JSON, credentials among them; none: the
    environment does.
    """

    @field_serializer("url", "options")
    def _serialise(self, value: Any) -> Any:
        return public(value)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from self.model_dump().items()


class PlanSettings(_Section):
    """How many images, of what kind, in shards of how many rows."""

    images: Count = 2000
    """Images to generate, kept or not."""
    multi: Share = 0.3
    """Share of prompts that name two or three classes."""
    negatives: Share = 0.05
    """Share of prompts with a background only."""
    shard_size: Count = 64
    """Images of one shard: minutes of work."""
    captions: str | None = None
    """Text file of one caption a line, for prompts of one class; none: templates alone."""
    captioned: Share = 0.5
    """Share of captions among the prompts of a class that has any."""
    budget: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Weight of each class; none: the champion's, or all alike where there is no champion."""

    @model_validator(mode="after")
    def _leave_room_for_single_objects(self) -> PlanSettings:
        if self.multi + self.negatives > 1:
            raise ValueError(
                f"multi {self.multi} + negatives {self.negatives} is more than 1; lower one of them"
            )
        return self


class GeneratorSettings(_Section):
    """The text-to-image pipeline: `embedded`, or a diffusers directory."""

    path: str = Field(default="embedded", min_length=1)
    """embedded, or a directory of a Stable Diffusion 1.x or 2.x pipeline in safetensors."""
    weights: str | None = None
    """Digest of the pipeline's files; none: whatever is there when the run starts."""
    num_inference_steps: Count = 25
    """Denoising steps of an image."""
    guidance_scale: float = Field(default=7.5, ge=1)
    """Strength of classifier-free guidance; 1 for none."""
    # Lin et al. 2024, §3.4 (theirs: 0.7); measured in ARCHITECTURE.md
    guidance_rescale: Share = 0.8
    """How far strong guidance is kept from washing colours out; 0 for not at all."""
    # two objects both drawn 0.55 → 0.89
    excitation: Share = 0.05
    """Push of Attend-and-Excite, for prompts of several classes; 0 for none."""
    # on prompts of two and three objects the phrases' labels had IoU 0.82 and 0.73, the names' 0.78
    # and 0.69
    attention: Literal["phrases", "names"] = "phrases"
    """Whose attention is recorded: the prompt's own noun phrases, or class names alone, as Dataset
    Diffusion does.
    """
    batch_size: Count = 16
    """Images at once; changes no sample."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """auto, cpu, mps, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the networks; auto: the fastest by measurement."""
    height: int | None = Field(default=None, ge=64, multiple_of=8)
    """Of an image, in pixels; none: the pipeline's own."""
    width: int | None = Field(default=None, ge=64, multiple_of=8)
    """Of an image, in pixels; none: the pipeline's own."""


class RefineSettings(_Section):
    """Attention to label."""

    method: Literal["colour", "diffumask"] = "colour"
    """By the object's colours, or as DiffuMask does: affinities learnt from the run, a walk, a
    threshold that fits.
    """
    affinity_steps: Count = 300
    """Steps of DiffuMask's training."""
    # label IoU 0.756, 0.762, 0.747 with 1, 2, 4 on drawn scenes
    propagation_steps: Count = 2
    """Steps by which attention spreads along self-attention."""
    # after the colours' split, more change nothing (PAMR's paper: 10)
    pamr_iterations: int = Field(default=3, ge=0)
    """Rounds by which labels follow the image's edges."""
    ignore_band: Share = 0.1
    """Half width of the band around the threshold that is 255, in units of the map's range."""


class ComposeSettings(_Section):
    """Scenes made of objects that were generated one by one."""

    images: int = Field(default=0, ge=0)
    """Scenes to compose, beside plan.images."""
    spliced: Share = 0.25
    """Share of them that are mosaics of whole images."""


def _names(value: Any) -> Any:
    """`car,tree`, as flags and the environment write a list."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _share_or_auto(value: Any) -> Any:
    if value == "auto":
        return value
    try:
        if 0 < float(value) <= 1:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ValueError("give a share over 0 and up to 1, or auto")


_Choice = float | Literal["auto"]
ShareOrAuto = Annotated[
    _Choice, PlainValidator(_share_or_auto, json_schema_input_type=_Choice)
]  # one error, not two


class SelectSettings(_Section):
    """What may be published."""

    min_area: Share = 0.01
    """Least share of the image, for every class that the prompt names."""
    max_area: Share = 0.94  # DiffuMask's
    """Largest share of the image, for a class."""
    max_ignored: Share = 0.4
    """Largest share of unsure pixels in the image."""
    # Against 0.5, kept pictures of one and two objects gained label IoU (0.917 to 0.927, 0.80 to
    # 0.855), two of three were kept instead of nine of ten, and a segmenter trained on as many of
    # them came out the same or better.
    min_confidence: Share = 0.65
    """Least mean confidence of a label."""
    max_components: Count = 4
    """Most pieces of a class."""
    min_largest: Share = 0.3
    """Least share of a class's pixels in its largest piece; two equal objects have 0.5."""
    # One object asked of the embedded generator: missing, at most 0.07 (14 of 15 pictures); there,
    # at least 0.20 (1 100).
    min_contrast: Share = 0.12
    """By how much of it a phrase's attention has to fall below its strongest; it is flat for what
    is not there.
    """
    min_consistency: Share = 0.65
    """Least IoU of the label before and after it followed the image's edges."""
    folds: int = Field(default=0, ge=0)
    """Networks of noise learning, each of which judges what it was not trained on; 0 for none, else
    2 and more.
    """
    fold_steps: Count = 600
    """Steps of each of these trainings."""
    keep: ShareOrAuto = 1.0
    """Share of each class that those networks trust most; auto: all but what stands out below the
    others.
    """
    pixel_loss: Annotated[float, Field(gt=0)] | None = None
    """Pixels whose held-out loss is over so many times its class's mean become 255; none: all stay.
    """

    @field_validator("folds")
    @classmethod
    def _one_fold_has_nothing_to_learn_from(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError(
                "1 fold leaves nothing to train on; give 0 for no noise learning, or 2 and more"
            )
        return folds


class TrainSettings(_Section):
    """The segmenter."""

    model: str = "segformer-b0"
    """A model of models/segmenters, or an mmsegmentation config."""
    steps: Count = 2000
    """Steps of the training."""
    batch_size: Count = 16
    """Pictures of a step."""
    # of Muon; 210 of a night's samples and 400 steps gave 0.591 mIoU with it
    learning_rate: float = Field(default=4e-3, gt=0)
    """At its highest."""
    paste: Share = 0.0
    """Share of the pictures that get an object of another one."""
    splice: Share = 0.0
    """Share of the pictures that become mosaics, as in DiffuMask."""
    blur: Share = 0.0
    """Share of the pictures that are blurred, as in DiffuMask."""
    occlusion: Share = 0.0
    """Share of the pictures of which parts are hidden, as in DiffuMask."""
    perspective: Share = 0.0
    """Share of the pictures seen from another side, as in DiffuMask."""
    workers: int = Field(default=0, ge=0)
    """Processes that read the dataset."""
    protocol: Literal["synthetic", "joint", "fine-tune", "zero-shot"] = "synthetic"
    """What is seen beside the version: nothing, real pictures mixed in, afterwards, or without
    their unseen classes.
    """
    real: str = Field(default="drawn", min_length=1)
    """Real pictures: drawn, for scenes of the drawn world, or a folder in VOC layout."""
    real_images: Count = 2000
    """Scenes of the drawn world."""
    fine_tune_steps: Count = 500
    """Steps of the training on real pictures afterwards."""
    unseen: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ()
    """Classes without real labels; for zero-shot alone."""

    @model_validator(mode="after")
    def _unseen_classes_belong_to_zero_shot(self) -> TrainSettings:
        if (self.protocol == "zero-shot") != bool(self.unseen):
            raise ValueError(
                f"protocol is {self.protocol!r} and unseen is {list(self.unseen)}; zero-shot, and no other protocol, "
                "needs the classes whose real labels are withheld"
            )
        return self


class EvaluateSettings(_Section):
    """What the segmenter is measured on: held-out drawn scenes, or a folder in VOC layout."""

    images: Count = 500
    """Held-out drawn scenes."""
    batch_size: Count = 16
    """Pictures at once."""
    voc: str | None = None
    """A folder in VOC layout to measure on; none: the drawn world."""


class PublishSettings(_Section):
    """What becomes of a night of which some shards could not be made."""

    partial: bool = False
    """Publish the rest, as another version; otherwise nothing, and the night has failed."""


class RetentionSettings(_Section):
    """What `segmint gc` leaves in the store; the champion's version and pinned ones stay whatever
    these say.
    """

    versions: Count = 14
    """So many of the newest versions, however old."""
    days: Annotated[float, Field(ge=0)] = 30.0
    """Versions that are younger, however many."""
    run_days: Annotated[float, Field(ge=0)] = 7.0
    """How long a published run's working shards stay."""
    abandoned_days: Annotated[float, Field(ge=1)] = 30.0
    """How long a run that published nothing stays, since anything was written to it."""


class AlarmSettings(_Section):
    """When an event tells that somebody should look."""

    keep_rate: Share = 0.2
    """A night that keeps a smaller share of its images."""
    regression: Share = 0.02
    """The champion's mIoU falls by more, on a set of the same name."""
    notify: str | None = None
    """Prefect notification block whom automations tell, as slack-webhook/team; none: nobody."""


class WatchSettings(_Section):
    """How a run is followed, beside Prefect's UI."""

    metrics: str | None = Field(default=None, pattern=r"^([^:]+|https?://[^@\s]+)$")
    """Where Prometheus finds a run's metrics: http://HOST:PORT of a Pushgateway, or a folder of
    node_exporter's.
    """
    lines: str | None = Field(default=None, min_length=1)
    """Where events go as lines of JSON: a folder, in which each run has a file; - for standard
    error.
    """
    links: str | None = Field(default=None, pattern=r"^https?://[^@\s]+$")
    """Web address by which people can read the store's files, for links to report, version and
    champion.
    """
    seconds: float = Field(default=10.0, ge=0.1)
    """Between two updates of progress and metrics."""


class KubernetesSettings(_Section):
    """The pods of a run whose `compute.runner` is dask-kubernetes; the Dask operator makes and
    removes them.
    """

    namespace: str = Field(default="segmint", pattern=_DNS_LABEL, max_length=63)
    """Namespace of scheduler and workers."""
    image: str = Field(default="segmint-gpu:0.1.0", min_length=1)
    """Image of scheduler and workers, made by infra/images."""
    gpus: int = Field(default=1, ge=0)
    """GPUs of a worker; 0 for workers on CPUs."""
    cpu: Count = 4
    """Cores of a worker."""
    memory: str = Field(default="16Gi", pattern=r"^[1-9]\d*[MGT]i$")
    """Memory of a worker, in Mi, Gi or Ti, such as 16Gi."""
    secret: str | None = Field(default="segmint-store", pattern=_DNS_LABEL)
    """Kubernetes secret whose keys become the workers' environment: the store's credentials."""
    service_account: str | None = Field(default=None, pattern=_DNS_LABEL)
    """Service account of the pods, where that opens the store."""


class ComputeSettings(_Section):
    """Where tasks run."""

    runner: str = Field(
        default="threads", pattern=r"^(threads|dask-local|dask-kubernetes|dask://.+)$"
    )
    """threads, dask-local, dask-kubernetes or dask://HOST:PORT of a scheduler."""
    workers: Count = 1
    """Workers without a GPU."""
    gpus: int = Field(default=0, ge=0)
    """Of dask-local: one more worker for each; elsewhere over 0 if workers offer Dask's resource
    GPU.
    """
    limit: str | None = None
    """Prefect's global concurrency limit, a slot of which every task on a GPU holds."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """Pods of dask-kubernetes."""

    @model_validator(mode="after")
    def _somebody_owns_the_gpus(self) -> ComputeSettings:
        if self.gpus and self.runner == "threads":
            raise ValueError(
                f"gpus is {self.gpus}, but threads share one process and one GPU; set runner to dask-local"
            )
        if self.gpus and self.runner == "dask-kubernetes" and not self.kubernetes.gpus:
            raise ValueError(
                f"gpus is {self.gpus}, but kubernetes.gpus is 0, so no worker would take their work; set it to 1"
            )
        return self


# Fields that runs in users' stores were made without; at these values samples are as they were, and
# so is the identity.
_ADDED_SINCE: dict[str, dict[str, Any]] = {"generator": {"attention": "phrases"}}


class Settings(BaseSettings):
    """Everything a run is told. Frozen; equal `identity` means equal samples."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        json_schema_extra=_leave_empty,
    )

    name: str = Field(
        default="nightly", pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]|\{date\})*$", max_length=100
    )
    """Of the run: letters, digits, '.', '_' and '-', a letter or digit first; {date} becomes the
    night's date.
    """
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Another seed makes other pictures of the same settings."""
    vocabulary: str = Field(default="world", min_length=1)
    """voc, coco, ade20k, cityscapes, world, or a JSON file of the same kind."""
    classes: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_names)] = None
    """Class names to make; none: all of the vocabulary."""
    store: StoreSettings = StoreSettings()
    """Where the dataset lies."""
    plan: PlanSettings = PlanSettings()
    """How many images of what kind."""
    generator: GeneratorSettings = GeneratorSettings()
    """Text to image."""
    refine: RefineSettings = RefineSettings()
    """Attention to label."""
    compose: ComposeSettings = ComposeSettings()
    """Scenes of several objects."""
    select: SelectSettings = SelectSettings()
    """What may be published."""
    train: TrainSettings = TrainSettings()
    """The segmenter."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """What the segmenter is measured on."""
    compute: ComputeSettings = ComputeSettings()
    """Where tasks run."""
    publish: PublishSettings = PublishSettings()
    """A night of which a part could not be made."""
    retention: RetentionSettings = RetentionSettings()
    """What segmint gc leaves."""
    alarm: AlarmSettings = AlarmSettings()
    """When somebody should look."""
    watch: WatchSettings = WatchSettings()
    """How the run is followed."""

    def __init__(
        self, _file: Path | None = None, _flags: Sequence[str] = (), **values: Any
    ) -> None:
        layers = read_layers(type(self), _file, _flags, values)
        refuse_written(layers)
        try:
            super().__init__(**merge(layers))
        except ValidationError as error:
            raise SettingsError(explain(error, layers, type(self))) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `__init__` merged: pydantic-settings would forget which source a value came
        from.
        """
        return (init_settings,)

    def dated(self, day: date) -> Settings:
        """With `{date}` in the name, the settings of that night: its date in the name, and a seed
        that no other has.
        """
        if "{date}" not in self.name:
            return self
        night = {
            "name": self.name.replace("{date}", day.isoformat()),
            "seed": self.seed + day.toordinal(),
        }
        return self.model_copy(update=night)

    def load_vocabulary(self) -> Vocabulary:
        """The vocabulary, narrowed to `classes`. Raises `VocabularyError`."""
        return load_vocabulary(self.vocabulary).choose(self.classes)

    def resolved(self) -> dict[str, Any]:
        """All settings as JSON values, without credentials."""
        return self.model_dump(mode="json")

    def sample_settings(self) -> dict[str, Any]:
        """The part that can change a sample, with the content of vocabulary and captions for their
        names.

        Left out: name, store, compute, train, evaluate, publish, retention, alarm, watch, batch
        size, device, and the shard size, which orders work only.
        """
        chosen = {"seed", "plan", "generator", "refine", "compose", "select"}
        unimportant = {"plan": {"shard_size"}, "generator": {"batch_size", "device"}}
        dumped = self.model_dump(mode="json", include=chosen, exclude=unimportant)
        dumped["plan"]["captions"] = self._captions_digest()
        for section, added in _ADDED_SINCE.items():
            dumped[section] = {
                name: v
                for name, v in dumped[section].items()
                if name not in added or v != added[name]
            }
        return dumped | {"vocabulary": self.load_vocabulary().model_dump(mode="json")}

    def _captions_digest(self) -> str | None:
        if self.plan.captions is None:
            return None
        try:
            return hashlib.sha256(Path(self.plan.captions).read_bytes()).hexdigest()
        except OSError as error:
            raise SettingsError(
                f"cannot read plan.captions {self.plan.captions!r} ({error.strerror}); give a text file of one caption "
                f"a line, or leave the field out"
            ) from None

    def record(self) -> dict[str, Any]:
        """What a run leaves in the store:

        `identity`, `settings` (resolved) and `sample_settings`.
        """
        return {
            "identity": self.identity,
            "settings": self.resolved(),
            "sample_settings": self.sample_settings(),
        }

    @property
    def identity(self) -> str:
        """Sha256 (64 hex digits) of the canonical JSON of `sample_settings()`."""
        canonical = json.dumps(
            self.sample_settings(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return hashlib.sha256(canonical.encode()).hexdigest()


def check_same_run(stored: Mapping[str, Any], settings: Settings) -> None:
    """Raise `SettingsError` if the run whose `record()` is `stored` would make other samples; list
    what differs.
    """
    differing = list(_differences(stored["sample_settings"], settings.sample_settings()))
    if differing:
        raise SettingsError(
            f"run {settings.name!r} is in the store with other settings: {'; '.join(differing)}. "
            f"Give this run another name, or the same settings to resume it"
        )


def _differences(stored: Any, ours: Any, path: str = "") -> Iterator[str]:
    if isinstance(stored, Mapping) and isinstance(ours, Mapping) and path != "vocabulary":
        for name in sorted(stored.keys() | ours.keys()):
            yield from _differences(stored.get(name), ours.get(name), f"{path}.{name}".lstrip("."))
    elif stored != ours:
        yield (
            f"{path} was {stored!r}, is {ours!r}"
            if path != "vocabulary"
            else "vocabulary has other content"
        )
