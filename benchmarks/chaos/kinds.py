"""The faults: how each is prepared before a night, strikes in it, and is repaired after it.

What a team's fleet repairs by itself is repaired here too, after some seconds: Docker, Kubernetes
or systemd restart what died, and a full disk is freed. The runs get no help.
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

import psutil

from benchmarks.chaos import witness
from benchmarks.chaos.night import Night
from testbed.processes import wait_until

__all__ = ["KINDS", "Kind"]

LONGEST_SKEW = 840  # seconds; S3 refuses requests whose signature is 900 s or older
PATIENCE = 1500.0  # seconds until a fault's precondition must be met
GENERATED = 8  # shards of a night; the composed ones follow
SHARDS = 10
Act = Callable[[Night, random.Random], str]


def _nothing(night: Night, draw: random.Random) -> str:
    return "all night"


@dataclass(frozen=True)
class Kind:
    """What a kind of fault does before a night, in it and after it.

    Each part gets the night and the fault's own random numbers. `moments` are shares of the night's
    rows; over 1, a training is running.
    """

    strike: Act = _nothing
    before: Act = _nothing
    after: Act = _nothing
    moments: tuple[float, float] = (0.0, 1.25)
    kills: bool = False  # a working process, so shards may have to be computed again
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
    before = front.refused
    front.trouble = True
    seconds = _wait(draw, 3, 20)
    front.trouble = False
    return f"slow for {seconds} s, {front.refused - before} answers of 503"


def freeze_worker(night: Night, draw: random.Random) -> str:
    """Freeze a worker until another has begun its shard; it wakes during that work, or after it."""
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
    shard = f"{frozen.stage} {frozen.shard}"
    return f"froze {pids[frozen.pid]} at {shard}, woken {seconds} s after another began that"


def _frozen_at_work(log: Path, pids: dict[int, str]) -> witness.Sight | None:
    """Freeze a worker that has just begun a shard; None if none has, or if it is already done."""
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
    """Make a shard that kills every worker that takes it; in two of three nights the rest is
    published.
    """
    stage = draw.choice(["synthesize", "refine", "select"])
    shard = draw.randrange(GENERATED)
    night.partial = draw.random() < 2 / 3
    night.poison = stage, shard, 0
    night.fleet.dask.poison.write_text(f"{stage} {shard}")
    return ""


def check_poison(night: Night, draw: random.Random) -> str:
    """Check that the night ends by naming the shard, as a partial success if it may publish."""
    state = wait_until(lambda: night.ended(night.flow_run), 2 * PATIENCE)
    night.fleet.dask.poison.unlink()
    message = str(state["message"])
    shard = night.poison[1]
    if night.partial:
        message = wait_until(night.published, PATIENCE)["payload"]["version"]
        # scenes are made of all that was selected
        night.without = {shard, *range(GENERATED, SHARDS)}
    if f"shard {shard:05d}" not in message and "-without-" not in message:
        raise RuntimeError(f"shard {shard} is not named: {message}")
    sights = witness.sights(night.fleet.dask.log)
    night.outcome.kills += sum(sight[:3] == night.poison for sight in sights)
    return f"{message[:100]}: {state['name']}"


def skew(night: Night, draw: random.Random) -> str:
    """Set the clock of a worker, or of the flow's process, wrong by less than S3 refuses."""
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
    """Start the same night once more, as a crontab might."""
    night.retrainings += 1
    settings = night.fleet.folder("twins") / f"{night.outcome.night}.yaml"
    settings.write_text(json.dumps(night.settings))  # JSON is YAML
    program = Path(sys.executable).with_name("segmint")
    command: list[str | Path] = [program, "run", "--config", settings, "--no-train"]
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
    """Emit the publication's event once more, during a training or after it."""
    night.end(night.flow_run)
    event = wait_until(night.published, PATIENCE, lambda: "no publication was announced")
    seconds = _wait(draw, 0, 10)
    night.repeat(event)
    name = event["resource"]["prefect.resource.name"]
    return f"emitted {name} again, {seconds} s after the first time"


def _away(
    begin: Callable[[], object],
    end: Callable[[], object],
    draw: random.Random,
    least: float,
    most: float,
) -> float:
    """Begin and end something, and return the seconds between."""
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
