"""Evaluate: a checkpoint on labelled images that no training saw → IoU, accuracy, calibration.

    checkpoints/<name>/evaluations/   the evaluation and its pixel counts (see `stored`)
    runs/<run>/evaluation.json        the evaluation again, for the report of the version's run

The set has two disjoint parts (see `sets`): the evaluation's own figures are those of the reported
part, and `decision` holds those of the part that decides about the champion. Two evaluations can be
compared if they have the same fingerprint, which is of images, labels, classes, division, and of
scales, flips and windows if there are any.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prefect import task

from infra.blocks import open_store
from infra.settings import EvaluateSettings, Settings
from infra.store import Store
from tasks.evaluate.measure import measure, summarise
from tasks.evaluate.memory import check_memory
from tasks.evaluate.sets import chosen_set, divide
from tasks.evaluate.stored import write_evaluation
from tasks.run.progress import Report, measured
from tasks.train.checkpoints import load_checkpoint, read_meta
from tasks.train.train import write_to_run

if TYPE_CHECKING:  # mmsegmentation takes seconds to import, so it is loaded where it is used
    from models.segmenters import Inference

__all__ = ["evaluate", "evaluate_checkpoint", "inference_of"]


def evaluate_checkpoint(store: Store, settings: Settings, checkpoint: str) -> dict[str, Any]:
    """Measure a checkpoint on the settings' set, write the evaluation beside it, and return it.

    Returned are the fields of `Evaluation` for the reported part of the set, with the same for the
    deciding part as `decision`, and the names of the classes that the set can show as `known`.
    Raises `VocError` for an image whose prediction takes more memory than is free.
    """
    meta = read_meta(store, checkpoint)
    classes = meta["classes"]
    of = chosen_set(settings.evaluate, classes)
    segmenter = load_checkpoint(store, checkpoint)
    inference = inference_of(settings.evaluate)
    if of.largest:
        check_memory(segmenter, *of.largest, inference)
    with Report("evaluate", checkpoint, of.images) as report:
        found = measure(segmenter, of.samples, settings.evaluate.batch_size, report, inference)
    reported, deciding, of = divide(found, of)
    unseen = meta.get("protocol", {}).get("unseen", ())
    figures = summarise(reported, of.reported_name, classes, of.known, unseen)
    decision = summarise(deciding, of.deciding_name, classes, of.known, unseen)
    both = f"{figures.fingerprint} {decision.fingerprint}"
    if inference != type(inference)():
        both += f" {asdict(inference)}"  # figures of another way to predict are no comparison
    result = {
        **asdict(figures),
        "fingerprint": hashlib.sha256(both.encode()).hexdigest(),
        "known": list(of.known),
        "decision": asdict(decision),
    }
    write_evaluation(store, checkpoint, result, reported.counts, deciding.counts)
    return result


def inference_of(settings: EvaluateSettings) -> Inference:
    """Return how the settings predict an image."""
    from models.segmenters import Inference

    return Inference(settings.scales, settings.flip, settings.window)


@task(name="evaluate", task_run_name="evaluate {checkpoint}")
def evaluate(settings: Settings, checkpoint: str, *, in_report: bool = True) -> dict[str, Any]:
    """Measure a checkpoint on the settings' set and return the evaluation.

    It is written beside the checkpoint, and with `in_report` also to the run that made the
    checkpoint's version.
    """
    store = open_store(settings.store)
    result = evaluate_checkpoint(store, settings, checkpoint)
    known = {name: iou for name, iou in result["iou"].items() if iou is not None}
    measured("evaluate", {"miou": {"": result["miou"]}, "iou": known})
    if in_report:
        version = read_meta(store, checkpoint)["version"]
        write_to_run(store, version, "evaluation", {**result, "checkpoint": checkpoint})
    return result
