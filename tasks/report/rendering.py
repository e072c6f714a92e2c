"""Rendering: the templates of pages, which escape every text, with their filters."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from tasks.report.figures import as_count, as_duration, as_percent, as_rate

__all__ = ["template"]


@cache
def template(name: str) -> jinja2.Template:
    """Return a template of the folder `templates`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": as_count,
        "percent": as_percent,
        "duration": as_duration,
        "rate": as_rate,
    }
    return environment.get_template(name)
