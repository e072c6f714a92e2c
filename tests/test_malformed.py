"""Malformed input of every kind that comes from outside: each is refused by name, with a remedy,
and costs nothing.

What is tried stands in `tests.malformed`. The process may take only a little more memory than it
has, so what declares more than it holds has to be refused before it is allocated.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.malformed import networks, pictures, pipelines, settings, stored, tables, words

ROOM = 2 << 30  # bytes that a refusal may take beyond what the process has
REMEDY = re.compile(
    r"\b(add|belong in|choose|copy|correct|delete|drop|export|give|has to|keep|list stems|lower|mend|must|name config|"
    r"name 255|needs|publish|restore|reword|run|save|set|shorten|should|supported|take|train|use|valid names|write|"
    r"written)\b"
)
MODULES = (networks, pictures, pipelines, settings, stored, tables, words)
LISTED = [case for module in MODULES for case in module.cases()]
CASES = dict(LISTED)


def test_there_are_two_hundred_and_more_each_with_its_own_name() -> None:
    assert len(CASES) == len(LISTED) >= 200


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let the process have `ROOM` more address space than it takes now; what asks for more gets a
    MemoryError.
    """
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", CASES)
def test_malformed_input_is_refused_by_name_with_a_remedy(
    name: str, tmp_path: Path, little_memory: None
) -> None:
    case = CASES[name]
    with pytest.raises(case.error) as caught:
        case.attempt(tmp_path)
    said = str(caught.value)
    assert re.search(case.words, said, re.DOTALL), said[-500:]
    assert REMEDY.search(said), said[-500:]
    assert not Path("owned").exists() and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
