"""Fuzzing: does any reader of outside bytes crash, hang or take too much memory?

Each target of `testbed.fuzzing` gets the same time on one core. The inputs that reached new code
stay in out/benchmarks/fuzz, and the next run begins with them. An input that a reader fails on is
kept there as well, and its path is printed.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from benchmarks.claims import CACHE, Claim, Size, run
from testbed.fuzzing.targets import TARGETS

SECONDS = {"quick": 3, "default": 180, "full": 1800}  # per target; the default is an hour in all
HANG_SECONDS = 5
MEMORY = 2048  # MiB that a reader may take
IMPORTS = 640  # MiB that the process has before it reads anything; measured 560
# libFuzzer's exit codes
ENDS = {0: "inputs", 70: "hangs", 71: "over memory", 77: "crashes"}


def main(size: Size) -> list[Claim]:
    found = Counter(fuzzed(name, SECONDS[size]) for name in TARGETS)
    return [
        Claim("targets without a finding", found["inputs"], f"== {len(TARGETS)}"),
        Claim("crashes", found["crashes"], "== 0"),
        Claim(f"inputs that take over {HANG_SECONDS} s", found["hangs"], "== 0"),
        Claim("inputs that take over 2 GiB", found["over memory"], "== 0"),
    ]


def fuzzed(name: str, seconds: int) -> str:
    """Fuzz one target; return how it ended."""
    corpus = CACHE / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY + IMPORTS}",
        "-max_len=65536",
        "-print_final_stats=1",
        f"-artifact_prefix={corpus.parent}/{name}-",
        str(corpus),
    ]
    command = [sys.executable, "-m", "testbed.fuzzing", name, *options]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    # a signal also ends a process that has just printed what it failed on
    how = "crashes" if ended.returncode < 0 else ENDS.get(ended.returncode)
    if how is None:
        raise RuntimeError(f"{command} ended with {ended.returncode}: {ended.stderr[-4000:]}")
    if ended.returncode:
        print(ended.stderr[-4000:], flush=True)
    print(f"{name}: {how}, {_inputs(ended.stderr)} inputs", flush=True)
    return how


def _inputs(report: str) -> int:
    """Return the number of inputs tried, from libFuzzer's statistics."""
    lines = [line for line in report.splitlines() if "number_of_executed_units" in line]
    return int(lines[-1].split()[-1]) if lines else 0


if __name__ == "__main__":
    run("fuzz", main)
