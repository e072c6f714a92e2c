"""What every benchmark shares: its sizes, its cache folder and its closing line.

A benchmark is a module with `main(size: Size) -> list[Claim]` and ends with `run("NAME", main)`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

Size = Literal["quick", "default", "full"]
CACHE = Path(
    "out/benchmarks"
)  # ignored by git; a benchmark that was stopped takes up again from here
_COMPARE = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Claim:
    """One measured figure and the mark it has to meet, such as `Claim("mIoU", 0.97, ">= 0.95")`."""

    claim: str
    value: float
    mark: str

    @property
    def holds(self) -> bool:
        """Whether the value meets the mark."""
        relation, bound = self.mark.split()
        return bool(_COMPARE[relation](self.value, float(bound)))


def digest(*known: Any, code: tuple[ModuleType | Callable[..., Any], ...]) -> str:
    """Eight hex digits of what a cached figure depends on: values that JSON can hold, and sources,
    packages whole.
    """
    found = hashlib.sha256(json.dumps(known).encode())
    for part in code:
        files = [
            file
            for place in getattr(part, "__path__", [])
            for file in sorted(Path(place).glob("*.py"))
        ]
        sources = [file.read_text("utf-8") for file in files] or [inspect.getsource(part)]
        found.update("".join(sources).encode())
    return found.hexdigest()[:8]


def run(name: str, main: Callable[[Size], list[Claim]]) -> None:
    """Parse `--quick` or `--full`, measure, print one JSON object as the last line; exit 1 if a
    claim fails.

    A quick run claims nothing: its figures are printed with `holds` null and `passed` null.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick",
        dest="size",
        action="store_const",
        const="quick",
        help="smoke run, claims nothing",
    )
    size.add_argument(
        "--full", dest="size", action="store_const", const="full", help="for a machine with a GPU"
    )
    chosen: Size = parser.parse_args().size or "default"
    claims = main(chosen)
    claiming = chosen != "quick"
    rows = [
        {
            "claim": c.claim,
            "value": round(c.value, 4),
            "mark": c.mark,
            "holds": c.holds if claiming else None,
        }
        for c in claims
    ]
    passed = all(c.holds for c in claims) if claiming else None
    print(json.dumps({"benchmark": name, "passed": passed, "claims": rows}), flush=True)
    sys.exit(0 if passed in (True, None) else 1)
