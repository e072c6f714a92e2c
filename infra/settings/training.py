"""Settings of training and evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from infra.settings.section import Count, Section, Share, names

__all__ = ["EvaluateSettings", "TrainSettings"]


class TrainSettings(Section):
    """The segmenter and its training."""

    # model, rate and paste: docs/design-notes.md, "Defaults of training", at equal CPU time
    model: str = "segformer"
    """A model of models/segmenters, or an mmsegmentation config."""
    steps: Count = 1500
    """Training steps."""
    batch_size: Count = 16
    """Images per step."""
    learning_rate: float = Field(default=8e-3, gt=0)
    """Peak learning rate."""
    paste: Share = 1.0
    """Share of images with an object pasted from another image."""
    splice: Share = 0.0
    """Share of images made into mosaics, as in DiffuMask."""
    blur: Share = 0.0
    """Share of blurred images, as in DiffuMask."""
    occlusion: Share = 0.0
    """Share of images with hidden parts, as in DiffuMask."""
    perspective: Share = 0.0
    """Share of images with a changed perspective, as in DiffuMask."""
    workers: int = Field(default=0, ge=0)
    """Processes that load the dataset."""
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


class EvaluateSettings(Section):
    """Evaluation set of the segmenter: held-out drawn scenes, or a folder in VOC layout."""

    images: Count = 500
    """Held-out drawn scenes to report on. As many others decide whether the champion changes."""
    batch_size: Count = 16
    """Images per batch."""
    voc: str | None = None
    """Folder in VOC layout; half of its val images are reported. Default: drawn scenes."""
