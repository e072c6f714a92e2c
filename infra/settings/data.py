"""Settings of the stages that make a dataset version, from the plan to the selection."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from infra.settings.section import Count, Section, Share, ShareOrAuto, tables

__all__ = [
    "FLOW",
    "ComposeSettings",
    "GeneratorSettings",
    "LabellerSettings",
    "PlanSettings",
    "RefineSettings",
    "SelectSettings",
]


Weight = Annotated[float, Field(gt=0, le=1e6)]


class PlanSettings(Section):
    """Number of images, their kinds, and the size of shards."""

    images: Count = 2000
    """Images to generate. Selection keeps a part of them."""
    multi: Share = 0.3
    """Share of prompts that name two or three classes."""
    negatives: Share = 0.05
    """Share of prompts that name only a background."""
    shard_size: Count = 64
    """Images per shard. A task works on one shard, for minutes."""
    captions: str | None = None
    """Text file with one caption per line, for prompts of one class. Default: templates only."""
    captioned: Share = 0.5
    """Share of captions among the prompts of a class that has captions."""
    budget: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Weight per class. Default: the champion's budget; equal weights if there is no champion."""
    backgrounds: dict[str, Weight] | None = None
    """Weight per background. Default: the champion's, else equal."""
    counts: dict[Literal["two", "three"], Weight] | None = None
    """Weight of two and of three classes within `multi`. Default: the champion's, else equal."""
    sizes: dict[str, Weight] | None = None
    """Weight per word of size. Default: the champion's, else equal."""
    subclasses: dict[str, dict[str, Weight]] | None = None
    """Factor per sub-class of each class, on the vocabulary's weight. Default: the champion's."""

    @model_validator(mode="after")
    def _leave_room_for_single_objects(self) -> PlanSettings:
        if self.multi + self.negatives > 1:
            raise ValueError(
                f"multi {self.multi} + negatives {self.negatives} is more than 1; lower one of them"
            )
        return self


FLOW = "semflow:"  # before a checkpoint's name, in generator.path


class GeneratorSettings(Section):
    """Text-to-image pipeline, or a trained SemFlow that draws label maps."""

    path: str = Field(default="embedded", min_length=1)
    """embedded, a Stable Diffusion 1.x or 2.x directory in safetensors, or semflow:CHECKPOINT."""
    weights: str | None = None
    """Digest of the generator's files. Default: that of the files when the run starts."""
    labels: str | None = None
    """Label maps that a SemFlow draws: a version, or a folder in VOC layout with a / (./maps)."""
    labels_digest: str | None = None
    """Digest of the label maps. Default: that when the run starts."""
    layouts: Literal["given", "composed"] = "given"
    """given: the label maps themselves. composed: with objects of other label maps added."""
    num_inference_steps: Count = 25
    """Denoising steps per image, or Euler steps of a SemFlow."""
    guidance_scale: float = Field(default=7.5, ge=1)
    """Scale of classifier-free guidance. 1 turns it off."""
    # Lin et al. 2024, §3.4 (theirs: 0.7); measured in docs/design-notes.md
    guidance_rescale: Share = 0.8
    """Rescaling of guided predictions, against washed-out colours. 0 turns it off."""
    # images that show both objects of the prompt: 0.55 without, 0.89 with
    excitation: Share = 0.05
    """Strength of Attend-and-Excite, for prompts with several classes. 0 turns it off."""
    # label IoU on prompts of two and three objects: phrases 0.82 and 0.73, names 0.78 and 0.69
    attention: Literal["phrases", "names"] = "phrases"
    """Text whose attention is recorded: phrases of the prompt, or names of classes alone."""
    batch_size: Count = 16
    """Images per batch. It does not change any sample."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """auto, cpu, mps, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the networks. auto takes the fastest that was measured on the device."""
    height: int | None = Field(default=None, ge=64, multiple_of=8)
    """Image height in pixels. Default: the pipeline's own, or that of the label maps."""
    width: int | None = Field(default=None, ge=64, multiple_of=8)
    """Image width in pixels. Default: the pipeline's own, or that of the label maps."""

    @property
    def flow(self) -> str | None:
        """Name of the SemFlow's checkpoint; None for a text-to-image pipeline."""
        return self.path.removeprefix(FLOW) if self.path.startswith(FLOW) else None


