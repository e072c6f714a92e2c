"""Where a run happens: settings, vocabularies, the dataset store, Dask clusters, Prefect blocks.

Importing this package before torch sets `GOMP_SPINCOUNT`, unless the environment holds it or
`OMP_WAIT_POLICY`. GNU OpenMP reads it once, when torch loads it.
"""

from __future__ import annotations

import os

# OpenMP threads spin at barriers, and so take the cores from every other process. Steps per second
# of a small convolutional training on two cores:
#
#                      alone   beside a second one
#     default            23           0.57 + 0.63
#     1000               23           7.5  + 7.4
#
# 100 000 slows two generators on two cores even more than the default does.
SPIN_COUNT = "1000"

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
