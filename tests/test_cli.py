import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import segmint
from infra.settings import Settings
from infra.store import Store, publish_version, write_shard
from segmint import console
from segmint.cli import ENVIRONMENT, QUIET, app
from segmint.commands.options import again
from segmint.commands.training import _show_comparison, described_outcome
from tasks.monitor.totals import RunningTotals
from tasks.plan.resolve import resolve, with_weights
from tasks.plan.rows import start_run
from tasks.plan.table import Plan
from tasks.publish.samples import version_of
from tasks.run.progress import Event, Report
from tests.tasks import drawing


class Shell:
    """Runs a command line and returns its exit code, output and errors."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capture = folder, capture
        self.store = Store.open(str(folder / "store"))

    def __call__(self, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app([*words, "--set", f"store.url={self.store.url}"])
        said = self._capture.readouterr()
        return int(ended.value.code or 0), said.out, said.err


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the environment that the command line sets."""
    for name, value in {**ENVIRONMENT, **QUIET}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.setattr(console.console, "_width", 200)
    return Shell(tmp_path, capsys)


def publish(store: Store, version: str) -> None:
    shard = f"versions/{version}/data/00000"
    arrays: dict[str, Any] = {
        "image": np.ones((2, 4, 4, 3), np.uint8),
        "label": np.zeros((2, 4, 4), np.uint8),
    }
    write_shard(store, shard, arrays, pd.DataFrame({"id": ["a", "b"]}))
    publish_version(
        store, version, shards=[shard], meta={"run": version[:3], "classes": {"car": 1}}
    )


def test_help_starts_without_the_heavy_modules() -> None:
    program = (
        "import sys, segmint.cli\n"
        "try: segmint.cli.app(['--help'])\n"
        "except SystemExit:\n"
        "    heavy = {'torch', 'prefect', 'pandas', 'pydantic', 'numpy'}\n"
        "    print(sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout.endswith("[]\n")
    assert all(
        command in said.stdout
        for command in [
            "run",
            "plan",
            "report",
            "verify",
            "versions",
            "train",
            "evaluate",
            "compare",
            "rollback",
            "gc",
            "pin",
            "pretrain",
            "setup",
            "doctor",
        ]
    )


@pytest.mark.parametrize(
    "command",
    ["run", "plan", "report", "versions", "train", "evaluate", "rollback", "gc", "setup", "doctor"],
)
def test_a_wrong_setting_is_one_message_and_exit_2(shell: Shell, command: str) -> None:
    code, out, err = shell(command, "--set", "plan.imges=3")
    assert (code, out) == (2, "")
    assert (
        err == "unknown setting 'plan.imges' (from --set plan.imges): did you mean 'plan.images'?\n"
    )


def test_a_wrong_file_is_named(shell: Shell) -> None:
    code, _, err = shell("plan", "--config", "nowhere.toml")
    assert code == 2
    assert err == "there is no configuration file nowhere.toml; give a .toml or .yaml file\n"


def test_pretraining_has_settings_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["pretrain", "--set", "diffusion_step=3"])
    assert (
        "unknown setting 'diffusion_step' (from --set diffusion_step): did you mean"
        in capsys.readouterr().err
    )


def test_debug_shows_where_an_error_came_from(shell: Shell) -> None:
    code, _, err = shell("versions", "--debug", "--set", "stor=3")
    assert code == 2
    assert err.startswith("Traceback (most recent call last):") and "settings_of" in err
    assert "SettingsError: unknown setting 'stor'" in err


def test_an_error_of_no_known_kind_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("shape")

    monkeypatch.setattr("infra.store.list_versions", broken)
    code, _, err = shell("versions")
    assert code == 2
    assert err == "KeyError: 'shape'\nAdd --debug to see where it came from.\n"


def test_a_dry_run_shows_the_plan_and_starts_nothing(shell: Shell) -> None:
    code, out, err = shell("plan", "--set", "plan.images=40", "--set", "classes=car,tree")
    assert (code, err) == (0, "")
    assert all(shown in out for shown in ("single", "negative", "multi", "car", "tree", "00000000"))
    assert "40 images in 1 shards; the cost is not known" in out
    assert shell.store.list("") == []


