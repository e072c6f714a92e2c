"""The dataset store: runs, immutable versions and checkpoints in one folder or bucket.

`SegmentationDataset` is loaded on first use, since it needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from infra.store.errors import (
    CorruptShardError,
    FormatError,
    MissingError,
    PublishedError,
    StoreError,
)
from infra.store.manifest import Manifest, read_version
from infra.store.marker import Marker, check_marker, read_marker
from infra.store.place import Usage
from infra.store.publications import Published, list_versions
from infra.store.reader import ShardReader, read_shard
from infra.store.shards import write_shard
from infra.store.store import Store, check_name
from infra.store.verify import Problem, verify_run, verify_version
from infra.store.versions import publish_version

if TYPE_CHECKING:
    from infra.store.dataset import SegmentationDataset

__all__ = [
    "CorruptShardError",
    "FormatError",
    "Manifest",
    "Marker",
    "MissingError",
    "Problem",
    "Published",
    "PublishedError",
    "SegmentationDataset",
    "ShardReader",
    "Store",
    "StoreError",
    "Usage",
    "check_marker",
    "check_name",
    "list_versions",
    "publish_version",
    "read_marker",
    "read_shard",
    "read_version",
    "verify_run",
    "verify_version",
    "write_shard",
]


def __getattr__(name: str) -> Any:
    if name == "SegmentationDataset":
        from infra.store.dataset import SegmentationDataset

        return SegmentationDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
