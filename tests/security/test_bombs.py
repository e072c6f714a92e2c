"""Short files that describe endless content are refused soon, in little memory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.config_files import SettingsError
from infra.settings import Settings
from models.generators import PipelineError, check_pipeline
from models.segmenters import build_segmenter, pack_segmenter, unpack_segmenter
from models.segmenters.configs import read_config
from tests.malformed.pipelines import pipeline
from tests.models.test_segmenters import TINY
from tests.test_malformed import little_memory

__all__ = ["little_memory"]

SECONDS = 5  # a refusal may take; bombs take minutes or do not end
CLASSES = ("ground", "car")


@pytest.fixture
def in_time(little_memory: None) -> Iterator[None]:
    """The test ends within `SECONDS` of processor time and within the memory of a refusal."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def doubled(levels: int, first: str, step: str) -> str:
    """Return lines that bind v0 to `first` and each further name to `step` of the one before."""
    lines = [f"v0 = {first}"]
    lines += [f"v{i + 1} = {step.replace('V', f'v{i}')}" for i in range(levels)]
    return "\n".join([*lines, f"model = dict(type='EncoderDecoder', decode_head=v{levels})"])


BOMBS = {
    "lists that are shared, 22 levels": doubled(22, "[]", "[V, V]"),
    "lists that are shared, 40 levels": doubled(40, "[]", "[V, V]"),
    "tables that are shared": doubled(40, "dict()", "dict(a=V, b=V)"),
    "tables that are merged": doubled(40, "dict()", "{**dict(a=V), **dict(b=V)}"),
    "lists added to themselves": doubled(40, "[1]", "V + V"),
    "lists multiplied": doubled(40, "[1]", "[V] * 100"),
    "text in a list": "a = 'x' * 65536\nmodel = dict(decode_head=[a] * 65536)",
    "text as a key": "a = {'x' * 65536: 1}\nmodel = dict(decode_head=[a] * 65536)",
    "text doubled": doubled(40, "'xx'", "V + V"),
    "a number without end": "model = dict(decode_head=0x" + "f" * 10_000 + ")",
    "numbers multiplied": doubled(60, "65535", "V * V"),
    "a number that overflows": "model = dict(decode_head=1e999)",
    "a power": "model = dict(decode_head=9 ** 9 ** 9)",
    "a shift": "model = dict(decode_head=1 << 10 ** 9)",
    "lists in lists, line by line": doubled(5_000, "[]", "[V]"),
    "lists in lists, few lines": doubled(300, "[]", "[V]"),
    "brackets": "model = " + "[" * 150 + "]" * 150,
    "signs": "model = dict(decode_head=" + "-" * 50_000 + "1)",
    "sums": "model = dict(decode_head=" + "1+" * 50_000 + "1)",
    "names without end": "".join(f"n{i} = open\n" for i in range(60_000)) + "model = 1",
    "comments without end": "#" * (1 << 23),
    "bytes": "model = dict(decode_head=b'a')",
    "an ellipsis": "model = dict(decode_head=...)",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_config_that_describes_endless_values_is_refused(
    name: str, tmp_path: Path, in_time: None
) -> None:
    (tmp_path / "bomb.py").write_text(BOMBS[name])
    with pytest.raises(ValueError, match=r"bomb\.py|config"):
        build_segmenter(str(tmp_path / "bomb.py"), CLASSES)


def tree(folder: Path) -> None:
    """40 files, each the base of the one before, twice: 2⁴⁰ files to read."""
    for i in range(25):
        (folder / f"c{i}.py").write_text(f"_base_ = ['c{i + 1}.py', './c{i + 1}.py']")
    (folder / "c25.py").write_text("a = [1] * 100")


def wide(folder: Path) -> None:
    """One file that names another thousands of times."""
    (folder / "c0.py").write_text("_base_ = ['c1.py'] * 30000")
    (folder / "c1.py").write_text("a = [1] * 100")


def chain(folder: Path) -> None:
    """Files that are each other's bases, deeper than Python calls."""
    for i in range(1_000):
        (folder / f"c{i}.py").write_text(f"_base_ = 'c{i + 1}.py'")
    (folder / "c1000.py").write_text("a = 1")


def large(folder: Path) -> None:
    """A base of 8 MB, named often."""
    (folder / "c0.py").write_text("_base_ = ['c1.py'] * 1000")
    (folder / "c1.py").write_text("#" * (1 << 20))


def device(folder: Path) -> None:
    """A base that has no end."""
    (folder / "c0.py").write_text("_base_ = 'c1.py'")
    (folder / "c1.py").symlink_to("/dev/zero")


def pipe(folder: Path) -> None:
    """A base that nobody ever writes to."""
    (folder / "c0.py").write_text("_base_ = 'c1.py'")
    os.mkfifo(folder / "c1.py")


def loop(folder: Path) -> None:
    """A base that is a link to itself."""
    (folder / "c0.py").write_text("_base_ = 'c1.py'")
    (folder / "c1.py").symlink_to("c1.py")


@pytest.mark.parametrize("make", [tree, wide, chain, large, device, pipe, loop])
def test_bases_count_as_well(make: Callable[[Path], None], tmp_path: Path, in_time: None) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=r"c\d+\.py|/dev/zero"):
        read_config(tmp_path / "c0.py")


