"""`python -m testbed.fuzzing TARGET [libFuzzer's options]`: fuzz one reader.

The process ends with an error at the first input that raises anything but the reader's own error,
takes too long or too much memory; libFuzzer writes that input to a file and names it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

from testbed.fuzzing.trees import mutated_json

with atheris.instrument_imports(include=["infra", "models.segmenters.configs", "tasks"]):
    from testbed.fuzzing.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Fuzz the target that the first argument names."""
    target = TARGETS[arguments[1]]
    with tempfile.TemporaryDirectory(dir=_memory()) as name:
        folder = Path(name)
        seeds = folder / "seeds"
        seeds.mkdir()
        work = folder / "work"
        work.mkdir()
        for number, seed in enumerate(target.prepare(work)):
            (seeds / str(number)).write_bytes(seed)
        atheris.Setup(
            [arguments[0], *arguments[2:], str(seeds)],
            lambda data: target.attempt(work, data),
            **({"custom_mutator": _mutated} if target.is_json else {}),
        )
        atheris.Fuzz()


def _mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """Change bytes or the tree."""
    random = Random(seed)
    changed = mutated_json(data, random) if random.random() < 0.7 else None
    return atheris.Mutate(data, max_size) if changed is None else changed[:max_size]


def _memory() -> str | None:
    """Return the folder of a file system in memory, if there is one."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() else None


if __name__ == "__main__":
    main(sys.argv)
