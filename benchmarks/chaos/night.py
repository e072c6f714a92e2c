"""One run of the benchmark with its retraining: started, watched and brought to its end."""

from __future__ import annotations

import random
import subprocess
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import s3fs
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.chaos import witness
from benchmarks.chaos.fleet import Fleet
from testbed import nights
from testbed.processes import wait_until
from testbed.swift import Bucket

__all__ = ["ROWS", "Fault", "Night", "Outcome", "download", "undisturbed_night"]

PATIENCE = 3000.0  # seconds until something that does not end is called stuck
ALONE = 600.0  # seconds in which a crashed run, or an event, must recover without a command
TINY = {"train": {"steps": 2, "batch_size": 2}, "evaluate": {"images": 2, "batch_size": 2}}
PLAN = {"images": 16, "multi": 0.25, "negatives": 0.25, "shard_size": nights.ROWS}
SCENES = {"images": 4, "spliced": 0.0}
ROWS = 2 * 16 + 4 + (16 + 4)  # of all stages: synthesize and refine, compose, select
_ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, its moment and the seed of its random choices.

    `moment` is the share of the night's rows that are done when it strikes; over 1, it strikes
    while a training runs.
    """

    kind: str
    moment: float
    seed: int


@dataclass
class Outcome:
    """The result of a night. `seconds` stays 0 if it did not end."""

    night: int
    faults: list[dict[str, Any]]
    fired: list[str] = field(default_factory=list)
    hands: list[str] = field(default_factory=list)  # commands that a person had to give, and why
    found: dict[str, list[str]] = field(default_factory=dict)
    kills: int = 0  # of processes that were working
    again: int = 0  # shards of a stage that were begun more than once, beyond the first time
    seconds: float = 0.0


class Night:
    """A run in a bucket of its own, started by its deployment."""

    def __init__(self, fleet: Fleet, number: int, faults: list[Fault]) -> None:
        self.fleet = fleet
        self.faults = faults
        self.bucket: Bucket = fleet.swift.new_bucket()
        self.outcome = Outcome(number, [asdict(fault) for fault in faults])
        self.flow_run = ""  # its id, once it is started
        self.job_environment: dict[str, str] = {}
        self.partial = False  # whether it publishes without the shards that cannot be made
        self.poison = ("", 0, 0)  # how the log line of the poisoned shard begins
        self.without: set[int] = set()  # shards that are not published
        self.twin: subprocess.Popen[bytes] | None = None
        self.retrainings = 1  # how many are expected
        self._over = False
        self._asked = 0.0
        self._crashed: dict[str, float] = {}  # time since when each crashed run is crashed

    @property
    def settings(self) -> dict[str, Any]:
        """The deployment's parameter."""
        own = nights.settings(
            f"{self.bucket.url}/team",
            plan=PLAN,
            compose=SCENES,
            compute={"runner": self.fleet.dask.address, "workers": 2},
            publish={"partial": self.partial},
            **TINY,
        )
        return own.model_dump(mode="json", exclude_unset=True)

    def start(self) -> str:
        """Start the night by its deployment and return the id of the flow run."""
        self._deploy_retraining()
        deployment = self._deployment("nightly")
        given = {
            "parameters": {"settings": self.settings},
            "job_variables": {"env": self.job_environment} if self.job_environment else {},
            "state": {"type": "SCHEDULED"},
        }
        run = self.fleet.ask("POST", f"deployments/{deployment}/create_flow_run", **given)
        return str(run["id"])

    def _deployment(self, flow: str) -> str:
        return str(self.fleet.ask("GET", f"deployments/name/{flow}/{flow}")["id"])

    def _deploy_retraining(self) -> None:
        """Give the deployment of `retrain` this night's settings, as prefect.yaml does for both."""
        path = f"deployments/{self._deployment('retrain')}"
        given = {"parameters": {"settings": self.settings}}
        wait_until(lambda: self.fleet.accepts("PATCH", path, given), ALONE)

    def state(self, flow_run: str) -> str | None:
        """Return the type of a run's state; None if the server does not answer."""
        found = self.fleet.api("GET", f"flow_runs/{flow_run}")
        return found and str(found["state_type"])

    def ended(self, flow_run: str) -> dict[str, Any] | None:
        """Return the state of a run that is completed or has failed, else None."""
        found = self.fleet.api("GET", f"flow_runs/{flow_run}")
        return found["state"] if found and found["state_type"] in {"COMPLETED", "FAILED"} else None

    def published(self) -> Any:
        """Return the event that announces the version; None as long as it does not exist."""
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat()  # a clock may be wrong
        wanted = {"event": {"name": ["segmint.version.published"]}, "occurred": {"until": until}}
        given = {"filter": wanted, "limit": 50}
        found = self.fleet.api("POST", "events/filter", **given) or {"events": []}
        ours = (event for event in found["events"] if self.flow_run in str(event["related"]))
        return next(ours, None)

    def repeat(self, event: dict[str, Any]) -> None:
        """Emit an event once more."""
        again = {name: event[name] for name in ("event", "resource", "related", "payload")}
        again |= {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat()}
        wait_until(lambda: self.fleet.accepts("POST", "events", [again]), ALONE)
        self.retrainings += 1

    def done(self) -> int:
        """Return the number of rows that all stages have done so far."""
        return sum(sight.rows for sight in witness.sights(self.fleet.dask.log))

    def begun(self) -> Counter[tuple[str, int]]:
        """Return how often each stage of each shard was begun."""
        sights = witness.sights(self.fleet.dask.log)
        return Counter((sight.stage, sight.shard) for sight in sights if not sight.rows)

    def wait_for(self, fault: Fault) -> None:
        """Wait for the fault's moment, or until the night is over."""
        if fault.moment <= 1:
            wait_until(lambda: self.done() >= fault.moment * ROWS or self.is_over(), PATIENCE)
        else:
            wait_until(lambda: self.is_over() or self.trainings("RUNNING"), PATIENCE)
        time.sleep(random.Random(fault.seed).uniform(0, 1 if fault.moment <= 1 else 10))

    def is_over(self) -> bool:
        """Whether it failed, crashed for good, or a training on it is completed.

        The server is asked at most every two seconds.
        """
        now = time.monotonic()
        if now - self._asked > 2:
            needs_hand = self.needs_hand(self.flow_run, self.state(self.flow_run))
            self._over = bool(needs_hand or self.trainings("COMPLETED"))
            self._asked = now
        return self._over

    def needs_hand(self, flow_run: str, state: str | None) -> bool:
        """Whether a run in this state has failed, or stays crashed for longer than `ALONE`."""
        if state != "CRASHED":
            self._crashed.pop(flow_run, None)
            return state in {"FAILED", "CANCELLED"}
        now = time.monotonic()
        return now - self._crashed.setdefault(flow_run, now) > ALONE

    def trainings(self, *states: str) -> list[dict[str, Any]]:
        """Return the runs of `retrain` on this bucket in one of these states, or in any."""
        given = {"deployments": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_DESC"}
        found = self.fleet.api("POST", "flow_runs/filter", **given) or []
        ours = [run for run in found if self.bucket.url in str(run["parameters"])]
        return [run for run in ours if not states or run["state_type"] in states]

    def end(self, flow_run: str) -> None:
        """Wait until a run is completed; retry it by a command if it cannot recover by itself."""
        begun = time.monotonic()
        while (state := self.state(flow_run)) != "COMPLETED":
            if self.needs_hand(flow_run, state):
                self.retry(flow_run)
            if time.monotonic() - begun > PATIENCE:
                number = self.outcome.night
                raise RuntimeError(f"night {number} is stuck: run {flow_run} is {state}")
            time.sleep(1)

    def retry(self, flow_run: str) -> None:
        """Give the runbook's command for a run that failed or crashed."""
        found = self.fleet.ask("GET", f"flow_runs/{flow_run}")
        self.hand(f"prefect flow-run retry, {found['state']['name']}: {found['state']['message']}")
        if len(self.outcome.hands) > 5:
            raise RuntimeError(f"night {self.outcome.night} keeps failing: {self.outcome.hands}")
        self.fleet.prefect.command("prefect", "--no-prompt", "flow-run", "retry", flow_run)
        wait_until(lambda: self.state(flow_run) not in {*_ENDED, None}, ALONE)

    def hand(self, why: str) -> None:
        """Record a command that a person had to give."""
        self.outcome.hands.append(why)
        print(f"  night {self.outcome.night}, a hand: {why}", flush=True)

    def end_retraining(self) -> None:
        """Wait until one retraining per event is completed."""
        begun = time.monotonic()
        while (count := len(self.trainings())) < self.retrainings:
            if time.monotonic() - begun > ALONE:
                trainings = f"{count} of {self.retrainings} trainings"
                self.hand(f"prefect deployment run nightly/nightly: {trainings}")
                self.flow_run = self.start()
                self.end(self.flow_run)
                begun = time.monotonic()
            time.sleep(2)
        for run in self.trainings():
            self.end(str(run["id"]))


def undisturbed_night(fleet: Fleet, target: Path) -> Path:
    """Make a folder like the bucket of an undisturbed night, in this process and without waiting
    for its retraining.

    One thread computes, as in Dask's workers: more would sum floats in another order.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with temporary_settings({PREFECT_API_URL: fleet.prefect.url}):
            nights.run(nights.settings(target, plan=PLAN, compose=SCENES, **TINY))
    finally:
        torch.set_num_threads(threads)
    return target


def download(bucket: Bucket, target: Path) -> None:
    """Copy the whole bucket to files, directly from the server and not through the gateway."""
    files = s3fs.S3FileSystem(**bucket.options, use_listings_cache=False, skip_instance_cache=True)
    root = bucket.url.removeprefix("s3://")
    for path in files.find(f"{root}/team"):
        to = target / path.removeprefix(f"{root}/team/")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(files.cat_file(path))
