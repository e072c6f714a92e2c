"""Plans with any columns, for tests and benchmarks that need only a part of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from infra.store import Store
from infra.store.tables import grouped_as

__all__ = ["write_plan"]


def write_plan(
    store: Store, path: str, table: pd.DataFrame, notes: Mapping[str, Any] | None = None
) -> None:
    """Store `table` at `path` as a plan is stored: in groups of rows, here a single one.

    Its columns and their types are taken as they are. A whole plan, which `tasks.plan.table.Plan`
    opens, is made by `tasks.plan.table.stored_plan` instead, or takes the notes of one.
    """
    schema = pa.Schema.from_pandas(table, preserve_index=False)
    bounds = [name for name in ("shard",) if name in table.columns]
    store.write_bytes(path, grouped_as([table], schema, bounds, notes or {}))
