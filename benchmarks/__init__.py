"""Claims about segmint, each measured by `python -m benchmarks.NAME`."""

import os

from segmint.cli import ENVIRONMENT

for _name, _value in ENVIRONMENT.items():  # before Prefect is imported, as the command line does
    os.environ.setdefault(_name, _value)
