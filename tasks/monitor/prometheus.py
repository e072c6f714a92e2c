"""Metrics: a run's figures as Prometheus reads them, by a Pushgateway or by node_exporter's
textfile collector.

Runs are short-lived processes on whichever machine is free, so they bring their figures to where
Prometheus looks. The flow's process does that for all of its workers. docs/runbook.md says how to
scrape and what each figure means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile
from prometheus_client.metrics_core import CounterMetricFamily as Counter
from prometheus_client.metrics_core import GaugeMetricFamily as Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tasks.monitor.totals import Totals

__all__ = ["Figures", "send"]

_SECONDS = 10.0  # that a gateway may take
# figures that tasks measure: what they mean, and what they are told apart by
VALUES = {
    "keep_ratio": ("Share of the judged samples of a class that was kept", ["class"]),
    "rejected_samples": ("Samples turned down, by reason", ["reason"]),
    "iou": ("IoU of a class by the last evaluation", ["class"]),
    "miou": ("Mean IoU by the last evaluation", []),
    "store_free_bytes": ("Bytes free on the disk of a store that is a folder", []),
}
RESOURCES = {
    "disk_free_bytes": "Bytes free on the disk of a worker's working directory",
    "gpu_memory_used_bytes": "Bytes taken of a worker's GPU, by whomever",
    "gpu_memory_bytes": "Bytes that a worker's GPU has",
}
_Rows = Iterable[tuple[list[str], float]]  # values of its labels, and its own
_Described = tuple[type[Counter | Gauge], str, str, list[str], _Rows]


class Figures(Collector):
    """What Prometheus gets of a run of `flow`; one run of a flow takes the place of the one before
    it.
    """

    def __init__(self, flow: str, run: str, totals: Callable[[], Totals]) -> None:
        self._flow, self._run, self._totals = flow, run, totals

    def collect(self) -> Iterator[Metric]:
        """Every metric as of now."""
        totals = self._totals()
        of_run: _Described = (
            Gauge,
            "run_info",
            "The run that the other figures are of",
            ["run"],
            [([self._run], 1)],
        )
        for kind, name, meaning, labels, rows in [
            of_run,
            *_of_stages(totals),
            *_of_workers(totals),
            *_measured(totals),
        ]:
            metric = kind(f"segmint_{name}", meaning, labels=["flow", *labels])
            for values, number in rows:
                metric.add_metric([self._flow, *values], number)
            yield metric


def _of_stages(totals: Totals) -> Iterator[_Described]:
    stages = totals.stages.items()
    shares, failures = (
        [([n], getattr(stage, part)) for n, stage in stages] for part in ("share", "failures")
    )
    left = [([name], stage.left) for name, stage in stages if stage.left is not None]
    yield Gauge, "stage_ratio", "Share of a stage that is done", ["stage"], shares
    yield Gauge, "stage_left_seconds", "Seconds that a stage needs at this rate", ["stage"], left
    yield Counter, "failures", "Shards given up", ["stage"], failures


def _of_workers(totals: Totals) -> Iterator[_Described]:
    units, seconds = (
        [([*k], getattr(work, part)) for k, work in totals.work.items()]
        for part in ("units", "seconds")
    )
    yield (
        Counter,
        "units",
        "Samples, or steps of a training, that a worker has done",
        ["stage", "worker"],
        units,
    )
    yield Counter, "busy_seconds", "Seconds that these took it", ["stage", "worker"], seconds
    for name, meaning in RESOURCES.items():
        rows = [
            ([worker], found[name]) for worker, found in totals.resources.items() if name in found
        ]
        yield Gauge, f"worker_{name}", meaning, ["worker"], rows


def _measured(totals: Totals) -> Iterator[_Described]:
    for name, (meaning, labels) in VALUES.items():
        by_label = totals.values.get(name, {}).items()
        yield (
            Gauge,
            name,
            meaning,
            labels,
            [([label] if labels else [], value) for label, value in by_label],
        )


def send(figures: Figures, flow: str, place: str) -> None:
    """Bring the figures to `place`: the URL of a Pushgateway, or a folder that node_exporter reads."""
    registry = CollectorRegistry()
    registry.register(figures)
    if "://" in place:
        push_to_gateway(
            place, job="segmint", grouping_key={"flow": flow}, registry=registry, timeout=_SECONDS
        )
        return
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(folder / f"segmint-{flow}.prom"), registry)
