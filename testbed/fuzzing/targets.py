"""What is fuzzed: each reader of a file that somebody else may have written."""

from __future__ import annotations

from testbed.fuzzing.files import FILES
from testbed.fuzzing.stored import STORED

__all__ = ["TARGETS"]

TARGETS = {**FILES, **STORED}
