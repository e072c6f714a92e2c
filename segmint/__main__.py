"""The entry point of `segmint`: the command line under a supervisor, which stops it cleanly."""

from __future__ import annotations

import shlex
import sys

from infra.supervision import supervise

__all__ = ["main"]

# Commands that take minutes and take up again what an interrupted one left in the store.
RESUMING = ("run", "train", "evaluate", "compare", "pretrain")


def main() -> None:
    """Run the command line of `sys.argv`, and exit with its code."""
    words = sys.argv[1:]
    command = shlex.join(["segmint", *words])
    again = f" To continue, run the same command again:\n  {command}"
    supervise(again if any(word in RESUMING for word in words[:2]) else "")
    from segmint.cli import app

    app()


if __name__ == "__main__":
    main()
