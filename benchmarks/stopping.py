"""Stopping: how long until the prompt returns, which processes stay, and does the same command
continue to the same bytes?

`segmint run`, `train` and `evaluate` run in a terminal of their own (a pty) and are stopped at
seeded moments of an undisturbed run's duration, in three ways: Ctrl-C typed at the terminal,
SIGTERM to the foreground process group, SIGKILL to the process that the shell started. Each command
is then started again, and stopped again, until it ends by itself; then its results are compared
with those of the undisturbed run, byte by byte, and it begins anew. Processes are found by a mark
in their environment, which every descendant inherits.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from threading import Thread
from uuid import uuid4

import numpy as np

from benchmarks.claims import CACHE, Claim, Size, run

MOMENTS = {"quick": 1, "default": 20, "full": 20}  # per command and way
SEED = 19
WAYS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
GRACE_SECONDS = 8.0  # after SIGKILL, for orphans: PyTorch's readers look for their parent every 5 s
PATIENCE_SECONDS = 1800.0  # for an undisturbed command, on a busy machine
MARK = "STOPPING_MARK"
CTRL_C = b"\x03"

# As small as a run with every stage can be: most of a command's time is imports and server start.
CONFIG = """
name = "stopping"
[store]
url = "{store}"
[plan]
images = 8
negatives = 0.25
shard_size = 4
[generator]
num_inference_steps = 2
[compose]
images = 4
[train]
steps = 10
workers = 1
[evaluate]
images = 32
"""


@dataclass(frozen=True)
class Work:
    """A command to stop: its words, and the files of the store that it makes, as glob patterns."""

    words: tuple[str, ...]
    makes: tuple[str, ...]


WORK = (
    Work(("run", "--no-train"), ("versions/*/data/*.parquet", "versions/*/data/*.zarr/**/*")),
    Work(("train",), ("checkpoints/*/weights.safetensors",)),
    Work(("evaluate",), ("checkpoints/*/evaluations/*.json",)),
)


@dataclass
class Found:
    """What stopping a command showed."""

    seconds: dict[signal.Signals, list[float]] = field(
        default_factory=lambda: {way: [] for way in WAYS}
    )
    left: int = 0
    wrong_codes: int = 0
    completed: int = 0
    different: int = 0


def main(size: Size) -> list[Claim]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder, ThreadPoolExecutor(len(WORK)) as pool:
        lanes = list(_prepared(Path(folder).resolve()))
        tried = pool.map(lambda lane: lane.stopped_often(MOMENTS[size]), lanes)
        return [
            claim
            for lane, found in zip(lanes, tried, strict=True)
            for claim in _claims(lane.work.words[0], found)
        ]


def _claims(name: str, found: Found) -> Iterator[Claim]:
    for way in (signal.SIGINT, signal.SIGTERM):
        yield Claim(f"{name}, {way.name}: worst seconds", max(found.seconds[way]), "<= 10")
    yield Claim(f"{name}: processes left", found.left, "== 0")
    yield Claim(f"{name}: wrong exit codes", found.wrong_codes, "== 0")
    yield Claim(f"{name}: resumed to the end", found.completed, ">= 1")
    yield Claim(f"{name}: results that differ", found.different, "== 0")


def _prepared(folder: Path) -> Iterator[Lane]:
    """Yield a lane per command, each with a store in which the commands before it have ended."""
    store = folder / "store"
    home = folder / "prefect"
    store.mkdir()
    home.mkdir()
    for number, work in enumerate(WORK):
        lane = Lane(folder / str(number), work, before=store, home=home)
        lane.measure()
        yield lane
        store = lane.undisturbed
        home = lane.home  # with the database, which takes long to create


class Lane:
    """One command in a folder of its own, with its own Prefect home."""

    def __init__(self, folder: Path, work: Work, before: Path, home: Path) -> None:
        self.work = work
        self.undisturbed = folder / "undisturbed"
        self._store = folder / "store"
        self._before = folder / "before"
        shutil.copytree(before, self._before)
        for made in _files(self._before, work.makes):
            made.unlink()  # evaluate measures again only what has no stored evaluation
        self._config = folder / "config.toml"
        self._config.write_text(CONFIG.format(store=self._store))
        self.home = folder / "prefect"
        shutil.copytree(home, self.home)
        self._seconds = 0.0

    def measure(self) -> None:
        """Run the command undisturbed, and keep its duration and its store."""
        self._begin()
        started = time.monotonic()
        with self._started() as terminal:
            self._expect_success(terminal)
        self._seconds = time.monotonic() - started
        shutil.copytree(self._store, self.undisturbed)

    def stopped_often(self, moments: int) -> Found:
        """Stop the command `moments` times in each way."""
        found = Found()
        generator = np.random.default_rng([SEED, *self.work.words[0].encode()])
        self._begin()
        fresh = True
        for way in islice(cycle(WAYS), moments * len(WAYS)):
            while not self._stopped(way, generator.uniform(0, self._seconds), found, fresh):
                self._compare(found)
                fresh = True
            fresh = False
        with self._started() as terminal:
            self._expect_success(terminal)
        self._compare(found)
        return found

    def _begin(self) -> None:
        shutil.rmtree(self._store, ignore_errors=True)
        shutil.copytree(self._before, self._store)

    def _compare(self, found: Found) -> None:
        """Count the completed command, compare what it made, and begin anew."""
        found.completed += 1
        found.different += self._made(self._store) != self._made(self.undisturbed)
        self._begin()

    def _made(self, store: Path) -> dict[str, str]:
        return {
            str(file.relative_to(store)): sha256(file.read_bytes()).hexdigest()
            for file in _files(store, self.work.makes)
        }

    def _stopped(self, way: signal.Signals, moment: float, found: Found, fresh: bool) -> bool:
        """Start the command and stop it after `moment` seconds; False if it ended before that.

        If it is a `fresh` one that ends earlier, the machine is faster now than it was for
        `measure`, and later moments are drawn from the shorter duration.
        """
        started = time.monotonic()
        with self._started() as terminal:
            if terminal.ended_within(moment):
                self._expect_success(terminal)
                if fresh:
                    self._seconds = min(self._seconds, time.monotonic() - started)
                return False
            stopped = time.monotonic()
            terminal.stop(way)
            code = terminal.process.wait(PATIENCE_SECONDS)
            seconds = time.monotonic() - stopped
            left = terminal.left(GRACE_SECONDS if way == signal.SIGKILL else 0.0)
        name = self.work.words[0]
        print(f"{name}, {way.name} at {moment:.1f} s: {seconds:.2f} s, {left} left", flush=True)
        found.seconds[way].append(seconds)
        # a signal that comes before Python has started ends it as the system does
        found.wrong_codes += code not in (128 + way, -way)
        found.left += left
        return True

    def _expect_success(self, terminal: Terminal) -> None:
        code = terminal.process.wait(PATIENCE_SECONDS)
        if code:
            raise RuntimeError(f"{self.work.words} ended with {code}: {terminal.said()}")

    @contextmanager
    def _started(self) -> Iterator[Terminal]:
        words = [sys.executable, "-m", "segmint", *self.work.words, "--config", str(self._config)]
        terminal = Terminal(words, {"PREFECT_HOME": str(self.home)})
        try:
            yield terminal
        finally:
            terminal.close()


class Terminal:
    """A command in the foreground of a terminal of its own."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self._mark = f"{MARK}={uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self._master, slave = pty.openpty()
        # As an interactive shell starts it: no signal is ignored, although whoever started us may
        # ignore SIGINT, and the pty is the controlling terminal. On a dumb one nothing would move.
        # Each word becomes the next.
        self.process = subprocess.Popen(
            ["env", "--default-signal", "setsid", "--ctty", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", **environment, name: value},
        )
        os.close(slave)
        self._output = bytearray()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the terminal's last process has ended
            while chunk := os.read(self._master, 4096):
                self._output += chunk

    def said(self) -> str:
        """What the command has printed so far."""
        return self._output.decode(errors="replace")

    def ended_within(self, seconds: float) -> bool:
        """Wait that long; return whether the command has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def stop(self, way: signal.Signals) -> None:
        """Type Ctrl-C, send SIGKILL to the command alone, or another signal to its group."""
        if way == signal.SIGINT:
            os.write(self._master, CTRL_C)
        elif way == signal.SIGKILL:
            self.process.send_signal(way)
        else:
            os.killpg(os.tcgetpgrp(self._master), way)

    def left(self, grace: float) -> int:
        """Count the processes that the command has left behind after `grace` seconds."""
        deadline = time.monotonic() + grace
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return len(left)

    def commands(self) -> list[str]:
        """Return the command lines of all processes that the command has started."""
        files = [Path("/proc", str(number), "cmdline") for number in self._processes()]
        return [file.read_bytes().replace(b"\0", b" ").decode() for file in files]

    def _processes(self) -> list[int]:
        found = []
        for each in Path("/proc").iterdir():
            with suppress(OSError):  # it has ended, or is another user's
                if each.name.isdecimal():
                    environment = (each / "environ").read_bytes().split(b"\0")
                    found += [int(each.name)] * (self._mark.encode() in environment)
        return found

    def close(self) -> None:
        """Kill whatever is left, and close the terminal."""
        for left in self._processes():
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        self.process.wait()
        self._reader.join()  # it reads until no process has the terminal open
        os.close(self._master)


def _files(store: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(file for pattern in patterns for file in store.glob(pattern) if file.is_file())


if __name__ == "__main__":
    run("stopping", main)
