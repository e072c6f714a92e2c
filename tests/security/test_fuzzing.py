"""Readers of outside bytes survive a short fuzzing, and the fuzzer notices one that does not.

`benchmarks.fuzz` takes an hour for the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from testbed.fuzzing.targets import TARGETS
from testbed.fuzzing.trees import mutated_json

INPUTS = 300  # per target


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    random = Random(0)
    for seed in list(target.prepare(tmp_path)):
        target.attempt(tmp_path, seed)
        for _ in range(INPUTS):
            data = (target.is_json and mutated_json(seed, random)) or _changed(seed, random)
            target.attempt(tmp_path, data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_inputs_to_begin_from_are_valid(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for seed in list(target.prepare(tmp_path)):
        target.read(tmp_path, seed)


def _changed(data: bytes, random: Random) -> bytes:
    """Return `data` with a piece replaced, cut out or repeated."""
    begin = random.randrange(len(data))
    end = begin + random.randint(1, 8)
    piece = random.choice([random.randbytes(end - begin), b"", data[begin:end] * 3])
    return data[:begin] + piece + data[end:]


def test_a_tree_s_mutations_are_json_and_differ() -> None:
    random = Random(0)
    found = {mutated_json(b'{"a": [1, {"b": "c"}]}', random) for _ in range(200)}
    assert len(found) > 100
    for each in found - {None}:
        json.loads(each or b"")


@pytest.mark.slow
@pytest.mark.parametrize(("body", "code"), [("data[1:1] < data[2]", 77), ("[0] * 10**9", 71)])
def test_the_fuzzer_notices(body: str, code: int, tmp_path: Path) -> None:
    script = f"""
import atheris, sys
from testbed.fuzzing.target import Target
target = Target(lambda folder: [b"a"], lambda folder, data: {body}, (ValueError,))
atheris.Setup(sys.argv, lambda data: target.attempt(None, data))
atheris.Fuzz()
"""
    options = ["-runs=1000", "-rss_limit_mb=3000", f"-artifact_prefix={tmp_path}/"]
    ended = subprocess.run([sys.executable, "-c", script, *options], capture_output=True)
    assert ended.returncode == code, ended.stderr.decode()[-2000:]
