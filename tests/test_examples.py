"""The examples run as their first lines say, on the store of a real run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "look_at_a_version.ipynb"
SECONDS = 1200  # for one program; a minute on an idle machine

pytestmark = [pytest.mark.server, pytest.mark.slow]


def python(folder: Path, *words: str | Path) -> str:
    """Run Python in a folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with out/store, as `make demo` leaves it, of the smallest run."""
    folder = tmp_path_factory.mktemp("checkout")
    python(folder, "-m", "segmint", "run", "--config", ROOT / "tests/tiny.toml")
    assert (folder / "out/store/champions/00000001.json").exists()
    return folder


def test_every_example_is_short_and_says_how_to_start_it() -> None:
    examples = sorted(EXAMPLES.glob("*.py"))
    assert [path.stem for path in examples] == [
        "bring_your_own_diffusion",
        "read_a_dataset",
        "use_a_checkpoint",
    ]
    for path in examples:
        text = path.read_text()
        assert len(text.splitlines()) < 60
        assert f"python examples/{path.name}" in str(ast.get_docstring(ast.parse(text)))


def test_an_own_pipeline_makes_images_and_their_labels(tmp_path: Path) -> None:
    said = python(
        tmp_path, EXAMPLES / "bring_your_own_diffusion.py", "--steps", "2", "--out", tmp_path / "o"
    )
    assert "of it is car" in said
    for name in ("car", "bird"):
        image = np.array(Image.open(tmp_path / "o" / f"{name}.png"))
        label = np.array(Image.open(tmp_path / "o" / f"{name}-label.png"))
        assert image.shape == (*label.shape, 3)
        assert set(np.unique(label)) <= {0, 1, 255}
        assert image.std() > 0


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    script = EXAMPLES / "bring_your_own_diffusion.py"
    with pytest.raises(AssertionError, match=r"PipelineError.*nowhere"):
        python(tmp_path, script, "--pipeline", "nowhere")


def test_a_published_version_is_read_in_both_ways(folder: Path) -> None:
    said = python(folder, EXAMPLES / "read_a_dataset.py")
    assert "batch: image (8, 3, 128, 128), label (8, 128, 128)" in said
    assert ".zarr/label: (" in said
    assert "uint8" in said
    assert "prompt" in said


def test_the_champion_segments_an_image(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 120, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    said = python(folder, EXAMPLES / "use_a_checkpoint.py", "photo.png")
    shares = [float(line.split(": ")[1].split("%")[0]) for line in said.splitlines()[:-1]]
    assert sum(shares) == pytest.approx(100, abs=1)
    overlay = np.array(Image.open(folder / "out/examples/overlay.png"))
    assert overlay.shape == pixels.shape


def test_the_notebook_s_cells_run_on_another_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    space: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), space)
    assert space["sheet"].dtype == np.uint8
    assert len(space["rows"]) == len(space["names"]) + 2
    assert sum(share for *_, share in space["rows"]) == pytest.approx(1, abs=0.01)


def test_the_notebook_is_stored_with_images_and_stays_small() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 300_000
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/jpeg") == 2
    assert "text/html" in kinds
