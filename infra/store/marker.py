"""The marker of a shard: the small JSON file that makes it finished and holds its checksums."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from infra.parsing import checked
from infra.store.errors import FormatError, MissingError
from infra.store.layout import CHECK_BYTES, Layout
from infra.store.seal import FileSum, seal, seal_record, unseal_record
from infra.store.store import Store

__all__ = ["FIELD", "Marker", "check_marker", "read_marker"]

FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Marker:
    """What a finished shard holds.

    `ids` are the samples in order. Keys of `files` are suffixes to the shard's path, such as
    `.zarr/label/zarr.json`. `checks` holds per field the CRC32C of every stored sample, 8
    hexadecimal digits each, so that each sample can be checked alone. `stats` are the stage's own
    figures, `seconds` the time it took.
    """

    ids: tuple[str, ...]
    fields: Mapping[str, Layout]
    files: Mapping[str, FileSum]
    checks: Mapping[str, str]
    stats: Mapping[str, Any]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def digest(self) -> str:
        """SHA-256 over the checksums of all files. It covers the content, not `stats`."""
        return FileSum.of(seal({suffix: vars(file) for suffix, file in self.files.items()})).sha256

    def to_bytes(self) -> bytes:
        """Return the marker as it is stored."""
        fields = {name: vars(layout) for name, layout in self.fields.items()}
        files = {suffix: vars(file) for suffix, file in self.files.items()}
        return seal_record({**vars(self), "fields": fields, "files": files})

    @classmethod
    def from_bytes(cls, data: bytes) -> Marker:
        """Return the marker stored as `data`.

        Raises `ValueError` if `data` is damaged or no marker, `FormatError` for another format.
        """
        marker: Marker = checked(unseal_record(data), cls)
        marker._check_names()
        marker._check_files()
        return marker

    def suffix(self, field: str) -> str:
        """Return the key in `files` of the field's shard object. An empty field has none."""
        return f".zarr/{field}/{self.fields[field].key}"

    def _check_names(self) -> None:
        """Raise ValueError for ids and fields that `write_shard` refuses."""
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("it has an id twice")
        if strange := [name for name in self.fields if not FIELD.fullmatch(name)]:
            raise ValueError(f"field {strange[0]!r} is no plain word")
        for name, layout in self.fields.items():
            if layout.shape[0] != len(self.ids):
                raise ValueError(
                    f"field {name!r} has {layout.shape[0]} samples, but there are "
                    f"{len(self.ids)} ids"
                )

    def _check_files(self) -> None:
        """Raise ValueError unless files, sizes and checksums fit the fields.

        Readers trust names and sizes after this.
        """
        stored = {
            self.suffix(name): name for name, layout in self.fields.items() if not layout.is_empty
        }
        metadata = {f".zarr/{name}/zarr.json" for name in self.fields}
        expected = {".parquet", ".zarr/zarr.json", *metadata, *stored}
        if set(self.files) != expected or set(self.checks) != set(stored.values()):
            raise ValueError(
                f"its files {sorted(self.files)} do not fit its fields {sorted(self.fields)}"
            )
        digits = 2 * CHECK_BYTES
        for suffix, name in stored.items():
            self.fields[name].check_size(self.files[suffix].size)
            if not re.fullmatch(f"[0-9a-f]{{{digits * len(self.ids)}}}", self.checks[name]):
                raise ValueError(
                    f"checks of field {name!r} are not {digits} hexadecimal digits per sample"
                )


def read_marker(store: Store, path: str) -> Marker | None:
    """Return the marker of the shard at `path` (without suffix), None if the shard is unfinished.

    Raises `FormatError` for a marker of another format.
    """
    try:
        return check_marker(store, path)
    except MissingError:
        return None


def check_marker(store: Store, path: str) -> Marker:
    """Return the marker of the shard at `path` (without suffix).

    Raises `MissingError`, with the reason, if there is no valid one, and `FormatError` for a marker
    of another format.
    """
    try:
        return Marker.from_bytes(store.read_bytes(f"{path}.json"))
    except FormatError as error:
        raise FormatError(f"{store.url}/{path}.json {error}") from error
    except (MissingError, ValueError) as error:
        why = "" if isinstance(error, MissingError) else f" (delete its marker first: {error})"
        raise MissingError(
            f"{store.url}/{path} is no finished shard; run the stage that writes it{why}"
        ) from error
