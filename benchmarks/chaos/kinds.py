"""The faults: how each is prepared before a night, strikes in it, and is mended after it.

Who would mend them in a team's fleet does so here too, after some seconds: Docker, Kubernetes or
systemd start again what died, somebody frees a disk. Nobody looks after the runs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.chaos import witness
from testbed.processes import wait_until

if TYPE_CHECKING:
    from benchmarks.chaos.night import Night

__all__ = ["KINDS", "Fault", "Kind"]

LONGEST_SKEW = 840  # seconds; S3 refuses what was signed 900 s ago or later
PATIENCE = 1500.0  # seconds that a thing may take to get where a fault needs it
GENERATED, SHARDS = 8, 10  # of a night; the last two are composed
Act = Callable[["Night", random.Random], str]


@dataclass(frozen=True)
class Fault:
    """Its kind, the share of the night's rows at which it strikes (over 1: while a training runs),
    and its seed.
    """

    kind: str
    moment: float
    seed: int


def _nothing(night: Night, draw: random.Random) -> str:
    return "all night"


@dataclass(frozen=True)
class Kind:
    """What a kind of fault does, each part with the night and random numbers of the fault's own."""

    strike: Act = _nothing
    before: Act = _nothing
    after: Act = _nothing
    moments: tuple[float, float] = (
        0.0,
        1.25,
    )  # shares of the night's rows; over 1 while a training runs
    kills: bool = False  # a process that works, so that shards may have to be done again
    alone: bool = False  # no other fault in its night


def kill_worker(night: Night, draw: random.Random) -> str:
    worker = draw.choice(night.fleet.dask.workers)
    night.fleet.dask.signal(worker, signal.SIGKILL)
    return f"killed {worker}"


def kill_scheduler(night: Night, draw: random.Random) -> str:
    night.fleet.dask.signal("scheduler", signal.SIGKILL)
    return "killed the scheduler"


def kill_flow(night: Night, draw: random.Random) -> str:
    process = wait_until(
        lambda: _flow_process(night) or night.is_over(), PATIENCE, lambda: "no run has a process"
    )
    if not isinstance(process, psutil.Process):
        return "nothing ran any more"
    process.kill()
    return f"killed process {process.pid}"


def _flow_process(night: Night) -> psutil.Process | None:
    runs = [night.flow_run, *(str(run["id"]) for run in night.trainings("RUNNING"))]
    return next(filter(None, map(night.fleet.process_of, runs)), None)


def kill_server(night: Night, draw: random.Random) -> str:
    seconds = _away(night.fleet.prefect.kill, night.fleet.prefect.start, draw, 1, 15)
    return f"killed Prefect's server for {seconds} s"


def restart_database(night: Night, draw: random.Random) -> str:
    stop = draw.choice([night.fleet.database.stop, night.fleet.database.kill])
    seconds = _away(stop, night.fleet.database.start, draw, 1, 10)
    return f"{stop.__name__} of PostgreSQL for {seconds} s"


def kill_bucket(night: Night, draw: random.Random) -> str:
    seconds = _away(night.fleet.swift.kill, night.fleet.swift.start, draw, 1, 30)
    return f"killed Swift for {seconds} s"


def fill_disk(night: Night, draw: random.Random) -> str:
    seconds = _away(night.fleet.disk.fill, night.fleet.disk.free, draw, 2, 20)
    return f"filled the disk of Swift for {seconds} s"


def overload_bucket(night: Night, draw: random.Random) -> str:
    front = night.fleet.front
    before, front.trouble = front.refused, True
    seconds = _wait(draw, 3, 20)
    front.trouble = False
    return f"slow for {seconds} s, {front.refused - before} answers of 503"


def freeze_worker(night: Night, draw: random.Random) -> str:
    """Until somebody else has begun what it was at; it wakes while that one is at it, or
    afterwards.
    """
    dask = night.fleet.dask
    pids = {dask.pid(worker): worker for worker in dask.workers}
    frozen = wait_until(lambda: night.is_over() or _frozen_at_work(dask.log, pids), PATIENCE)
    if not isinstance(frozen, witness.Sight):
        return "nobody was at work any more"
    try:
        wait_until(
            lambda: night.is_over() or _taken(dask.log, frozen),
            PATIENCE,
            lambda: f"nobody else took {frozen}",
        )
        seconds = _wait(draw, 0, 4)
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    return f"froze {pids[frozen.pid]} at {frozen.stage} {frozen.shard}, woken {seconds} s after another had begun that"


def _frozen_at_work(log: Path, pids: dict[int, str]) -> witness.Sight | None:
    """Freeze whoever has just begun a shard; None if nobody has, or was done before it froze."""
    last = {sight.pid: sight for sight in witness.sights(log)}
    for sight in (sight for pid, sight in last.items() if pid in pids and not sight.rows):
        os.kill(sight.pid, signal.SIGSTOP)
        if [each for each in witness.sights(log) if each.pid == sight.pid][-1] == sight:
            return sight
        os.kill(sight.pid, signal.SIGCONT)
    return None


