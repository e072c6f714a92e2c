"""Directories of pretrained models: JSON, headers of weights, digest, and opening them whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from transformers.utils import logging as transformers_logging

__all__ = ["READ", "absent_tensors", "files_digest", "no_bars", "read_json", "tensor_shapes"]

READ = (".json", ".safetensors", ".txt")  # suffixes of the files that a model's results depend on
_LARGEST_JSON = 1 << 24  # bytes; tokenizer.json of CLIP, the largest of these, has 2 MB


def read_json(file: Path, error: type[Exception]) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `error` with the file and the remedy."""
    try:
        if (size := file.stat().st_size) > _LARGEST_JSON:
            raise ValueError(f"{size} bytes, more than {_LARGEST_JSON}")
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise error(f"{file} is missing: copy the whole directory") from None
    except OSError as failed:
        raise error(f"{file} cannot be read ({failed.strerror}): copy it again") from None
    except (ValueError, RecursionError) as failed:
        raise error(f"{file} is not JSON ({failed}): copy it again") from None
    if not isinstance(content, dict):
        raise error(f"{file} holds a {type(content).__name__}, not an object: copy it again")
    return content


def tensor_shapes(file: Path) -> list[tuple[int, ...]]:
    """Return the shapes in a safetensors file, from its header.

    Raises `SafetensorError` or `OSError` where the header is damaged or the file is cut short.
    """
    with safe_open(file, framework="pt") as opened:
        names = opened.keys()  # a file, which has no iterator
        return [tuple(opened.get_slice(name).get_shape()) for name in names]


def files_digest(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of names, relative to `root`, and contents of files with a suffix of READ.

    The order of `files` does not count.
    """
    digest = hashlib.sha256()
    for file in sorted(each for each in files if each.suffix in READ):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def absent_tensors(report: Mapping[str, Any]) -> str | None:
    """Return in words which tensors of a model its file lacks; None if it has all.

    `report` is the loading info of transformers or diffusers. Both fill tensors that are missing
    with noise and only log it.
    """
    mismatched = [each[0] for each in report["mismatched_keys"]]
    absent = sorted([*report["missing_keys"], *mismatched])
    if not absent:
        return None
    return (
        f"lacks {len(absent)} tensors of the model that its config.json describes, such as "
        f"{absent[0]}: configuration and weights are of different models, or the weights were not "
        "saved completely"
    )


@contextmanager
def no_bars() -> Iterator[None]:
    """Hide the progress bars of diffusers and transformers."""
    both: tuple[Any, ...] = (diffusers_logging, transformers_logging)  # without annotations
    shown = [each for each in both if each.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()
