"""Labellers: image and phrases → label map, by a trained model that the user names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from infra.settings import LabellerSettings, Settings, SettingsError
from models.generators import resolve_device
from models.labellers import (
    Found,
    Labeller,
    LabellerError,
    check_labeller,
    labeller_digest,
    open_labeller,
)
from models.masks import IGNORE, Refined, label_maps, object_scores, tidy
from models.masks.refinement import ground_alone

__all__ = ["label_found", "label_image", "load_labellers", "with_labellers"]

_KEPT = 4  # opened labellers that a process keeps

_opening = threading.Lock()  # threads of a process wait for one model instead of opening two
_finding = threading.Lock()  # tokenizers are not safe for threads, and images take much memory


def with_labellers(settings: Settings) -> Settings:
    """Return the settings with the digests of all labellers: other files, another run.

    Raises `SettingsError` for directories that cannot be loaded, and for those whose digest is not
    the labeller's `digest`.
    """
    if not settings.refine.labellers:
        return settings
    found = tuple(
        labeller.model_copy(update={"digest": _digest(number, labeller)})
        for number, labeller in enumerate(settings.refine.labellers)
    )
    refine = settings.refine.model_copy(update={"labellers": found})
    return settings.model_copy(update={"refine": refine})


def _digest(number: int, labeller: LabellerSettings) -> str:
    """Return the digest of a labeller's files, after checking them."""
    field = f"refine.labellers.{number}"
    try:
        check_labeller(labeller.kind, labeller.path, labeller.detector)
    except LabellerError as error:
        raise SettingsError(f"{field}: {error}") from error
    found = labeller_digest(labeller.path, labeller.detector)
    if labeller.digest not in (None, found):
        raise SettingsError(
            f"{field}.digest is {labeller.digest}, but the digest of {labeller.path} is {found}; "
            f"remove {field}.digest, or set {field}.path to the directory with that digest"
        )
    return found


def load_labellers(settings: Settings) -> list[Labeller]:
    """Return the labellers of the settings, each opened once per process.

    They compute on the generator's device. Raises `LabellerError` for a directory that cannot be
    opened, and `SettingsError` for other files than its `digest` says.
    """
    if not settings.refine.labellers:
        return []  # the generator's device may be on other machines only
    device = resolve_device(settings.generator.device)
    with _opening:
        return [_opened(*each, device) for each in enumerate(settings.refine.labellers)]


@lru_cache(maxsize=_KEPT)
def _opened(number: int, labeller: LabellerSettings, device: str) -> Labeller:
    _digest(number, labeller)  # a worker may have other files at this path than the run's start
    return open_labeller(labeller.kind, labeller.path, labeller.detector, device=device)


def label_image(
    image: Tensor,
    phrases: Sequence[str],
    ids: Sequence[int],
    labeller: Labeller,
    *,
    spread: Tensor,
    plain: Tensor,
    band: float,
) -> Refined:
    """Label an image (1, H, W, 3) uint8 by a labeller that looks for C phrases.

    `ids` are the label values of the phrases, `spread` and `plain` (1, C, r, r) their attention.
    See `label_found` for the result. Without phrases every pixel is background.
    """
    if not phrases:
        return ground_alone(image)
    with _finding:
        found = labeller.find(image[0], phrases, spread[0].float())
    attended = object_scores(spread, (image.shape[1], image.shape[2]), plain)
    return label_found(found, attended, ids, band)


def label_found(found: Found, attended: Tensor, ids: Sequence[int], band: float) -> Refined:
    """Return the label of what a labeller found: the phrase with the highest score at each pixel.

    The background's score is 1 − the highest. Pixels whose confidence (see `label_maps`) is below
    `band` are 255, and contours are tidied. `attended` (1, 1 + C, H, W) are the scores of
    background and classes by attention. Confidence is the mean certainty over the pixels that have
    a class, each pixel's that of its phrase, and 0 if there are none. Consistency is the IoU of the
    foregrounds by labeller and by attention alone: low where the two disagree.
    """
    scores = torch.cat([1 - found.scores.amax(0, keepdim=True), found.scores])[None]
    label = tidy(label_maps(scores, torch.tensor([[0, *ids]]), band).label)
    certainty = torch.zeros(IGNORE + 1)
    certainty[list(ids)] = torch.tensor(found.certainty)
    labelled = certainty[label[(label > 0) & (label < IGNORE)].long()]
    confidence = labelled.mean() if len(labelled) else torch.zeros(())
    first, second = attended.argmax(1) > 0, scores.argmax(1) > 0
    union = (first | second).sum((1, 2)).clamp_min(1)
    return Refined(label, confidence[None], (first & second).sum((1, 2)) / union)
