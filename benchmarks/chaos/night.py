"""One night of the benchmark, with retraining: started, disturbed, brought to its end, and judged."""

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
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.chaos import checker, witness
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.kinds import KINDS, Fault
from testbed import nights
from testbed.processes import wait_until
from testbed.swift import Bucket

__all__ = ["ROWS", "Night", "Outcome", "undisturbed_night"]

PATIENCE = 3000.0  # seconds that anything may take before it is called stuck
ALONE = 600.0  # seconds in which a crashed run, or an event, must go on by itself
TINY = {"train": {"steps": 2, "batch_size": 2}, "evaluate": {"images": 2, "batch_size": 2}}
PLAN = {"images": 16, "multi": 0.25, "negatives": 0.25, "shard_size": nights.ROWS}
SCENES = {"images": 4, "spliced": 0.0}
ROWS = 2 * 16 + 4 + (16 + 4)  # of all stages: synthesize and refine, compose, select
_ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Outcome:
    """What became of a night."""

    night: int
    faults: list[dict[str, Any]]
    fired: list[str] = field(default_factory=list)
    hands: list[str] = field(default_factory=list)  # commands that somebody had to give, and why
    found: dict[str, list[str]] = field(default_factory=dict)
    kills: int = 0  # of processes that worked
    again: int = 0  # shards of a stage that were begun more than once, beyond the first time
    seconds: float = 0.0


