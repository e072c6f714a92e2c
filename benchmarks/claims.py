"""What every benchmark shares: its sizes, its cache folder and its last line.

A benchmark is a module with `main(size: Size) -> list[Claim]` and ends with `run("NAME", main)`.
What it needs from outside the repository comes as further options, such as `--root FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Size = Literal["quick", "default", "full"]
CACHE = Path("out/benchmarks")  # ignored by git; a benchmark that was stopped resumes from here
_COMPARE = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Claim:
    """One measured figure and the mark it must meet, such as `Claim("mIoU", 0.97, ">= 0.95")`."""

    claim: str
    value: float
    mark: str

    @property
    def holds(self) -> bool:
        """Whether the value meets the mark."""
        relation, bound = self.mark.split()
        return bool(_COMPARE[relation](self.value, float(bound)))


def run(
    name: str, main: Callable[..., list[Claim]], paths: Mapping[str, str] | None = None
) -> None:
    """Parse `--quick` or `--full`, measure, and print one JSON object as the last line.

    `paths` are further options with the help of each; `main` gets their values as keywords.

    Exits with status 1 if a claim fails.
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
    for option, text in (paths or {}).items():
        parser.add_argument(f"--{option}", type=Path, required=True, help=text)
    given = vars(parser.parse_args())
    chosen: Size = given.pop("size") or "default"
    claims = main(chosen, **given)
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
