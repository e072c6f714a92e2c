"""The installed version. Its only source is `version` in pyproject.toml."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["DISTRIBUTION", "VERSION"]

DISTRIBUTION = "segmint"
VERSION = version(DISTRIBUTION)
