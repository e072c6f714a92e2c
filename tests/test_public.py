"""`import segmint` is fast, and gives the names that a user of the library needs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

import segmint
from infra.store import MissingError, StoreError
from models.segmenters import Segmenter, build_segmenter, pack_segmenter

ROOT = Path(__file__).parents[1]
CLASSES = ("background", "car", "bus")


def python(program: str) -> str:
    """Run a program in a fresh interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter("segformer", CLASSES)


def put(store: segmint.Store, name: str, segmenter: Segmenter) -> None:
    """Write a finished checkpoint into the store."""
    files = pack_segmenter(segmenter)
    for file, content in files.items():
        store.write_bytes(f"checkpoints/{name}/{file}", content)
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    meta = {"checkpoint": name, "version": "v", "manifest": "0" * 64, "files": sums}
    store.write_json(f"checkpoints/{name}/meta.json", meta | {"classes": list(CLASSES)})


def crown(store: segmint.Store, name: str) -> None:
    """Make a checkpoint the champion."""
    evaluation = {"set": "drawn", "fingerprint": "f", "miou": 0.5, "iou": {}, "images": 1}
    store.write_json(
        "champions/00000001.json", {"checkpoint": name, "version": "v", "evaluation": evaluation}
    )


def test_importing_segmint_loads_nothing_heavy() -> None:
    heavy = {"torch", "prefect", "pandas", "numpy", "pydantic", "diffusers", "mmseg", "zarr"}
    loaded = python(f"import sys, segmint; print(sorted({heavy} & set(sys.modules)))")
    assert loaded == "[]"


def test_openmp_waits_politely_before_torch_can_be_imported() -> None:
    program = (
        "import os\n"
        "for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'): os.environ.pop(name, None)\n"
        "import segmint; print(os.environ['GOMP_SPINCOUNT'])"
    )
    assert int(python(program)) > 0


@pytest.mark.parametrize("name", segmint.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(segmint, name)
    assert name in dir(segmint)
    assert value.__doc__
    assert name in str(segmint.__doc__)


@pytest.mark.slow  # imports everything
def test_a_star_import_gives_exactly_the_public_names() -> None:
    program = "before = set(dir()); from segmint import *; print(*sorted(set(dir()) - before))"
    assert python(program).split() == sorted([*segmint.__all__, "before"])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Setings'"):
        segmint.Setings  # noqa: B018


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert segmint.__version__ == project["version"]


def test_a_version_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert segmint._installed_version() == "0+unknown"


def test_the_champion_is_loaded_unless_a_checkpoint_is_named(
    tmp_path: Path, segmenter: Segmenter
) -> None:
    store = segmint.Store.open(str(tmp_path))
    torch.manual_seed(1)
    other = build_segmenter("segformer", CLASSES)
    put(store, "first", segmenter)
    put(store, "second", other)
    crown(store, "first")
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    wanted = segmint.predict_probabilities(segmenter, images)
    champion = segmint.load_segmenter(str(tmp_path))
    assert champion.classes == CLASSES
    assert torch.equal(segmint.predict_probabilities(champion, images), wanted)
    second = segmint.load_segmenter(store, "second")
    assert not torch.equal(segmint.predict_probabilities(second, images), wanted)


def test_a_store_without_a_champion_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no champion; name a checkpoint"):
        segmint.load_segmenter(str(tmp_path))


def test_an_unknown_checkpoint_lists_those_that_exist(tmp_path: Path, segmenter: Segmenter) -> None:
    store = segmint.Store.open(str(tmp_path))
    put(store, "first", segmenter)
    with pytest.raises(MissingError, match=r"'nowhere'.*first"):
        segmint.load_segmenter(store, "nowhere")


def test_changed_weights_are_not_loaded(tmp_path: Path, segmenter: Segmenter) -> None:
    store = segmint.Store.open(str(tmp_path))
    put(store, "first", segmenter)
    weights = tmp_path / "checkpoints/first/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StoreError, match=r"weights\.safetensors is not what was written"):
        segmint.load_segmenter(store, "first")