def _taken(log: Path, frozen: witness.Sight) -> bool:
    return any(sight[:2] == frozen[:2] and sight.pid != frozen.pid for sight in witness.sights(log))


def poison(night: Night, draw: random.Random) -> str:
    """A shard that kills who touches it; two of three times the rest is published."""
    stage, shard = draw.choice(["synthesize", "refine", "select"]), draw.randrange(GENERATED)
    night.partial = draw.random() < 2 / 3
    night.poison = stage, shard, 0
    night.fleet.dask.poison.write_text(f"{stage} {shard}")
    return ""


def check_poison(night: Night, draw: random.Random) -> str:
    """It ends as a partial success that names the shard."""
    state = wait_until(lambda: night.ended(night.flow_run), 2 * PATIENCE)
    night.fleet.dask.poison.unlink()
    told, shard = str(state["message"]), night.poison[1]
    if night.partial:
        told = wait_until(night.published, PATIENCE)["payload"]["version"]
        night.without = {
            shard,
            *range(GENERATED, SHARDS),
        }  # scenes are made of all that was selected
    if f"shard {shard:05d}" not in told and "-without-" not in told:
        raise RuntimeError(f"shard {shard} is not named: {told}")
    night.outcome.kills += sum(
        sight[:3] == night.poison for sight in witness.sights(night.fleet.dask.log)
    )
    return f"{told[:100]}: {state['name']}"


def skew(night: Night, draw: random.Random) -> str:
    """A worker's clock, or that of the flow's process, is wrong by less than what S3 refuses."""
    seconds = draw.choice([-1, 1]) * draw.randint(60, LONGEST_SKEW)
    wrong = {"LD_PRELOAD": str(night.fleet.clock), "CLOCK_SKEW": str(seconds)}
    if draw.random() < 0.5:
        night.job_environment = wrong
    else:
        night.fleet.dask.replace(night.fleet.dask.workers[0], wrong)
    return ""


def unskew(night: Night, draw: random.Random) -> str:
    if not night.job_environment:
        night.fleet.dask.replace(night.fleet.dask.workers[0], {})
    return ""


def start_twin(night: Night, draw: random.Random) -> str:
    """The same night once more, by somebody's crontab."""
    night.retrainings += 1
    settings = night.fleet.folder("twins") / f"{night.outcome.night}.yaml"
    settings.write_text(json.dumps(night.settings))  # JSON is YAML
    command = [Path(sys.executable).with_name("segmint"), "run", "--config", settings, "--no-train"]
    with settings.with_suffix(".log").open("ab") as log:
        night.twin = subprocess.Popen(
            command, env=night.fleet.prefect.environment, stdout=log, stderr=log
        )
    return ""


def end_twin(night: Night, draw: random.Random) -> str:
    log = (night.fleet.folder("twins") / f"{night.outcome.night}.log").read_text
    if night.twin is None or night.twin.wait(PATIENCE):
        night.hand(f"segmint run, which ended with: {log()[-500:]}")
        night.retrainings -= 1
        start_twin(night, draw)
        end_twin(night, draw)
    return ""


def repeat_event(night: Night, draw: random.Random) -> str:
    """The publication's event once more, as it was, while a training may run or after it."""
    night.end(night.flow_run)
    event = wait_until(night.published, PATIENCE, lambda: "no publication is told of")
    seconds = _wait(draw, 0, 10)
    night.repeat(event)
    return f"told of {event['resource']['prefect.resource.name']} again, {seconds} s after the first time"


def _away(
    begin: Callable[[], object],
    end: Callable[[], object],
    draw: random.Random,
    least: float,
    most: float,
) -> float:
    """Seconds that lay between its beginning and its end."""
    begin()
    seconds = _wait(draw, least, most)
    end()
    return seconds


def _wait(draw: random.Random, least: float, most: float) -> float:
    time.sleep(seconds := round(draw.uniform(least, most), 1))
    return seconds


KINDS: dict[str, Kind] = {
    "worker killed": Kind(kill_worker, moments=(0, 1), kills=True),
    "scheduler killed": Kind(kill_scheduler, moments=(0, 1), kills=True),
    "flow killed": Kind(kill_flow, kills=True),
    "Prefect's server killed": Kind(kill_server),
    "PostgreSQL restarted": Kind(restart_database),
    "S3 killed": Kind(kill_bucket),
    "disk full": Kind(fill_disk),
    "S3 overloaded": Kind(overload_bucket),
    "worker frozen": Kind(freeze_worker, moments=(0, 0.8), kills=True),
    "poisoned shard": Kind(check_poison, before=poison, alone=True),
    "clock wrong": Kind(before=skew, after=unskew),
    "two schedulers": Kind(before=start_twin, after=end_twin, alone=True),
    "event repeated": Kind(repeat_event, moments=(1, 1.25)),
}
