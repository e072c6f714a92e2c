"""Reading a vocabulary: one of those that ship with the project, or a user's JSON file."""

from __future__ import annotations

import errno
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from infra.explain import nearest
from infra.parsing import parse_json
from infra.text import UNSEEN
from infra.vocabulary.entries import Background, ClassEntry, VocabularyError
from infra.vocabulary.vocabulary import Vocabulary

__all__ = ["load_vocabulary"]

_FOLDER = Path(__file__).parents[1] / "vocabularies"
_SHIPPED = {file.stem: file for file in sorted(_FOLDER.glob("*.json"))}
_MODELS: dict[str, type[BaseModel]] = {"classes": ClassEntry, "backgrounds": Background}


def load_vocabulary(name_or_path: str) -> Vocabulary:
    """Return the shipped vocabulary of that name, or the one in that JSON file.

    Raises `VocabularyError`.
    """
    path = _SHIPPED.get(name_or_path, Path(name_or_path))
    data = _read(name_or_path, path)
    try:
        return Vocabulary.model_validate(parse_json(data))
    except ValidationError as error:
        problem = "\n".join(_explain(line, path) for line in error.errors(include_url=False))
    except ValueError as error:
        problem = f"vocabulary {path} is not JSON: {error}; save it as JSON in UTF-8"
    raise VocabularyError(problem)  # out here it has no context, which holds the file's values


def _read(name_or_path: str, path: Path) -> bytes:
    try:
        if UNSEEN.search(name_or_path):
            raise OSError(errno.EINVAL, "the name has characters that cannot be seen")
        return path.read_bytes()
    except OSError as error:
        raise VocabularyError(
            f"cannot read vocabulary {name_or_path!r} ({error.strerror}); "
            f"give a JSON file or one of: {', '.join(_SHIPPED)}"
        ) from None


def _explain(line: ErrorDetails, path: Path) -> str:
    field = ".".join(map(str, line["loc"]))
    if line["type"] == "extra_forbidden":
        *parents, last = line["loc"]
        model = _MODELS.get(str(next(iter(parents), "")), Vocabulary)
        remedy = nearest(str(last), model.model_fields)
        return f"vocabulary {path}: unknown field {field!r}; {remedy}"
    message = line["msg"].removeprefix("Value error, ")
    if not field:
        return f"vocabulary {path}: {message}"
    value = "" if isinstance(line["input"], (dict, list)) else f" = {line['input']!r}"
    return f"vocabulary {path}: {field}{value}: {message}"
