"""Schemas: the fields of the store's JSON files that are read; other fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from infra.parsing import checked
from infra.store import Manifest, Published, StoreError
from infra.store.store import NAME
from infra.vocabulary import Seeds
from tasks.budgets import Weights, Wording

__all__ = [
    "CHAMPIONS",
    "Champion",
    "Compared",
    "Comparison",
    "Evaluated",
    "Measurement",
    "Meta",
    "Origin",
    "Pace",
    "Ranking",
    "Record",
    "Shown",
    "Sources",
    "Threshold",
    "Trained",
    "Training",
    "origin_of",
]

CHAMPIONS = "champions"  # log of the champions; the last entry is the champion
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]
Images = Annotated[int, Field(ge=1, le=1 << 24)]
ClassId = Annotated[int, Field(ge=1, le=254)]


class _Part(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Trained(_Part):
    """meta.json of a network: SHA-256 of its files, names of its label ids."""

    files: dict[str, str]
    classes: list[str]


class _Unseen(_Part):
    unseen: list[str] = []


class _Source(_Part):
    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    digest: str


class Sources(_Part):
    """versions.json of a checkpoint that is trained on several versions: their digests."""

    versions: list[_Source] = []


class _Start(_Part):
    checkpoint: str
    sha256: str


class Meta(Trained, Sources):
    """meta.json of a checkpoint: what it was trained on.

    `versions` is empty if that is `version` alone; `start` is the checkpoint that it started from.
    """

    checkpoint: str
    version: str
    manifest: str
    protocol: _Unseen = _Unseen()
    start: _Start | None = None


class Evaluated(_Part):
    """An evaluation, as the report shows it."""

    set: str
    images: int = 0
    miou: Share
    iou: dict[str, Share | None]
    uncertainty: dict[str, Share | None] = {}


class Compared(Evaluated):
    """An evaluation that can be compared with another one of the same fingerprint."""

    fingerprint: str
    decision: Evaluated | None = None


class _Deciding(Evaluated):
    images: Images


class Measurement(Compared):
    """An evaluation whose pixel counts are stored; `decision` is of the images that decide."""

    known: list[str]
    decision: _Deciding


class Pace(_Part):
    """pace.json of a comparison: the steps that each model trains for."""

    steps: dict[str, Annotated[int, Field(ge=1)]]


class _Contender(_Part):
    checkpoint: str


class Comparison(_Part):
    """comparison.json, as the garbage collection reads it."""

    contenders: list[_Contender]


class Champion(_Part):
    """The champion, as `promote` reads it."""

    checkpoint: str
    version: str
    evaluation: Compared
    before: list[str] = []
    lost: list[str] = []
    withdrawn: list[str] = []


class _Budget(Wording):
    budget: Weights | None


class _Planned(_Part):
    plan: _Budget
    generator: dict[str, Any]


class Record(_Part):
    """A run's settings.json, as a resumed run reads it."""

    identity: str
    settings: _Planned
    sample_settings: dict[str, Any]


class _Entry(_Part):
    id: ClassId
    name: str
    palette: tuple[Byte, Byte, Byte] | None = None
    seeds: Seeds | None = None


class _Vocabulary(_Part):
    classes: list[_Entry] = []


class _Labelled(_Part):
    vocabulary: _Vocabulary = _Vocabulary()


class _Sections(_Part):
    generator: dict[str, Any] = {}
    refine: dict[str, Any] = {}
    select: dict[str, Any] = {}


class Shown(_Part):
    """A run's settings.json, as the report reads it."""

    identity: str = ""
    settings: _Sections = _Sections()
    sample_settings: _Labelled = _Labelled()


class _Step(_Part):
    step: Amount
    loss: float
    images_per_second: Amount = 0


class _Recipe(_Part):
    steps: int = 0
    batch_size: int = 0


class Training(Sources):
    """training.json of a run, and meta.json of a noise-learning network."""

    samples: Annotated[int, Field(ge=0)] = 0
    curve: list[_Step] = []
    seconds: Amount = 0
    recipe: _Recipe = _Recipe()


class Origin(_Part):
    """Where a version comes from: its run, the run's identity, and the label id of each class.

    `drawn` says of which label maps its images are; it is empty for images of prompts.
    """

    run: Annotated[str, Field(pattern=f"^{NAME}$")]
    identity: str = ""
    classes: dict[str, ClassId]
    drawn: dict[str, str] = {}


class Threshold(_Part):
    """Threshold of a class: score and row of its last kept sample."""

    score: Share
    row: Annotated[int, Field(ge=0)]


class Ranking(_Part):
    """ranking.json of a run: threshold per class, mean held-out loss per label id."""

    bars: dict[str, Threshold]
    losses: dict[Byte, Amount]


def origin_of(manifest: Manifest | Published) -> Origin:
    """Return where a version comes from. Raises `StoreError` if its manifest does not say it."""
    try:
        origin: Origin = checked(manifest.meta, Origin)
    except ValueError as error:
        raise StoreError(
            f"the manifest of version {manifest.version!r}: meta.{error}; publish it anew"
        ) from error
    return origin
