"""Keys of cached figures, which cover the values and the sources that a figure depends on.

The sources are found by following imports, so a module that is split or moved stays covered.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LABELLING", "TRAINING", "Code", "key"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Code:
    """The project's sources that something depends on: `modules`, and all that they import.

    Imports are followed into the packages or modules named by `within`, and nowhere else; imports
    inside functions count. A module in a package brings the package's `__init__.py`, and its
    `data/` folder if there is one.
    """

    modules: tuple[str, ...]
    within: tuple[str, ...]

    def files(self, root: Path = ROOT) -> list[Path]:
        """Return all files, sorted. Raises `ValueError` for one of `modules` without a file."""
        waiting = list(self.modules)
        if missing := [name for name in waiting if _file(root, name) is None]:
            raise ValueError(f"no file under {root} for {', '.join(missing)}; correct the list")
        found: dict[str, Path] = {}
        while waiting:
            name = waiting.pop()
            path = _file(root, name)
            if path is None or name in found:
                continue
            found[name] = path
            imported = [*_parents(name), *_imports(path, name)]
            waiting += [each for each in imported if _inside(each, self.within)]
        data = {file for path in found.values() for file in (path.parent / "data").glob("*")}
        return sorted({*found.values(), *data})

    def digest(self, root: Path = ROOT) -> str:
        """Return 64 hex digits that depend on the paths and the content of all files."""
        found = hashlib.sha256()
        for path in self.files(root):
            content = path.read_bytes()
            found.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
        return found.hexdigest()


# What draws scenes, pastes objects, trains a segmenter and measures it
TRAINING = Code(
    (
        "models.embedded.world",
        "models.metrics",
        "models.muon",
        "models.scenes",
        "models.segmenters",
        "tasks.evaluate.evaluate",
        "tasks.train.protocols",
        "tasks.train.recipe",
        "tasks.train.train",
    ),
    within=("models", "tasks.evaluate", "tasks.train"),
)
# What makes labels from attention
LABELLING = Code(("benchmarks.labellers", "models.masks"), within=("models",))


def key(*known: Any, code: str = "") -> str:
    """Return eight hex digits that depend on `known`, which JSON can hold, and on a digest."""
    return hashlib.sha256(json.dumps([*known, code]).encode()).hexdigest()[:8]


def _file(root: Path, name: str) -> Path | None:
    """Return the file of a module or package; None for a name that is neither, as a function's."""
    base = root.joinpath(*name.split("."))
    candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])


def _imports(path: Path, name: str) -> Iterator[str]:
    """Yield each module that a file may import; `from a import b` yields both `a` and `a.b`."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
