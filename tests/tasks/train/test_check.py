"""A segmenter that cannot be built or started is found before the run begins."""

from pathlib import Path
from typing import Any

import pytest
import torch

from infra.settings import Settings, SettingsError
from models.segmenters import build_segmenter
from tasks.plan.prepare import prepare
from tasks.train.check import check_segmenter
from tests.models.test_segmenters import TINY

CLASSES = ("background", "car", "bus")


def settings(folder: Path, **train: Any) -> Settings:
    return Settings(store={"url": str(folder / "store")}, train=train)


def files(folder: Path) -> tuple[str, str]:
    """Return a config file, and weights of its network for other classes."""
    (folder / "tiny.py").write_text(TINY)
    config = str(folder / "tiny.py")
    torch.save(build_segmenter(config, CLASSES).network.state_dict(), folder / "w.pth")
    return config, str(folder / "w.pth")


def test_models_and_weights_that_fit_are_accepted(tmp_path: Path) -> None:
    config, weights = files(tmp_path)
    for train in ({}, {"model": "segformer-b0"}, {"model": config, "weights": weights}):
        check_segmenter(settings(tmp_path, **train))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"model": "segformer-b9"}, "is neither one of"),
        ({"model": "{folder}/tiny.py"}, "nothing is fetched"),
        ({"model": "{folder}/tiny.py", "weights": "{folder}/none.pth"}, "No such file"),
        ({"gpus": 3}, r"train\.gpus is 3, which does not divide train\.batch_size, 16"),
        ({"weights": "{folder}/w.pth"}, "give weights of the same architecture"),
    ],
)
def test_others_end_the_run_before_it_writes_anything(
    tmp_path: Path, train: dict[str, Any], message: str
) -> None:
    files(tmp_path)
    chosen = {
        name: value.format(folder=tmp_path) if isinstance(value, str) else value
        for name, value in train.items()
    }
    with pytest.raises(SettingsError, match=message):
        prepare.fn(settings(tmp_path, **chosen))
    assert not (tmp_path / "store" / "runs").exists()