def test_a_dry_run_counts_the_captions_that_are_kept(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red car on sand\na car, stock photo\na dog\n")
    flags = ["--set", f"plan.captions={tmp_path / 'captions.txt'}", "--set", "plan.images=20"]
    code, out, _ = shell("plan", "--json", *flags)
    assert code == 0
    kept, *rejected = json.loads(out)["captions"].items()
    assert kept == ("prompts of car", 1)
    assert [(name.split()[0], count) for name, count in rejected] == [("holds", 1), ("names", 1)]


def test_a_dry_run_computes_the_cost_from_finished_shards(shell: Shell) -> None:
    settings = with_weights(Settings(name="last-night"))
    shell.store.write_json("runs/last-night/settings.json", settings.record())
    images = np.zeros((10, 4, 4, 3), np.uint8)
    table = pd.DataFrame({"id": list("abcdefghij")})
    shard = "runs/last-night/synthesize/00000"
    write_shard(shell.store, shard, {"image": images}, table, seconds=20)
    _, out, _ = shell("plan", "--set", "plan.images=300")
    assert "300 images in 5 shards; about 10 min and " in out
    assert "as in run 'last-night'" in out


def test_a_dry_run_refuses_a_run_with_other_settings(shell: Shell) -> None:
    start_run(shell.store, with_weights(Settings(plan={"images": 10})))
    code, _, err = shell("plan")
    assert code == 2
    assert "plan.images was 10, is 2000" in err


def test_a_dry_run_of_a_run_that_exists_says_that_it_continues(shell: Shell) -> None:
    start_run(shell.store, with_weights(Settings(plan={"images": 10})))
    code, out, err = shell("plan", "--set", "plan.images=10")
    assert (code, err) == (0, "")
    assert "started; `segmint run` continues it" in out


def test_a_dry_run_shows_the_prompts_that_a_dated_run_makes(shell: Shell) -> None:
    flags = ["--set", "name=x-{date}", "--set", "plan.images=10"]
    today = resolve(shell.store, Settings(name="x-{date}", plan={"images": 10}))
    start_run(shell.store, today)
    code, out, _ = shell("plan", "--json", *flags)
    planned = Plan(shell.store, today).of_shard(0)
    assert code == 0
    shown = json.loads(out)
    assert (shown["run"], shown["state"]) == (today.name, "started; `segmint run` continues it")
    assert [row["prompt"] for row in shown["first"]] == list(planned["prompt"])


def test_a_missing_generator_is_an_error_before_anything_starts(shell: Shell) -> None:
    code, _, err = shell("plan", "--set", "generator.path=nowhere")
    assert code == 2
    assert "nowhere/tokenizer is missing" in err


def test_versions_are_listed_and_verified(shell: Shell) -> None:
    assert "No version is published" in shell("versions")[1]
    publish(shell.store, "monday-1")
    publish(shell.store, "tuesday-2")
    _, out, _ = shell("versions")
    assert out.index("monday-1") < out.index("tuesday-2")
    assert shell("verify", "monday-1") == (
        0,
        "version monday-1: every byte equals its checksum\n",
        "",
    )


def test_verify_names_a_flipped_byte_and_exits_1(shell: Shell) -> None:
    publish(shell.store, "monday-1")
    file = next(
        path
        for path in Path(shell.store.url).rglob("*.zarr/image/**/*")
        if path.is_file() and path.suffix != ".json"
    )
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    code, out, err = shell("verify", "monday-1")
    assert (code, out) == (1, "")
    assert "versions/monday-1/data/00000.zarr/image" in err


def test_verify_of_what_is_not_there_lists_what_is(shell: Shell) -> None:
    publish(shell.store, "monday-1")
    code, _, err = shell("verify", "sunday-0")
    assert code == 2
    assert err.endswith("has no run or version 'sunday-0'; it has: monday-1\n")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("train.model=segformer-b9", "is neither one of"),
        ("train.schedule=config", "is no mmsegmentation config"),
        ("train.weights=none.pth", "No such file"),
        ("evaluate.voc=none", "none"),
    ],
)
def test_the_plan_tells_what_would_stop_the_run(shell: Shell, flag: str, message: str) -> None:
    code, out, error = shell("plan", "--set", flag)
    assert code and message in error and "images in" not in out


def test_nothing_to_train_on_or_to_evaluate_is_said(shell: Shell) -> None:
    assert "has no published version; `segmint run` makes one" in shell("train")[2]
    assert "has no champion; name a checkpoint" in shell("evaluate")[2]


def test_the_doctor_exits_1_with_the_remedy(shell: Shell) -> None:
    code, out, _ = shell("doctor", "--set", "generator.path=nowhere")
    assert code == 1
    assert "✗\tgenerator\t" in out
    assert "✓\tstore\t" in out
    assert "set generator.path to 'embedded'" in out


def test_the_plan_of_label_maps_says_what_is_drawn_by_whom(shell: Shell) -> None:
    drawing.store_checkpoint(shell.store, "flow")
    drawing.publish_maps(shell.store)
    words = ["--set=classes=car,bus", "--set=generator.path=semflow:flow"]
    maps = [*words, "--set=generator.labels=maps", "--set=plan.images=10"]
    code, out, _ = shell("plan", *maps)
    assert code == 0
    assert "checkpoint flow draws the 5 label maps of maps, given, at 64x64 pixels" in out
    assert "00000000\t" in out and "sample map " in out and "car, bus" in out
    shown = json.loads(shell("plan", *maps, "--json")[1])
    assert shown["label_maps"]["labels"] == "maps" and shown["kinds"]["negative"] == 2
    code, _, error = shell("plan", *words)
    assert code and "generator.labels is not set" in error


