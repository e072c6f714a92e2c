"""Settings of training and evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from infra.settings.section import Count, Section, Share, Versions, names

__all__ = ["CompareSettings", "EvaluateSettings", "PromoteSettings", "TrainSettings"]


def _weight(value: float) -> float:
    """Refuse a weight that leaves samples out, or that repeats a few of them all the time."""
    if not 1 / _MOST <= value <= _MOST:
        raise ValueError(
            f"give a weight from {1 / _MOST:g} to {_MOST:g}; to leave a version out, take it out "
            "of train.versions"
        )
    return value


_MOST = 10.0  # a sample that is rarer or more frequent by more would not count or fill the training
Weight = Annotated[float, AfterValidator(_weight)]
# beyond these, an image is a few pixels or takes gigabytes
Scale = Annotated[float, Field(ge=0.1, le=4)]


class TrainSettings(Section):
    """The segmenter and its training."""

    # docs/design-notes.md, "Defaults of training", at equal CPU time
    model: str = "segformer"
    """A preset (segformer, eomt, gss, semflow, …), a config's file or name, or a folder."""
    weights: str | None = None
    """Initial weights: a .safetensors or .pth file, or random. Default: what the config names."""
    schedule: Literal["segmint", "config"] = "segmint"
    """Optimiser, rates, crops and augmentations: segmint's own, or those of the config."""
    steps: Count | None = None
    """Training steps. Default: 1500, or the config's."""
    batch_size: Count | None = None
    """Images per step. Default: 16, or the config's."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate. Default: 0.008, or the config's."""
    paste: Share | None = None
    """Share of images with an object pasted from another image. Default: 1; config: 0."""
    splice: Share = 0.0
    """Share of images made into mosaics, as in DiffuMask."""
    blur: Share = 0.0
    """Share of blurred images, as in DiffuMask."""
    occlusion: Share = 0.0
    """Share of images with hidden parts, as in DiffuMask."""
    perspective: Share = 0.0
    """Share of images with a changed perspective, as in DiffuMask."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an average of the weights. The better of both becomes the checkpoint."""
    gpus: Count = 1
    """GPUs that share each batch, in a process each. Without CUDA: processes on the CPU."""
    workers: int = Field(default=0, ge=0)
    """Processes that load the dataset, for each GPU."""
    versions: Annotated[Versions, NoDecode] = "newest"
    """Versions trained on: newest (the one given), how many of the newest, all, or more by name."""
    version_weights: dict[str, Weight] = Field(default_factory=dict)
    """How often samples of each version are drawn, 0.1 to 10; those of the others have 1."""
    class_weights: dict[str, Weight] = Field(default_factory=dict)
    """How often each class is drawn, 0.1 to 10; the others have 1, so they are drawn evenly."""
    start: Literal["scratch", "champion"] = "scratch"
    """Initial weights: those of `weights`, or the champion's, which are then trained further."""
    protocol: Literal["synthetic", "joint", "fine-tune", "zero-shot"] = "synthetic"
    """Real images: none, mixed in, afterwards, or mixed in without labels of unseen classes."""
    real: str = Field(default="drawn", min_length=1)
    """Source of real images: drawn (scenes of the drawn world), or a folder in VOC layout."""
    real_images: Count = 2000
    """Number of scenes of the drawn world."""
    fine_tune_steps: Count = 500
    """Steps of fine-tuning on real images."""
    unseen: Annotated[tuple[str, ...], NoDecode, BeforeValidator(names)] = ()
    """Classes without real labels. Only for zero-shot."""

    @model_validator(mode="after")
    def _unseen_classes_belong_to_zero_shot(self) -> TrainSettings:
        if (self.protocol == "zero-shot") != bool(self.unseen):
            raise ValueError(
                f"protocol is {self.protocol!r} and unseen is {list(self.unseen)}; zero-shot, and "
                "no other protocol, needs the classes whose real labels are withheld"
            )
        return self

    @model_validator(mode="after")
    def _one_version_has_nothing_to_be_weighed_against(self) -> TrainSettings:
        if self.version_weights and self.versions in ("newest", 1):
            raise ValueError(
                f"version_weights names {', '.join(self.version_weights)}, but versions is "
                f"{self.versions!r}, a single one; name several in versions, or drop the weights"
            )
        return self

    @model_validator(mode="after")
    def _weights_have_one_source(self) -> TrainSettings:
        if self.start == "champion" and self.weights is not None:
            raise ValueError(
                f"start is 'champion' and weights is {self.weights!r}; give one of the two"
            )
        return self


class EvaluateSettings(Section):
    """Evaluation set of the segmenter: held-out drawn scenes, or a folder in VOC layout."""

    images: Count = 500
    """Held-out drawn scenes to report on. As many others decide whether the champion changes."""
    batch_size: Count = 16
    """Images per batch."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (1.0,)
    """Factors of the image's size; the predictions at all of them are averaged."""
    flip: bool = False
    """Average the predictions of the image and of its mirror image."""
    window: int | None = Field(default=None, ge=64)
    """Side in pixels of overlapping windows, for images that are larger. Default: whole images."""
    voc: str | None = None
    """Folder in VOC layout; half of its val images are reported. Default: drawn scenes."""


class PromoteSettings(Section):
    """When a challenger becomes the champion."""

    margin: float | None = Field(default=None, gt=0, le=1)
    """Also promote a mIoU higher by at least this, whatever its interval. Default: interval > 0."""


class CompareSettings(Section):
    """Segmenters that `segmint compare` trains on one version and compares."""

    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(names)] = ()
    """What to train, each as in train.model. Default: compare trained checkpoints only."""
    minutes: float | None = Field(default=None, gt=0)
    """Minutes of each training; its speed is measured first. Default: train.steps, equal images."""

    @model_validator(mode="after")
    def _minutes_belong_to_models(self) -> CompareSettings:
        if self.minutes is not None and not self.models:
            raise ValueError(
                f"minutes is {self.minutes:g}, but models is empty, so nothing would be trained; "
                "name the models, or leave minutes out"
            )
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"compare.models is {list(self.models)}; name each model once")
        return self
