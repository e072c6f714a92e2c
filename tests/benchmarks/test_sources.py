"""Keys of cached figures cover all that the figures depend on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.sources import LABELLING, ROOT, TRAINING, Code, key


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all sources that a training's key covers."""
    root = tmp_path_factory.mktemp("sources")
    for path in TRAINING.files():
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return root


def test_the_same_sources_in_another_folder_have_the_same_key(copied: Path) -> None:
    assert TRAINING.digest(copied) == TRAINING.digest()


@pytest.mark.parametrize(
    "source",
    [
        "models/embedded/world.py",  # draws the truth
        "models/embedded/shapes.py",
        "models/embedded/textures.py",
        "models/embedded/data/world.json",
        "models/scenes/cutout.py",  # pastes objects
        "models/segmenters/samples.py",
        "models/segmenters/training.py",
        "models/muon.py",
        "models/metrics.py",  # measures
        "tasks/evaluate/evaluate.py",
        "tasks/train/protocols.py",
        "tasks/train/recipe.py",
        "tasks/train/train.py",
    ],
)
def test_a_changed_source_is_another_key_of_a_training(copied: Path, source: str) -> None:
    path = copied / source
    content = path.read_bytes()
    before = TRAINING.digest(copied)
    path.write_bytes(content + b"\n")
    after = TRAINING.digest(copied)
    path.write_bytes(content)
    assert after != before
    assert TRAINING.digest(copied) == before


def test_the_key_of_labels_covers_the_way_they_are_made() -> None:
    covered = {str(path.relative_to(ROOT)) for path in LABELLING.files()}
    assert {
        "benchmarks/labellers.py",
        "models/masks/refinement.py",
        "models/masks/pamr.py",
    } <= covered
    assert "models/embedded/world.py" not in covered  # the images are part of the key themselves


def test_imports_are_followed_where_they_are_allowed_and_nowhere_else(tmp_path: Path) -> None:
    files = {
        "top/__init__.py": "",
        "top/start.py": "def late():\n    from top import middle\n",
        "top/middle.py": "from .deep import thing\nimport other.part\n",
        "top/deep/__init__.py": "from top.deep.thing import value\n",
        "top/deep/thing.py": "value = 1\n",
        "top/deep/data/table.json": "{}",
        "top/alone.py": "",
        "other/__init__.py": "",
        "other/part.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    found = {
        str(path.relative_to(tmp_path)) for path in Code(("top.start",), ("top",)).files(tmp_path)
    }
    assert found == {name for name in files if "other" not in name and "alone" not in name}


def test_a_module_without_a_file_is_an_error_and_no_smaller_key() -> None:
    with pytest.raises(ValueError, match=r"models\.gone"):
        Code(("models.gone", "models.metrics"), ("models",)).digest()


def test_a_key_depends_on_every_value_and_on_the_code() -> None:
    keys = [key(1, "a"), key(1, "b"), key(2, "a"), key(1, "a", code="c"), key(1, "ac")]
    assert len(set(keys)) == len(keys)
