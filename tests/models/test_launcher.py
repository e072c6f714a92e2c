"""Several processes train as one: the same weights, no process left behind, nothing lost."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.segmenters import (
    Execution,
    Segmenter,
    Snapshots,
    TrainingError,
    TrainingRecipe,
    train_segmenter,
)
from models.segmenters.sharing import SharedBatchNorm
from tests.models.test_segmenters import CLASSES, TINY, Squares

TOLERANCE = 1e-4  # largest difference of a weight between one process and two, in fp32
ROUNDING = 1e-6  # the same in fp64: that of a float32 weight at the end


class Uneven(Squares):
    """Squares of whose labels some have a few pixels of 255, and others are nearly all 255."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        item["label"][: 60 * (index % 3) // 2] = 255
        return item


@pytest.fixture
def recipe(tmp_path: Path) -> TrainingRecipe:
    """A recipe whose network has batch norms and a mean over valid pixels, and draws nothing."""
    path = tmp_path / "tiny.py"
    loss = 'type="CrossEntropyLoss", avg_non_ignore=True'
    without = TINY.replace("dropout_ratio=0.1", "dropout_ratio=0.0")
    path.write_text(without.replace('type="CrossEntropyLoss"', loss))
    return TrainingRecipe(str(path), 6, batch_size=4, learning_rate=8e-3, precision="fp32")


def difference(one: Segmenter, other: Segmenter) -> float:
    theirs = other.network.state_dict()
    return max(
        float((value.double() - theirs[name].double()).abs().max())
        for name, value in one.network.state_dict().items()
    )


def memory(seconds: float = 0.0) -> tuple[list[bytes], Snapshots]:
    kept: list[bytes] = []
    return kept, Snapshots(lambda: kept[-1] if kept else None, kept.append, seconds)


def every_step(gpus: int, **options: Any) -> Execution:
    return Execution(device="cpu", gpus=gpus, every=1, **options)


@pytest.mark.slow
def test_two_processes_give_the_weights_and_the_curve_of_one(recipe: TrainingRecipe) -> None:
    recipe = replace(recipe, precision="fp64")
    one, two = (train_segmenter(Uneven(), CLASSES, recipe, every_step(n)) for n in (1, 2))
    assert difference(one.segmenter, two.segmenter) < ROUNDING
    losses = [[row["loss"] for row in each.curve] for each in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.slow
def test_a_training_resumes_with_another_number_of_processes(recipe: TrainingRecipe) -> None:
    kept, snapshots = memory()
    whole = train_segmenter(Uneven(), CLASSES, recipe, every_step(1, snapshots=snapshots))
    del kept[4:]  # as it was after three steps
    rows: list[dict[str, float]] = []
    execution = every_step(2, snapshots=snapshots, progress=rows.append)
    resumed = train_segmenter(Uneven(), CLASSES, recipe, execution)
    assert rows[0]["step"] == 4
    assert difference(whole.segmenter, resumed.segmenter) < TOLERANCE


@pytest.mark.slow
def test_a_killed_process_ends_the_training_which_then_resumes(recipe: TrainingRecipe) -> None:
    kept, snapshots = memory()

    def kill(row: dict[str, float]) -> None:
        if row["step"] == 3:
            for process in active_children():
                process.kill()
            begun.append(time.monotonic())

    begun: list[float] = []
    execution = every_step(2, snapshots=snapshots, progress=kill)
    message = r"process 1 of 2 .* was killed \(SIGKILL.*the same command continues"
    with pytest.raises(TrainingError, match=message):
        train_segmenter(Uneven(), CLASSES, recipe, execution)
    assert time.monotonic() - begun[0] < 10
    assert not active_children()
    assert len(kept) == 4  # the first one, and one for each step
    resumed = train_segmenter(Uneven(), CLASSES, recipe, every_step(1, snapshots=snapshots))
    whole = train_segmenter(Uneven(), CLASSES, recipe, every_step(1))
    assert difference(whole.segmenter, resumed.segmenter) < TOLERANCE


TRAIN = """
import sys
from models.segmenters import Execution, TrainingRecipe, train_segmenter
from multiprocessing import active_children
from tests.models.test_segmenters import CLASSES, Squares

def tell(row):
    print(*[process.pid for process in active_children()], flush=True)

if __name__ == "__main__":
    recipe = TrainingRecipe(sys.argv[1], 100_000, 4, 8e-3, precision="fp32")
    train_segmenter(Squares(), CLASSES, recipe, Execution("cpu", 2, every=1, progress=tell))
"""


@pytest.mark.slow
def test_no_process_outlives_a_first_one_that_is_killed(recipe: TrainingRecipe) -> None:
    command = [sys.executable, "-c", TRAIN, recipe.config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        others = [int(pid) for pid in first.stdout.readline().split()]
        first.kill()
    assert len(others) == 1
    deadline = time.monotonic() + 10
    while any(map(is_running, others)):
        assert time.monotonic() < deadline, f"{others} still run"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"  # nobody may wait for an orphan in a container


class Spoilt(Squares):
    """Squares whose labels have an unknown id, in every process but that of `pid`."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid = pid

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        if os.getpid() != self.pid:
            item["label"][0, 0] = 7
        return item


@pytest.mark.slow
def test_what_another_process_finds_wrong_is_told_as_by_the_first(recipe: TrainingRecipe) -> None:
    with pytest.raises(ValueError, match=r"sample square \d+: label id 7"):
        train_segmenter(Spoilt(os.getpid()), CLASSES, recipe, every_step(2))
    assert not active_children()


def test_a_batch_norm_alone_is_torch_s() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    shared = SharedBatchNorm.of(nn.BatchNorm2d(3))
    for training in (True, False):
        values = torch.randn(2, 3, 4, 4)
        assert torch.equal(plain.train(training)(values), shared.train(training)(values))


def test_processes_that_cannot_share_a_batch_are_refused(recipe: TrainingRecipe) -> None:
    with pytest.raises(ValueError, match=r"train\.gpus is 3, which does not divide .* 4:"):
        train_segmenter(Uneven(), CLASSES, recipe, every_step(3))


def test_more_gpus_than_there_are_are_refused(
    recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"train\.gpus is 2, and this machine shows 1"):
        train_segmenter(Uneven(), CLASSES, recipe, Execution("cuda", gpus=2))
