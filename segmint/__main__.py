"""The entry point of `segmint`: the command line under a supervisor, which stops it cleanly."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from infra.credentials import MASK, holds_credential, is_harmless
from infra.supervision import supervise

__all__ = ["main", "shown_command"]

# Commands that take minutes and take up again what an interrupted one left in the store.
RESUMING = ("run", "train", "evaluate", "compare", "pretrain")


def main() -> None:
    """Run the command line of `sys.argv`, and exit with its code."""
    words = sys.argv[1:]
    again = f" To continue, run the same command again:\n  {shown_command(words)}"
    supervise(again if any(word in RESUMING for word in words[:2]) else "")
    from segmint.cli import app

    app()


def shown_command(words: Sequence[str]) -> str:
    """Return the command line, with *** for values that `Settings` refuses as credentials."""
    return shlex.join(["segmint", *(_shown(word) for word in words)])


def _shown(word: str) -> str:
    flag = word.removeprefix("--set=").removeprefix("-s")
    field, equals, value = flag.partition("=")
    path = field.strip().split(".")
    hidden = path[0] == "store" and path not in (["store", "url"], ["store", "block"])
    if path[:2] == ["store", "options"] and path[2:]:
        hidden = not is_harmless(path[2:], value.strip())
    if equals and (hidden or holds_credential(value.strip())):
        return word.removesuffix(value) + MASK
    return word


if __name__ == "__main__":
    main()
