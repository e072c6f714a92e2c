"""Words that are code elsewhere are shown as text in a page, in Markdown and on a terminal."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from infra.settings import Settings
from infra.store import Store, write_shard
from infra.text import as_markdown, visible
from segmint import console
from tasks.plan.rows import make_plan
from tasks.plan.table import stored_plan
from tasks.publish.card import Kept, dataset_card
from tasks.report.page import write_report

WORDS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://one.example/x.png)",
    "[x](javascript:alert(2))",
    "](javascript:alert(3))",
    "a|b|c",
    "`code`",
    "**bold**",
    "<http://two.example>",
    "# title",
    "&lt;i&gt;",
    '\'"><b x="',
    "]]>",
    "</style><style>*",
    "[red]red[/red]",
    "d\\|e",
    "\\f",
    "http://three.example/x",
    "<!-- g",
    "$(reboot)",
    "--- h",
    "~~i~~",
)


class Tags(HTMLParser):
    """What a page would do: its tags, and the attributes that load, link or run something."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.runs: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "xlink:href"):
                self.loads.append(value or "")
            if name.startswith("on"):
                self.runs.append(name)
            if name == "style":
                self.styles.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a run whose classes, backgrounds and paths are all of that kind."""
    classes = [{"id": number, "name": word} for number, word in enumerate(WORDS, 1)]
    vocabulary = {"name": WORDS[0], "classes": classes, "backgrounds": [{"name": "<b>lawn</b>"}]}
    file = tmp_path / "vocabulary.json"
    file.write_text(json.dumps(vocabulary))
    images = {"images": 4 * len(WORDS), "multi": 0, "negatives": 0.1}
    return Settings(
        vocabulary=str(file), plan=images, generator={"path": "![x](http://evil.example)`<b>"}
    )


@pytest.fixture
def plan(settings: Settings) -> pd.DataFrame:
    return make_plan(settings, settings.load_vocabulary())


def test_a_page_shows_hostile_words_and_does_nothing_of_what_they_say(
    settings: Settings, plan: pd.DataFrame, tmp_path: Path
) -> None:
    store = Store.open(str(tmp_path / "store"))
    run = "runs/nightly"
    store.write_json(f"{run}/settings.json", settings.record())
    store.write_bytes(f"{run}/plan.parquet", stored_plan([plan]))
    for shard, rows in plan.groupby("shard"):
        table = rows[["row", "id"]].reset_index(drop=True)
        count = len(table)
        images: dict[str, Any] = {"image": np.zeros((count, 16, 16, 3), np.uint8)}
        write_shard(store, f"{run}/synthesize/{shard:05d}", images, table)
        label = {"label": np.zeros((count, 16, 16), np.uint8)}
        write_shard(
            store, f"{run}/refine/{shard:05d}", label, table.assign(confidence=0.5, consistency=0.5)
        )
        verdicts = table.assign(
            keep=[row % 2 == 0 for row in table["row"]], reason=WORDS[0], score=0.5
        )
        write_shard(store, f"{run}/select/{shard:05d}", {}, verdicts)
    found = {"set": WORDS[1], "images": 3, "miou": 0.1, "iou": dict.fromkeys(WORDS, 0.1)}
    store.write_json(f"{run}/evaluation.json", found)
    page = store.read_bytes(write_report(store, "nightly")).decode()
    tags = Tags(page)
    assert not tags.tags & {"script", "iframe", "object", "embed", "base", "form", "http:"}
    assert tags.loads and all(load.startswith("data:") for load in tags.loads)
    assert (
        "<b>" not in page
        and "<b x" not in page
        and tags.runs == []
        and not any("url" in style or "expression" in style for style in tags.styles)
    )
    assert page.count("<style") == page.count("</style") == 1 and "default-src 'none'" in page
    shown = "".join(tags.text.split())
    assert all("".join(word.split()) in shown for word in WORDS)


def test_a_card_shows_hostile_words_and_does_nothing_of_what_they_say(
    settings: Settings, plan: pd.DataFrame
) -> None:
    card = dataset_card("nightly-01234567", settings, Kept.of(plan), len(plan))
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(card)
    inside = [child for token in tokens for child in token.children or ()]
    assert {token.type for token in inside} <= {"text", "text_special", "softbreak", "code_inline"}
    assert [child.content for child in inside if child.type == "code_inline"] == ["nightly"]
    assert "html_block" not in {token.type for token in tokens}
    kinds = [token.type for token in tokens]
    assert kinds.count("tr_open") == 1 + len(WORDS) and kinds.count("td_open") == 3 * len(WORDS)
    texts = [
        "".join(child.content for child in token.children or ())
        for token in tokens
        if token.type == "inline"
    ]
    assert set(WORDS) <= set(texts)


@pytest.mark.parametrize(
    "word",
    [*WORDS, "two\nlines", "# a\n- b", "a\r\n<b>", "\x1b[2J", "x  \ny", "~~x~~", "1. x", "+ x"],
)
def test_markdown_of_any_text_is_that_text(word: str) -> None:
    [_, inline, _] = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .parse(as_markdown(word))
    )
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    shown = "".join(child.content for child in inline.children or ())
    assert shown == visible(word).replace("\n", "\\n").replace("\t", "\\t")


@pytest.mark.parametrize(
    "word",
    [
        "\x1b]0;owned\x07",
        "\x1b[31mred",
        "\x9b2J",
        "a\rb",
        "\x08\x08",
        "\u202eevil",
        "[red]x[/red]",
        ":smile:",
    ],
)
def test_a_terminal_shows_hostile_words_and_does_nothing_of_what_they_say(
    word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.console, "_width", 200)
    console.say(word)
    console.fail(word)
    console.facts([("name", word)])
    console.table(word, ["class"], [[word]])
    said = capsys.readouterr()
    printed = said.out + said.err
    assert printed.count(visible(word)) == 5
    assert not any(character in printed for character in "\x1b\x07\x9b\r\x08\u202e")