def test_the_doctor_opens_a_flow(shell: Shell) -> None:
    drawing.store_checkpoint(shell.store, "flow")
    words = ["--set=classes=car,bus", "--set=generator.path=semflow:flow"]
    assert "semflow:flow: SemFlow opens" in shell("doctor", *words)[1]
    found = shell("doctor", words[0], "--set=generator.path=semflow:none")[1]
    assert "no finished checkpoint 'none'" in found


def told(*events: Event, ticks: Iterator[float]) -> console._Lines:
    running = RunningTotals(lambda: next(ticks))
    lines = console._Lines(running)
    for event in events:
        running(event)
        lines(event)
    return lines


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun, halfway = Event("refine", 0, "00000", 0, 4), Event("refine", 2, "00000", 2, 4)
    told(begun, halfway, Event("refine", 2, "00000", 4, 4, ended=True), ticks=count(0.0, 1.0))
    assert capsys.readouterr().err == "refine      100 % · 2.0/s · 4 of 4\n"


def test_a_terminal_that_cannot_redraw_shows_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setattr(console, "messages", terminal)
    with console.progress():
        with Report("refine", "00000", 4) as report:
            report(4)
            report.complete()
        assert shown.getvalue().startswith("refine      100 %")


def test_a_stage_s_rate_counts_from_its_first_task_not_from_its_announcement(
    capsys: pytest.CaptureFixture[str],
) -> None:
    announced = Event("refine", awaited=("00000", "00001"))
    events = (
        announced,
        Event("refine", 0, "00000", 0, 20),
        Event("refine", 20, "00000", 20, 20, ended=True),
    )
    told(*events, ticks=iter([0.0, 100.0, 110.0]))
    assert (
        capsys.readouterr().err
        == "refine      50 % · 10.0 s left · 2.0/s · 1 of 2 shards, 20 done\n"
    )


def test_a_bar_moves_within_a_shard() -> None:
    running = RunningTotals()
    bars = console._Bars(running)
    for event in (Event("select", awaited=("00000", "00001")), Event("select", 1, "00000", 1, 4)):
        running(event)
        bars(event)
    (task,) = bars.progress.tasks
    assert (task.completed, task.total) == (0.125, 1.0)


def test_amounts_are_told_as_people_say_them() -> None:
    assert [console.duration(s) for s in (4.2, 600, 12_000)] == ["4 s", "10 min", "3 h 20 min"]
    assert [console.size(b) for b in (12, 1.5e6, 2e12, 9e15)] == [
        "12 B",
        "2 MB",
        "2.0 TB",
        "9000.0 TB",
    ]


def test_gc_shows_what_would_go_and_deletes_when_told_to(shell: Shell) -> None:
    publish(shell.store, "old-0123abcd")
    publish(shell.store, "new-0123abcd")
    keep_one = ["--set", "retention.versions=1", "--set", "retention.days=0"]
    code, out, _ = shell("gc", *keep_one)
    assert code == 0 and "What --delete would delete" in out and "versions/old-0123abcd" in out
    assert shell.store.exists("versions/old-0123abcd/manifest.json")
    assert shell("pin", "old-0123abcd")[1] == "pinned  old-0123abcd\n"
    assert "Nothing to delete" in shell("gc", "--delete", *keep_one)[1]
    assert shell("pin", "old-0123abcd", "--remove")[1] == "pinned  none\n"
    assert "Deleted" in shell("gc", "--delete", *keep_one)[1]
    assert shell.store.list("versions") == ["new-0123abcd"]


def test_without_a_champion_there_is_nothing_to_compare_with(shell: Shell) -> None:
    code, _, err = shell("evaluate")
    assert code == 2 and "has no champion; name a checkpoint" in err


def test_what_comes_next_can_be_pasted() -> None:
    line = again(["verify", "x-1"], Path("my settings.toml"), ["name=a b", "plan.images=3"])
    words = ["verify", "x-1", "--config", "my settings.toml", "--set", "name=a b"]
    assert shlex.split(line) == ["segmint", *words, "--set", "plan.images=3"]


def test_a_training_shows_the_trained_network_and_the_champion_apart() -> None:
    def entry(checkpoint: str, miou: float) -> dict[str, Any]:
        evaluation = {"miou": miou, "set": "500 drawn scenes"}
        return {"checkpoint": checkpoint, "evaluation": evaluation}

    trained = entry("b-2", 0.6)
    champion = entry("a-1", 0.645)
    outcome = {"trained": trained, "champion": champion, "moved": False, "reason": "0.600 < 0.645"}
    assert described_outcome(outcome) == [
        ("trained", "mIoU 0.600 on 500 drawn scenes, b-2"),
        ("champion", "mIoU 0.645 on 500 drawn scenes, a-1"),
        ("decision", "not promoted: 0.600 < 0.645"),
    ]


