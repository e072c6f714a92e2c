"""Documents: their links lead somewhere, their commands exist, their code runs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer

import segmint
from infra.settings import Settings, check_drawn
from infra.store import publish_version, write_shard
from models.segmenters import build_segmenter, read_schedule
from segmint.cli import commands
from tests.test_public import CLASSES, crown, put

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|[`| ])segmint ([a-z]+)((?: [^`|\n#]*)?)", re.MULTILINE)
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    titles = (title.lower().strip() for title in HEADING.findall(document.read_text()))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def links() -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for link in LINK.findall(document.read_text()):
            if "://" not in link:
                yield document, link


def test_every_link_leads_to_a_file_and_a_heading_of_the_project() -> None:
    found = list(links())
    assert len(found) > 20
    for document, link in found:
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.is_relative_to(ROOT) and target.exists(), f"{document.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{document.name}: {link}"


def test_every_command_and_option_that_is_named_exists() -> None:
    group: Any = typer.main.get_command(commands)
    shared = {"--install-completion", "--show-completion", "--help", "--version", "--debug"}
    named: set[str] = set()
    for document in DOCUMENTS:
        for command, rest in COMMAND.findall(document.read_text()):
            if command not in group.commands:
                # a word of a sentence, such as "segmint makes", is no command
                assert f"`segmint {command}" not in document.read_text(), (document.name, command)
                continue
            named.add(command)
            known = {name for each in group.commands[command].params for name in each.opts}
            assert {*OPTION.findall(rest)} <= known | shared, (document.name, command, rest)
    assert {"run", "plan", "versions", "verify", "train", "setup", "doctor", "gc"} <= named


def test_the_readme_lists_every_command() -> None:
    group: Any = typer.main.get_command(commands)
    table = README.split("## Commands")[1].split("\n## ")[0]
    assert set(group.commands) <= set(re.findall(r"[a-z]+", table))


def test_the_settings_of_the_quick_start_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "streets.toml"
    chosen = []
    for block in blocks("toml"):
        file.write_text(block)
        chosen.append((Settings(_file=file), tomllib.loads(block)))
    (first, given), (second, _), (third, _), (fourth, _), (fifth, _) = chosen
    assert first.generator.path == given["generator"]["path"]
    assert read_schedule(second.train.model).learning_rate == 6e-5  # mmsegmentation ships it
    assert (third.train.versions, third.train.start) == (5, "champion")
    check_drawn(fourth)
    assert fourth.generator.flow
    assert fifth.refine.labellers[0].kind == "sam3"


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = segmint.Store.open("out/store")
    shard = "versions/first/data/00000"
    arrays: dict[str, Any] = {
        "image": np.zeros((2, 64, 64, 3), np.uint8),
        "label": np.full((2, 64, 64), 255, np.uint8),
    }
    write_shard(store, shard, arrays, pd.DataFrame({"id": ["a", "b"]}))
    publish_version(store, "first", shards=[shard], meta={"run": "first", "classes": {"car": 1}})
    put(store, "network", build_segmenter("segformer", CLASSES))
    crown(store, "network")
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["samples"][0]["image"].shape == (3, 64, 64)
    assert names["samples"][0]["image"].dtype == torch.uint8
    assert names["labels"].shape == (1, 64, 64) and names["segmenter"].classes == CLASSES