class Night:
    """A night in a bucket of its own."""

    def __init__(self, fleet: Fleet, number: int, faults: list[Fault]) -> None:
        self.fleet, self.faults = fleet, faults
        self.bucket: Bucket = fleet.swift.new_bucket()
        self.outcome = Outcome(number, [asdict(fault) for fault in faults])
        self.job_environment: dict[str, str] = {}
        self.partial = False  # whether it publishes without shards that cannot be made
        self.poison = ("", 0, 0)  # stage, shard: what a sight of its beginning starts with
        self.without: set[int] = set()  # shards that are not published
        self.twin: subprocess.Popen[bytes] | None = None
        self._over, self._asked = False, 0.0
        self._crashed: dict[str, float] = {}  # since when, of runs that are
        self.retrainings = 1  # how many are to be waited for

    @property
    def settings(self) -> dict[str, Any]:
        """What the deployment is given."""
        compute = {"runner": self.fleet.dask.address, "workers": 2}
        publish = {"partial": self.partial}
        own = nights.settings(
            f"{self.bucket.url}/team",
            plan=PLAN,
            compose=SCENES,
            compute=compute,
            publish=publish,
            **TINY,
        )
        return own.model_dump(mode="json", exclude_unset=True)

    def run(self, reference: Path | None, target: Path) -> Outcome:
        """From its start to the judgement on its bucket, of which a copy is left in `target`."""
        begun = time.monotonic()
        self.fleet.dask.log.write_text("")
        for fault in self.faults:
            KINDS[fault.kind].before(self, random.Random(fault.seed))
        self.flow_run = self.start()
        for fault in self.faults:
            self.wait_for(fault)
            place = f"{self.done()} of {ROWS} rows, {len(self.trainings('RUNNING'))} trainings"
            told = KINDS[fault.kind].strike(self, random.Random(fault.seed))
            self.outcome.kills += KINDS[fault.kind].kills
            self.outcome.fired.append(f"{fault.kind} at {place}: {told}")
            print(f"  night {self.outcome.night}: {self.outcome.fired[-1]}", flush=True)
        self.end(self.flow_run)
        for fault in self.faults:
            KINDS[fault.kind].after(self, random.Random(fault.seed))
        self.end_retraining()
        self.outcome.again = sum(count - 1 for count in self.begun().values())
        download(self.fleet, self.bucket, target)
        found = checker.check(target, reference or target, frozenset(self.without))
        self.outcome.found = {
            name: problems for name, problems in asdict(found).items() if problems
        }
        self.outcome.seconds = round(time.monotonic() - begun, 1)
        return self.outcome

    def start(self) -> str:
        """Start it by its deployment; id of the flow run."""
        deployment = self.fleet.ask("GET", "deployments/name/nightly/nightly")["id"]
        variables = {"env": self.job_environment} if self.job_environment else {}
        given = {
            "parameters": {"settings": self.settings},
            "job_variables": variables,
            "state": {"type": "SCHEDULED"},
        }
        return str(
            self.fleet.ask("POST", f"deployments/{deployment}/create_flow_run", **given)["id"]
        )

    def state(self, flow_run: str) -> str | None:
        """Type of a run's state; None if the server does not say."""
        found = self.fleet.api("GET", f"flow_runs/{flow_run}")
        return found and str(found["state_type"])

    def ended(self, flow_run: str) -> dict[str, Any] | None:
        """State of a run that is completed or has failed."""
        found = self.fleet.api("GET", f"flow_runs/{flow_run}")
        return found["state"] if found and found["state_type"] in {"COMPLETED", "FAILED"} else None

    def published(self) -> Any:
        """The event that tells of the version; None as long as there is none."""
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat()  # a clock may be wrong
        wanted = {"event": {"name": ["segmint.version.published"]}, "occurred": {"until": until}}
        given = {"filter": wanted, "limit": 50}
        found = self.fleet.api("POST", "events/filter", **given) or {"events": []}
        return next(
            (event for event in found["events"] if self.bucket.url in str(event["payload"])), None
        )

    def repeat(self, event: dict[str, Any]) -> None:
        """Tell of something once more."""
        again = {name: event[name] for name in ("event", "resource", "related", "payload")}
        again |= {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat()}
        wait_until(lambda: self.fleet.posts("events", [again]), ALONE)
        self.retrainings += 1

    def done(self) -> int:
        """Rows that all stages have done so far."""
        return sum(sight.rows for sight in witness.sights(self.fleet.dask.log))

    def begun(self) -> Counter[tuple[str, int]]:
        """How often each stage of each shard was begun."""
        return Counter(
            (sight.stage, sight.shard)
            for sight in witness.sights(self.fleet.dask.log)
            if not sight.rows
        )

    def wait_for(self, fault: Fault) -> None:
        """Until so many rows are done; beyond those of the night, until a retraining runs; or until
        all is over.
        """
        if fault.moment <= 1:
            wait_until(lambda: self.done() >= fault.moment * ROWS or self.is_over(), PATIENCE)
        else:
            wait_until(lambda: self.is_over() or self.trainings("RUNNING"), PATIENCE)
        time.sleep(random.Random(fault.seed).uniform(0, 1 if fault.moment <= 1 else 10))

    def is_over(self) -> bool:
        """Whether it failed, crashed for good, or a training on it is done; the server is asked
        every other second.
        """
        if (now := time.monotonic()) - self._asked > 2:
            needs_hand = self.needs_hand(self.flow_run, self.state(self.flow_run))
            self._over, self._asked = bool(needs_hand or self.trainings("COMPLETED")), now
        return self._over

    def needs_hand(self, flow_run: str, state: str | None) -> bool:
        """Whether a run in this state has failed, or has been crashed for longer than it takes to
        go on by itself.
        """
        if state != "CRASHED":
            self._crashed.pop(flow_run, None)
            return state in {"FAILED", "CANCELLED"}
        now = time.monotonic()
        return now - self._crashed.setdefault(flow_run, now) > ALONE

    def trainings(self, *states: str) -> list[dict[str, Any]]:
        """Runs of `retrain` on this bucket, in one of these states or any."""
        given = {"deployments": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_DESC"}
        found = self.fleet.api("POST", "flow_runs/filter", **given) or []
        ours = [run for run in found if self.bucket.url in str(run["parameters"])]
        return [run for run in ours if not states or run["state_type"] in states]

    def end(self, flow_run: str) -> None:
        """Wait until a run is completed; where it cannot be by itself, give the command that its
        state asks for.
        """
        begun = time.monotonic()
        while (state := self.state(flow_run)) != "COMPLETED":
            if self.needs_hand(flow_run, state):
                self.retry(flow_run)
            if time.monotonic() - begun > PATIENCE:
                raise RuntimeError(
                    f"night {self.outcome.night} is stuck: run {flow_run} is {state}"
                )
            time.sleep(1)

    def retry(self, flow_run: str) -> None:
        """The runbook's command for a run that failed or crashed."""
        found = self.fleet.ask("GET", f"flow_runs/{flow_run}")
        self.hand(f"prefect flow-run retry, {found['state']['name']}: {found['state']['message']}")
        if len(self.outcome.hands) > 5:
            raise RuntimeError(
                f"night {self.outcome.night} fails again and again: {self.outcome.hands}"
            )
        self.fleet.prefect.command("prefect", "--no-prompt", "flow-run", "retry", flow_run)
        wait_until(lambda: self.state(flow_run) not in {*_ENDED, None}, ALONE)

    def hand(self, why: str) -> None:
        """Somebody had to do something."""
        self.outcome.hands.append(why)
        print(f"  night {self.outcome.night}, a hand: {why}", flush=True)

    def end_retraining(self) -> None:
        """Wait until as many retrainings as there were events are completed."""
        begun = time.monotonic()
        while len(self.trainings()) < self.retrainings:
            if time.monotonic() - begun > ALONE:
                self.hand(
                    f"prefect deployment run nightly/nightly: {len(self.trainings())} of {self.retrainings} trainings"
                )
                self.flow_run = self.start()
                self.end(self.flow_run)
                begun = time.monotonic()
            time.sleep(2)
        for run in self.trainings():
            self.end(str(run["id"]))


def undisturbed_night(fleet: Fleet, target: Path) -> Path:
    """A folder like the bucket of a night that nothing disturbs, made here; its retraining is not
    awaited.
    """
    with temporary_settings({PREFECT_API_URL: fleet.prefect.url}):
        nights.run(nights.settings(target, plan=PLAN, compose=SCENES, **TINY))
    return target


def download(fleet: Fleet, bucket: Bucket, target: Path) -> None:
    """The whole bucket as files, past the gateway."""
    files = s3fs.S3FileSystem(**bucket.options, use_listings_cache=False, skip_instance_cache=True)
    root = bucket.url.removeprefix("s3://")
    for path in files.find(f"{root}/team"):
        to = target / path.removeprefix(f"{root}/team/")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(files.cat_file(path))
