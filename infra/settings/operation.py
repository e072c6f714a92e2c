"""Settings of where a run stores and computes, what it publishes and who is notified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from infra.credentials import holds_credential
from infra.hidden import hide, written
from infra.settings.section import BLOCK, DNS_LABEL, Count, Section, Share, booleans
from infra.version import VERSION

__all__ = [
    "AlarmSettings",
    "ComputeSettings",
    "KubernetesSettings",
    "PublishSettings",
    "RetentionSettings",
    "StoreSettings",
    "WatchSettings",
]


class StoreSettings(Section):
    """Root of the dataset store: a folder or an fsspec URL, with options for its file system."""

    url: str = Field(default="out/store", min_length=1)
    """A folder, or an fsspec URL such as s3://bucket/prefix."""
    options: Annotated[dict[str, Any], BeforeValidator(booleans), AfterValidator(hide)] = Field(
        default_factory=dict
    )
    """fsspec options known to be harmless, such as endpoint_url. Others: environment or block."""
    block: str | None = Field(default=None, pattern=BLOCK)
    """Prefect Secret block with more options as JSON, which may be credentials. Default: none."""

    @field_validator("url")
    @classmethod
    def _url_holds_no_credential(cls, url: str) -> str:
        if holds_credential(url):
            raise ValueError("a store's url has no user, password, query or fragment; remove it")
        return url

    @field_serializer("options")
    def _without_hidden(self, options: dict[str, Any]) -> Any:
        return written(options)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield from self.model_dump().items()


class PublishSettings(Section):
    """What happens if some shards of a run failed."""

    partial: bool = False
    """Publish the other shards, as another version. Otherwise publish nothing and fail."""


class RetentionSettings(Section):
    """What `segmint gc` keeps. It always keeps the champion's version and pinned versions."""

    versions: Count = 14
    """Number of newest versions to keep, at any age."""
    days: Annotated[float, Field(ge=0)] = 30.0
    """Age in days up to which all versions are kept."""
    run_days: Annotated[float, Field(ge=0)] = 7.0
    """Days to keep the working shards of a published run."""
    abandoned_days: Annotated[float, Field(ge=1)] = 30.0
    """Days to keep a run that published nothing, counted from its last write."""


class AlarmSettings(Section):
    """When a run emits an event that asks for attention."""

    keep_rate: Share = 0.2
    """Alarm if a run keeps a smaller share of its images."""
    regression: Share = 0.02
    """Alarm if the champion's mIoU falls by more on the same evaluation set."""
    notify: str | None = Field(default=None, pattern=f"{BLOCK[:-1]}/{BLOCK[1:]}")
    """Prefect notification block as type/name, such as slack-webhook/team. Default: none."""


class WatchSettings(Section):
    """Progress and metrics of a run, beside Prefect's UI."""

    metrics: str | None = Field(default=None, pattern=r"^([^:]+|https?://[^@\s]+)$")
    """Target of metrics: http://HOST:PORT of a Pushgateway, or a folder for node_exporter."""
    lines: str | None = Field(default=None, min_length=1)
    """Target of events as JSON lines: a folder, with one file per run, or - for standard error."""
    links: str | None = Field(default=None, pattern=r"^https?://[^@\s]+$")
    """Web address of the store's files, for links to report, version and champion."""
    seconds: float = Field(default=10.0, ge=0.1)
    """Seconds between two updates of progress and metrics."""


class KubernetesSettings(Section):
    """Pods of a run with `compute.runner` dask-kubernetes; the Dask operator creates and removes
    them.
    """

    namespace: str = Field(default="segmint", pattern=DNS_LABEL, max_length=63)
    """Namespace of scheduler and workers."""
    image: str = Field(default=f"segmint-gpu:{VERSION}", min_length=1)
    """Container image of scheduler and workers, built from infra/images."""
    gpus: int = Field(default=1, ge=0)
    """GPUs per worker. 0 for workers on CPUs."""
    cpu: Count = 4
    """CPU cores per worker."""
    memory: str = Field(default="16Gi", pattern=r"^[1-9]\d*[MGT]i$")
    """Memory per worker, in Mi, Gi or Ti, such as 16Gi."""
    secret: str | None = Field(default="segmint-store", pattern=DNS_LABEL)
    """Kubernetes secret with the store's credentials. Its keys become the workers' environment."""
    service_account: str | None = Field(default=None, pattern=DNS_LABEL)
    """Service account of the pods, if it gives access to the store. Default: none."""


class ComputeSettings(Section):
    """Where tasks run."""

    runner: str = Field(
        default="threads", pattern=r"^(threads|dask-local|dask-kubernetes|dask://.+)$"
    )
    """threads, dask-local, dask-kubernetes or dask://HOST:PORT of a scheduler."""
    workers: Count = 1
    """Number of workers without a GPU."""
    gpus: int = Field(default=0, ge=0)
    """dask-local: additional workers with a GPU. Other runners: over 0 if workers have GPUs."""
    limit: str | None = None
    """Prefect global concurrency limit. A task holds a slot per GPU it uses. Default: no limit."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """Pods of dask-kubernetes."""

    @model_validator(mode="after")
    def _gpus_have_workers(self) -> ComputeSettings:
        if self.gpus and self.runner == "threads":
            raise ValueError(
                f"gpus is {self.gpus}, but threads share one process and one GPU; "
                "set runner to dask-local"
            )
        if self.gpus and self.runner == "dask-kubernetes" and not self.kubernetes.gpus:
            raise ValueError(
                f"gpus is {self.gpus}, but kubernetes.gpus is 0, so no worker would take their "
                "work; set it to 1"
            )
        return self
