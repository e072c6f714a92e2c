"""Malformed input of every kind that comes from outside is refused with an error that names the
file or field and says what to do; nothing else happens.

The cases are in `tests.malformed`. The process may take only a little more memory than it has, so
input that declares more than it holds must be refused before memory is allocated for it.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.malformed import images, networks, pipelines, settings, stored, tables, words

ROOM = 2 << 30  # bytes that a refusal may take beyond what the process has
_VERBS = (
    "add|choose|copy|correct|delete|drop|export|fix|give|install|keep|leave|lower|make|name|pass|"
    "publish|put|raise|remove|rename|replace|restore|reword|save|set|shorten|take|train|use|write"
)
# a sentence's part that tells what to do, or the rule for a value
REMEDY = re.compile(
    rf"(?:^|[;:,.] |\(|\b(?:or|and|then|to) )(?:{_VERBS}) [\w'\"`{{/*.]"
    r"|\b(?:should|must|has to|have to|may) (?:be|have|match|hold|name|end)[ :]"
    r"|\bneeds? [{\w]|\bvalid names are |did you mean '|run the stage that writes it"
)
# a file, a folder, a field of the settings or of a file, or a thing by its kind and name
NAMED = re.compile(
    r"\b[\w-]+\.(?:json|parquet|safetensors|py|yaml|toml|txt|png|jpg)\b|/[\w.-]+"
    r"|\b[a-z]\w*(?:\.\w+)+\b|`\w+`|--set \w+|--set: .* field \"\w+\"|environment: .* \"\w+\""
    r"|\bsetting '?[\w.]+|\b(?:version|run|checkpoint|vocabulary) '|\bstore url of \w"
)
MODULES = (networks, images, pipelines, settings, stored, tables, words)
LISTED = [case for module in MODULES for case in module.cases()]
CASES = dict(LISTED)


def test_there_are_two_hundred_and_more_each_with_its_own_name() -> None:
    assert len(CASES) == len(LISTED) >= 200


@pytest.mark.parametrize(
    "message",
    [
        "the run failed",
        "the run failed; see the log",
        "plan.parquet is damaged",
        "the text should know better",
        "out of memory while reading the list",
        "must not happen: needless to say",
    ],
)
def test_a_message_without_a_remedy_is_noticed(message: str) -> None:
    assert not REMEDY.search(message)


@pytest.mark.parametrize("message", ["the run failed", "it is damaged; delete it", "bad value 3"])
def test_a_message_that_names_nothing_is_noticed(message: str) -> None:
    assert not NAMED.search(message)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limit the process to `ROOM` more address space than it takes now; more is a MemoryError."""
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
    assert NAMED.search(said), said[-500:]
    assert REMEDY.search(said), said[-500:]
    assert not Path("owned").exists() and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
