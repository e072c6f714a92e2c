"""Prometheus: a run's metrics, through a Pushgateway or node_exporter's textfile collector.

Runs are short-lived processes on changing machines, so Prometheus cannot scrape them. The flow's
process sends the metrics of all its workers instead. docs/runbook.md says how to scrape them and
what each metric means.
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

_TIMEOUT = 10.0  # seconds for a Pushgateway to answer
# Values that tasks measure, with their help texts and label names.
VALUES = {
    "keep_ratio": ("Share of the judged samples of a class that were kept", ["class"]),
    "rejected_samples": ("Rejected samples, by reason", ["reason"]),
    "iou": ("IoU of a class in the last evaluation", ["class"]),
    "miou": ("Mean IoU in the last evaluation", []),
    "store_free_bytes": ("Bytes free on the disk of a store that is a folder", []),
}
RESOURCES = {
    "disk_free_bytes": "Bytes free on the disk of a worker's working directory",
    "gpu_memory_used_bytes": "Bytes in use on a worker's GPU, by all processes",
    "gpu_memory_bytes": "Memory of a worker's GPU in bytes",
}
_Rows = Iterable[tuple[list[str], float]]  # label values, and the metric's value
_Described = tuple[type[Counter | Gauge], str, str, list[str], _Rows]


class Figures(Collector):
    """The metrics of a run of `flow`; those of a flow's next run replace them."""

    def __init__(self, flow: str, run: str, totals: Callable[[], Totals]) -> None:
        self._flow = flow
        self._run = run
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its current value."""
        totals = self._totals()
        about = "Name of the run that the other metrics belong to"
        of_run: _Described = (Gauge, "run_info", about, ["run"], [([self._run], 1)])
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
    shares = [([name], stage.share) for name, stage in stages]
    failures = [([name], float(stage.failures)) for name, stage in stages]
    left = [([name], stage.left) for name, stage in stages if stage.left is not None]
    yield Gauge, "stage_ratio", "Finished share of a stage", ["stage"], shares
    about = "Remaining seconds of a stage at its present rate"
    yield Gauge, "stage_left_seconds", about, ["stage"], left
    yield Counter, "failures", "Shards that failed", ["stage"], failures


def _of_workers(totals: Totals) -> Iterator[_Described]:
    work = totals.work.items()
    units = [([*labels], float(done.units)) for labels, done in work]
    seconds = [([*labels], done.seconds) for labels, done in work]
    labels = ["stage", "worker"]
    yield Counter, "units", "Samples or training steps that a worker has done", labels, units
    yield Counter, "busy_seconds", "Seconds that they took", labels, seconds
    for name, meaning in RESOURCES.items():
        rows = [
            ([worker], found[name]) for worker, found in totals.resources.items() if name in found
        ]
        yield Gauge, f"worker_{name}", meaning, ["worker"], rows


def _measured(totals: Totals) -> Iterator[_Described]:
    for name, (meaning, labels) in VALUES.items():
        by_label = totals.values.get(name, {}).items()
        rows = [([label] if labels else [], value) for label, value in by_label]
        yield Gauge, name, meaning, labels, rows


def send(figures: Figures, flow: str, place: str) -> None:
    """Send the metrics to `place`: the URL of a Pushgateway, or node_exporter's textfile folder.

    Raises `OSError` if the gateway or the folder cannot be reached.
    """
    registry = CollectorRegistry()
    registry.register(figures)
    if "://" in place:
        key = {"flow": flow}
        push_to_gateway(place, job="segmint", grouping_key=key, registry=registry, timeout=_TIMEOUT)
        return
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(folder / f"segmint-{flow}.prom"), registry)