def test_a_config_of_the_usual_size_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(
        "a = dict(b=[1.5] * 3)\nc = [a, a]\nmodel = dict(d=c, e='x' * 3)"
    )
    found = read_config(tmp_path / "c.py")
    assert found["model"] == {"d": [{"b": [1.5] * 3}] * 2, "e": "xxx"}
    assert found["model"]["d"][0] is not found["model"]["d"][1]  # copies, so they can be changed


CHECKPOINTS = {
    "deep": b'{"model": ' + b"[" * 100_000,
    "deep tables": b'{"model": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b', "classes": ["a", "b"]}',
    "many values": json.dumps({"model": {"a": [0] * 200_000}, "classes": ["a", "b"]}).encode(),
    "many bytes": b'{"model": {}, "classes": ["a", "b"]' + b" " * (1 << 21) + b"}",
    "a number without end": b'{"model": {"a": ' + b"9" * 100_000 + b'}, "classes": []}',
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_s_config_is_small(name: str, tmp_path: Path, in_time: None) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    files = pack_segmenter(build_segmenter(str(tmp_path / "tiny.py"), CLASSES))
    with pytest.raises(ValueError, match=r"config"):
        unpack_segmenter({**files, "config.json": CHECKPOINTS[name]})


SETTINGS = {
    "deep keys.toml": "a." * 5_000 + "b = 1",
    "deep keys of a setting.toml": "plan." + "a." * 5_000 + "b = 1",
    "deep lists.toml": "a = " + "[" * 30_000,
    "deep tables.toml": "a = " + "{a = " * 6_000,
    "deep header.toml": "[" + ".".join("a" * 5_000) + "]\nb = 1",
    "deep lists.yaml": "a: " + "[" * 5_000 + "]" * 5_000,
    "deep tables.yaml": "a: " + "{a: " * 6_000 + "1" + "}" * 6_000,
    "aliases.yaml": "a: &a [1]\nb: [*a, *a]",
    "many bytes.toml": "#" * (1 << 24),
    "many bytes.yaml": "a: [" + "1, " * (1 << 22) + "]",
    "many values.yaml": "a: [" + "1," * 15_000 + "]",
    "a number without end.toml": "a = " + "9" * 30_000,
    "a number without end.yaml": "a: " + "9" * 30_000,
    "a number of many digits to base 60.yaml": "a: " + "59:" * 10_000 + "59",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_settings_file_that_describes_endless_values_is_refused(
    name: str, tmp_path: Path, in_time: None
) -> None:
    (tmp_path / name).write_text(SETTINGS[name])
    with pytest.raises(SettingsError):
        Settings(tmp_path / name)


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "[" * 300 + "]" * 300, '{"a":' * 900 + "1" + "}" * 900, "9" * 100_000]
)
@pytest.mark.parametrize("name", ["SEGMINT_PLAN", "SEGMINT_PLAN__IMAGES", "SEGMINT_A"])
def test_a_variable_that_describes_endless_values_is_refused(
    name: str, text: str, in_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError):
        Settings()


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": "' + "a" * (1 << 25) + '"}'])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_a_pipeline_s_configuration_is_small(
    name: str, content: str, tmp_path: Path, in_time: None
) -> None:
    (pipeline(tmp_path) / name).write_text(content)
    with pytest.raises(PipelineError, match=name):
        check_pipeline(tmp_path)