class LabellerSettings(Section):
    """Each table of the list: a trained model that finds the prompt's phrases in the image."""

    kind: Literal["sam3", "clipseg", "grounded-sam2"]
    """sam3 and clipseg: text to masks. grounded-sam2: text to boxes, and these to masks."""
    path: str = Field(min_length=1)
    """Directory of Hugging Face in safetensors: a SAM 3, CLIPSeg or SAM 2."""
    detector: str | None = Field(default=None, min_length=1)
    """Directory of a Grounding DINO, which finds the boxes. Only for grounded-sam2."""
    digest: str | None = None
    """Digest of the files in both. Default: that when the run starts."""

    @model_validator(mode="after")
    def _boxes_belong_to_grounded_sam2(self) -> LabellerSettings:
        if (self.kind == "grounded-sam2") != (self.detector is not None):
            given = "set" if self.detector is not None else "not set"
            raise ValueError(
                f"kind is {self.kind!r} and detector is {given}; grounded-sam2, and no other "
                "kind, needs the directory of a Grounding DINO there"
            )
        return self


class RefineSettings(Section):
    """Attention maps to label maps."""

    method: Literal["colour", "diffumask", "labeller"] = "colour"
    """colour: by the object's colours. diffumask: walk, threshold. labeller: by it alone."""
    labellers: Annotated[tuple[LabellerSettings, ...], BeforeValidator(tables)] = ()
    """Trained models that find the prompt's phrases in the image."""
    affinity_steps: Count = 300
    """Training steps of DiffuMask's affinity network."""
    # label IoU on drawn scenes with 1, 2, 4 steps: 0.756, 0.762, 0.747
    propagation_steps: Count = 2
    """Steps that propagate cross-attention along self-attention."""
    # more iterations change nothing after the split by colours (PAMR's paper: 10)
    pamr_iterations: int = Field(default=3, ge=0)
    """Iterations of PAMR, which aligns labels with the image's edges."""
    ignore_band: Share = 0.1
    """Half width of the ignored (255) band around the threshold, as a share of the map's range."""

    @model_validator(mode="after")
    def _a_labeller_decides_alone(self) -> RefineSettings:
        count = len(self.labellers)
        if self.method == "labeller" and count != 1:
            raise ValueError(
                f"method is 'labeller', and labellers has {count} tables; give the one labeller "
                "that decides: its kind and path"
            )
        if self.method != "labeller" and count:
            raise ValueError(
                f"labellers has {count} tables, but method is {self.method!r}, which uses none; "
                "set method to 'labeller', or leave labellers out"
            )
        return self


class ComposeSettings(Section):
    """Scenes composed of objects that were generated one by one."""

    images: int = Field(default=0, ge=0)
    """Scenes to compose, in addition to plan.images."""
    spliced: Share = 0.25
    """Share of the scenes that are mosaics of whole images."""


class SelectSettings(Section):
    """Which samples may be published."""

    min_area: Share = 0.01
    """Smallest share of the image for each class that the prompt names."""
    max_area: Share = 0.94  # DiffuMask's
    """Largest share of the image for one class."""
    max_ignored: Share = 0.4
    """Largest share of ignored (255) pixels in an image."""
    # Kept of one-object images: 0.95 of generated drawings, with label IoU 0.930 instead of 0.918;
    # 0.56 and 0.72 of photographs with two kinds of a network's maps, 0.84 and 0.85 instead of 0.77
    # and 0.80 (`benchmarks.photographs`).
    min_confidence: Share = 0.78
    """Smallest confidence of a label: the IoU with the truth that one can expect."""
    max_components: Count = 4
    """Most connected components of a class."""
    min_largest: Share = 0.3
    """Smallest share of a class's pixels in its largest component. Two equal objects have 0.5."""
    # Embedded generator, prompts of one object: at most 0.07 where the object is missing (14 of 15
    # images), at least 0.20 where it exists (1 100 images).
    min_contrast: Share = 0.12
    """Smallest contrast of a phrase's attention, (max - min) / max. Low for a missing object."""
    # Labels that repair a poor map differ from it; confidence counts for more.
    min_consistency: Share = 0.5
    """Smallest IoU of the foreground by attention alone and of the label's."""
    folds: int = Field(default=0, ge=0)
    """Networks of noise learning; each judges samples it has not seen. 0: none, else 2 or more."""
    fold_steps: Count = 600
    """Training steps of each of these networks."""
    keep: ShareOrAuto = 1.0
    """Share of each class to keep, ranked by these networks. auto drops only low outliers."""
    pixel_loss: Annotated[float, Field(gt=0)] | None = None
    """Pixels with a loss over this multiple of the class's mean become 255. Default: off."""

    @field_validator("folds")
    @classmethod
    def _one_fold_has_nothing_to_learn_from(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError(
                "1 fold leaves nothing to train on; give 0 for no noise learning, or 2 and more"
            )
        return folds
