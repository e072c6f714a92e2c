"""Every locked version has the checksum of its file."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def locked(file: str) -> dict[str, str]:
    """Return what follows `==` in each line of a list of requirements, by package name."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert lines == sorted(lines, key=lambda line: line.split("==")[0].lower())
    return {re.sub("[-_.]+", "-", name.lower()): rest for name, rest in pairs}


def test_every_locked_package_but_torch_has_its_sum() -> None:
    versions = locked("requirements.lock")
    sums = locked("requirements.sums")
    versions.pop("torch")
    found = {
        name: re.fullmatch(r"(\S+) --hash=sha256:[0-9a-f]{64}", rest) for name, rest in sums.items()
    }
    assert {name: match and match[1] for name, match in found.items()} == versions, (
        "run `make sums`"
    )
