"""Vocabularies and captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.vocabulary import VocabularyError, load_vocabulary
from tasks.plan.captions import read_captions
from tasks.plan.rows import PlanError
from tests.malformed import DEEP, Case, Cases, file


def vocabularies() -> Cases:
    raw: dict[str, str | bytes] = {
        "empty": "",
        "cut off": '{"name": "pets", "classes": [',
        "deep": '{"name": ' + "[" * DEEP,
        "key twice": '{"name": "a", "name": "b"}',
        "key twice inside": '{"classes": [{"id": 1, "id": 2}]}',
        "NaN": '{"name": NaN}',
        "infinite": '{"name": -Infinity}',
        "overflow": '{"name": 1e999}',
        "huge integer": '{"name": ' + "9" * 5000 + "}",
        "not UTF-8": b'{"name": "\xe9"}',
        "UTF-16": '{"name": "a"}'.encode("utf-16"),
        "NUL bytes": b"\0" * 100,
        "pickle": (
            b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94."
        ),
        "YAML": "name: pets",
    }
    for name, content in raw.items():
        yield (
            f"vocabulary: {name}",
            Case(
                lambda d, c=content: load_vocabulary(str(file(d / "pets.json", c))),
                VocabularyError,
                r"pets\.json",
            ),
        )
    words: Any = {
        "escape": "cat\x1b[31m",
        "bell": "cat\x07",
        "NUL": "cat\0",
        "turned writing": "cat\u202etac",
        "C1 control": "cat\x9b",
        "line break": "cat\ndog",
        "comma": "cat,dog",
        "brace": "{cat}",
        "space before": " cat",
        "long": "c" * 201,
        "empty": "",
        "number": 1,
        "null": None,
        "list": ["cat"],
        "lone surrogate": "\ud800",
        "isolate": "\u2066cat\u2069",
    }
    for name, word in words.items():
        yield (
            f"class name: {name}",
            Case(
                lambda d, w=word: spoilt(d, lambda v: v["classes"][0].update(name=w)),
                VocabularyError,
                r"classes\.0\.name",
            ),
        )
    changes: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
        "list": (lambda v: v.update(classes={"a": 1}), "classes"),
        "no class": (lambda v: v.update(classes=[]), "classes"),
        "id of the background": (lambda v: v["classes"][0].update(id=0), r"classes\.0\.id"),
        "id of the unsure": (lambda v: v["classes"][0].update(id=255), r"classes\.0\.id"),
        "id without end": (lambda v: v["classes"][0].update(id=2**40), r"classes\.0\.id"),
        "id twice": (
            lambda v: v["classes"].append(v["classes"][0] | {"name": "dog"}),
            "class id '1'",
        ),
        "unknown field": (lambda v: v["classes"][0].update(__class__="os.system"), "unknown field"),
        "palette": (
            lambda v: v["classes"][0].update(palette=["0)", "url(//evil)", 0]),
            r"palette\.0",
        ),
        "palette over 255": (lambda v: v["classes"][0].update(palette=[0, 0, 256]), r"palette\.2"),
        "weight of nothing": (
            lambda v: v["classes"][0].update(subclasses={"old": 0}),
            "subclasses",
        ),
        "attribute in a template": (
            lambda v: v.update(templates=["{objects.__class__} {background}"]),
            "template",
        ),
        "index in a template": (
            lambda v: v.update(templates=["{objects[0]} {background}"]),
            "template",
        ),
        "conversion in a template": (
            lambda v: v.update(templates=["{objects!r} {background}"]),
            "template",
        ),
        "width in a template": (
            lambda v: v.update(templates=["{objects:99999999999} {background}"]),
            "template",
        ),
        "lone brace in a template": (
            lambda v: v.update(templates=["{objects} {background} {"]),
            "template",
        ),
        "line break in a template's field": (
            lambda v: v.update(templates=["{objects} {background} {x\n}"]),
            "template",
        ),
        "escape in a template": (
            lambda v: v.update(templates=["\x1b]0;{objects} {background}"]),
            "template",
        ),
        "long template": (
            lambda v: v.update(templates=["{objects} {background}" + "x" * 200]),
            "template",
        ),
        "escape in a background": (
            lambda v: v["backgrounds"][0].update(name="\x1b[2J"),
            r"backgrounds\.0\.name",
        ),
        "escape in its own name": (lambda v: v.update(name="\x1b[2J"), "name"),
    }
    for name, (change, words) in changes.items():
        yield f"vocabulary: {name}", Case(lambda d, c=change: spoilt(d, c), VocabularyError, words)
    for name, path in {"NUL": "a\0b", "long": "a" * 5000, "folder": "."}.items():
        yield (
            f"vocabulary path: {name}",
            Case(lambda d, p=path: load_vocabulary(p), VocabularyError, "cannot read vocabulary"),
        )


def spoilt(folder: Path, change: Callable[[dict[str, Any]], Any]) -> object:
    value = {
        "name": "pets",
        "classes": [{"id": 1, "name": "cat"}],
        "backgrounds": [{"name": "lawn"}],
    }
    change(value)
    return load_vocabulary(str(file(folder / "pets.json", json.dumps(value))))


def captions() -> Cases:
    contents: dict[str, bytes] = {
        "not UTF-8": b"a \xff car",
        "empty": b"",
        "spaces": b" \n\t\n",
        "UTF-16": "a car".encode("utf-16"),
    }
    for name, content in contents.items():
        yield (
            f"captions: {name}",
            Case(
                lambda d, c=content: read_captions(str(file(d / "captions.txt", c))),
                PlanError,
                r"captions\.txt",
            ),
        )
    for name, path in {"NUL": "a\0b", "long": "a" * 5000, "folder": "/"}.items():
        yield (
            f"captions path: {name}",
            Case(lambda d, p=path: read_captions(p), PlanError, "plan.captions"),
        )


def cases() -> Cases:
    """Yield all cases of this module."""
    yield from vocabularies()
    yield from captions()