def test_a_comparison_shows_segmenters_then_classes_then_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def of(letter: str, miou: float, difference: dict[str, float] | None) -> dict[str, Any]:
        return {
            "letter": letter,
            "checkpoint": f"v-{letter}",
            "model": "segformer",
            "miou": miou,
            "iou": {"car": miou},
            "difference": difference,
            "cost": {"images_per_second": 12.34},
        }

    better = {"difference": 0.1, "low": 0.05, "high": 0.15}
    contenders = [of("A", 0.5, None), of("B", 0.6, better)]
    _show_comparison({"set": "squares", "name": "v-1", "contenders": contenders})
    assert capsys.readouterr().out.splitlines() == [
        "mIoU on squares, difference in points (95 % interval)",
        "\tcheckpoint\tmodel\tmIoU\tdifference\timages/s",
        "A\tv-A\tsegformer\t0.500\t—\t12.3",
        "B\tv-B\tsegformer\t0.600\t+10.0 (+5.0 to +15.0)\t12.3",
        "IoU",
        "class\tA\tB\tdifference",
        "mean\t0.500\t0.600\t0.100",
        "car\t0.500\t0.600\t0.100",
        "page  comparisons/v-1/comparison.html",
    ]


def test_a_dry_run_of_a_published_run_names_its_version(shell: Shell) -> None:
    settings = with_weights(Settings(plan={"images": 10}))
    start_run(shell.store, settings)
    publish(shell.store, version_of(settings))
    _, out, _ = shell("plan", "--set", "plan.images=10")
    assert f"already published: {version_of(settings)}" in out


def test_versions_can_be_read_by_other_programs(shell: Shell) -> None:
    publish(shell.store, "a-version-with-a-name-that-is-longer-than-a-narrow-terminal-0123abcd")
    header, row = shell("versions")[1].splitlines()[1:]
    name, _, samples, shards = row.split("\t")
    assert header.split("\t") == ["version", "created (UTC)", "samples", "shards"]
    assert name == "a-version-with-a-name-that-is-longer-than-a-narrow-terminal-0123abcd"
    assert (samples, shards) == ("2", "1")
    (found,) = json.loads(shell("versions", "--json")[1])
    assert (found["version"], found["samples"]) == (name, 2)


def test_names_do_not_fold_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Console(highlight=False, force_terminal=True, width=40)
    monkeypatch.setattr(console, "console", terminal)
    name = "a-version-with-a-name-that-is-longer-than-the-terminal"
    console.table("Versions", ["version", "why"], [(name, "a reason of several words")])
    assert name in capsys.readouterr().out


def test_verify_reports_damage_as_json(shell: Shell) -> None:
    publish(shell.store, "monday-1")
    assert json.loads(shell("verify", "monday-1", "--json")[1])["problems"] == []
    for file in Path(shell.store.url).rglob("*.parquet"):
        file.write_bytes(b"damaged")
    code, out, _ = shell("verify", "monday-1", "--json")
    (problem,) = json.loads(out)["problems"]
    assert code == 1
    assert problem["path"].startswith("versions/monday-1/data/00000")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"segmint {segmint.__version__}\n"


def test_the_shell_completes_commands() -> None:
    words = {"_SEGMINT_COMPLETE": "complete_bash", "COMP_WORDS": "segmint ver", "COMP_CWORD": "1"}
    done = subprocess.run(
        [Path(sys.executable).with_name("segmint")],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["versions", "verify"]


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["--help"])
    shown = capsys.readouterr().out
    lines = shown.partition("Exit codes:")[2].splitlines()
    codes = [line.split()[0] for line in lines if line.strip()]
    assert codes[:5] == ["0", "1", "2", "130", "143"]


def test_a_report_prints_where_it_is(shell: Shell) -> None:
    start_run(shell.store, with_weights(Settings(plan={"images": 10})))
    code, out, _ = shell("report", "--set", "plan.images=10")
    assert code == 0
    assert Path(out.strip()) == shell.folder / "store" / "runs" / "nightly" / "report.html"
    assert Path(out.strip()).is_file()


def test_a_report_of_a_date_without_a_run_lists_the_runs_that_exist(shell: Shell) -> None:
    settings = Settings(name="x-{date}", plan={"images": 10}).dated(date(2026, 1, 31))
    start_run(shell.store, with_weights(settings))
    code, _, err = shell("report", "--set", "name=x-{date}")
    assert code == 2
    assert err.rstrip().endswith(": x-2026-01-31")
