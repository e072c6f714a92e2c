"""A store: tables, plans and the JSON files that stages leave."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from infra.settings import Settings
from infra.store import Store, StoreError
from infra.store.groups import GroupedTable
from tasks.plan.cost import measured_rate
from tasks.plan.rows import PlanError, start_run
from tasks.plan.table import COLUMNS, Plan, stored_plan
from tasks.promote.outcomes import read_outcomes
from tasks.promote.pointer import read_champion
from tasks.report.stored_run import read_stored_run
from tasks.select.ranking import read_ranking
from tasks.train.checkpoints import load_checkpoint, read_meta
from testbed.inputs import CHAMPION, EVALUATION, META, PLAN
from testbed.plans import write_plan
from tests.malformed import DEEP, Case, Cases
from tests.malformed.stored import read_raw, store_of


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def tables() -> Cases:
    whole = parquet_of(pa.table({"row": [0, 1, 2], "id": ["a", "b", "c"]}))
    many = parquet_of(pa.table({"keep": pa.repeat(True, 1 << 22)}))
    contents = {
        "empty": b"",
        "text": b"hello",
        "only its signature": b"PAR1",
        "twice its signature": b"PAR1PAR1",
        "cut off": whole[:-9],
        "without its end": whole[:-4],
        "footer without end": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "footer of nothing": whole[:-8] + b"\0\0\0\0PAR1",
        "pickle": b"\x80\x04.",
        "rows without bytes": many,
        "wrong pandas metadata": parquet_of(
            pa.table({"row": [0]}).replace_schema_metadata({b"pandas": b"{"})
        ),
        "pandas metadata that is a list": parquet_of(
            pa.table({"row": [0]}).replace_schema_metadata({b"pandas": b"[]"})
        ),
        "seal that is none": parquet_of(
            pa.table({"row": [0]}).replace_schema_metadata({b"segmint.seal": b"0" * 64})
        ),
        "empty seal": parquet_of(
            pa.table({"row": [0]}).replace_schema_metadata({b"segmint.seal": b""})
        ),
        "Arrow": b"ARROW1\0\0",
        "ORC": b"ORC" + b"\0" * 40,
        "encrypted": b"PARE" + whole[4:-4] + b"PARE",
    }
    for name, content in contents.items():
        yield (
            f"parquet: {name}",
            Case(
                lambda d, c=content: read_raw(
                    store_of(d), "x.parquet", c, lambda s: s.read_table("x.parquet")
                ),
                StoreError,
                r"x\.parquet is not Parquet",
            ),
        )


def plans() -> Cases:
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "shard that leads out": ({"shard": ["../x"] * 3}, "shard"),
        "negative shard": ({"shard": [-1, 0, 1]}, "shard"),
        "shard of 2^40": ({"shard": [0, 0, 1 << 40]}, "shard"),
        "shard of fractions": ({"shard": [0.5, 0, 1]}, "shard"),
        "rows that are not in order": ({"row": [2, 1, 0]}, "row"),
        "row twice": ({"row": [0, 0, 1]}, "row"),
        "rows of text": ({"row": list("abc")}, "row"),
        "id twice": ({"id": ["0", "0", "1"]}, "id"),
        "ids that are numbers": ({"id": [0, 1, 2]}, "id"),
        "gap in the ids": ({"id": ["0", None, "2"]}, "id"),
        "unknown kind": ({"kind": ["evil"] * 3}, "kind"),
        "unknown class": ({"classes": [["<script>"], [], []]}, "classes"),
        "classes of text": ({"classes": ["car"] * 3}, "classes"),
        "classes of numbers": ({"classes": [[1], [2], [3]]}, "classes"),
        "prompts of bytes": ({"prompt": [b"a"] * 3}, "prompt"),
        "seeds of text": ({"seed": ["1"] * 3}, "seed"),
        "source of nobody": ({"sources": [[], [], [99]]}, "sources"),
        "source that is composed": ({"sources": [[], [], [2]]}, "sources"),
    }

    def attempt(folder: Path, table: dict[str, Any]) -> None:
        store = store_of(folder)
        path = "runs/nightly/plan.parquet"
        store.write_bytes(path, stored_plan([pd.DataFrame(PLAN)]))
        notes = GroupedTable(store, path, {}).notes
        write_plan(store, path, pd.DataFrame(table), notes)
        for _ in Plan(store, Settings()).columns(list(COLUMNS)):
            pass

    for name, (change, words) in changes.items():
        yield (
            f"plan: {name}",
            Case(
                lambda d, c=change: attempt(d, PLAN | c),
                (PlanError, StoreError),
                rf"plan\.parquet.*{words}",
            ),
        )
    for column in PLAN:
        yield (
            f"plan: without {column}",
            Case(
                lambda d, c=column: attempt(d, {n: v for n, v in PLAN.items() if n != c}),
                StoreError,
                f"no column '{column}'",
            ),
        )


def outcomes_of_a_night(store: Store) -> object:
    plan = pd.DataFrame(PLAN)[["classes", "kind", "background", "phrases"]]
    write_plan(store, "runs/nightly/plan.parquet", plan)
    return read_outcomes(store, "nightly")


def records() -> Cases:
    raw = {
        "empty": b"",
        "list": b"[]",
        "text": b'"a"',
        "deep": b"[" * DEEP,
        "key twice": b'{"a": 1, "a": 2}',
        "NaN": b'{"miou": NaN}',
        "not UTF-8": b"\xff",
        "cut off": b"{",
        "null": b"null",
        "huge integer": b"9" * 5000,
    }
    files: dict[str, tuple[str, Callable[[Store], object]]] = {
        "champions/00000001.json": ("champions/00000001.json", read_champion),
        "meta.json": ("checkpoints/c/meta.json", lambda s: read_meta(s, "c")),
        "settings.json": ("runs/nightly/settings.json", lambda s: start_run(s, Settings())),
        "evaluation.json": (
            "runs/nightly/evaluation.json",
            lambda s: read_stored_run(s, "nightly"),
        ),
    }
    for where, (path, read) in files.items():
        for name, content in raw.items():
            yield (
                f"{where}: {name}",
                Case(
                    lambda d, p=path, c=content, r=read: read_raw(store_of(d), p, c, r),
                    StoreError,
                    re.escape(path),
                ),
            )

    def case(path: str, value: Any, read: Callable[[Store], object], words: str) -> Case:
        return Case(
            lambda d: read_raw(store_of(d), path, json.dumps(value).encode(), read),
            StoreError,
            f"{re.escape(path)}.*{words}",
        )

    champions: dict[str, tuple[dict[str, Any], str]] = {
        "no checkpoint": ({"checkpoint": None}, "checkpoint"),
        "no evaluation": ({"evaluation": None}, "evaluation"),
        "mIoU of text": ({"evaluation": EVALUATION | {"miou": "best"}}, "miou"),
        "mIoU over 1": ({"evaluation": EVALUATION | {"miou": 7}}, "miou"),
        "IoU that is a list": ({"evaluation": EVALUATION | {"iou": []}}, "iou"),
        "IoU below nothing": ({"evaluation": EVALUATION | {"iou": {"car": -1}}}, "iou"),
        "fingerprint that is a number": (
            {"evaluation": EVALUATION | {"fingerprint": 1}},
            "fingerprint",
        ),
        "before that is text": ({"before": "c"}, "before"),
    }
    for name, (change, words) in champions.items():
        yield (
            f"champion: {name}",
            case("champions/00000001.json", CHAMPION | change, read_champion, words),
        )
    budgets: dict[str, Any] = {
        "list": [],
        "text": {"car": "all"},
        "below nothing": {"car": -1},
        "null": {"car": None},
    }
    for name, budget in budgets.items():
        yield (
            f"champion's budget: {name}",
            case(
                "champions/00000001.json",
                CHAMPION | {"budget": budget},
                lambda s: start_run(s, Settings()),
                "budget",
            ),
        )
    weights: dict[str, Any] = {
        "list": [],
        "of nothing": {"backgrounds": {"sand": 0}},
        "below nothing": {"sizes": {"small": -1}},
        "text": {"counts": {"two": "all"}},
        "words without a class": {"subclasses": {"long": 2}},
    }
    for name, weight in weights.items():
        yield (
            f"champion's weights: {name}",
            case(
                "champions/00000001.json",
                CHAMPION | {"weights": weight},
                lambda s: start_run(s, Settings()),
                "weights",
            ),
        )
    metas: dict[str, tuple[dict[str, Any], str]] = {
        "files that are a list": ({"files": []}, "files"),
        "checksum that is a number": ({"files": {"a": 1}}, "files"),
        "classes that are text": ({"classes": "car"}, "classes"),
        "no version": ({"version": None}, "version"),
        "unseen that is text": ({"protocol": {"unseen": "car"}}, "unseen"),
        "versions by name alone": ({"versions": ["night-1"]}, "versions"),
        "version that leads out": ({"versions": [{"name": "../v", "digest": "a"}]}, "versions"),
        "start that is text": ({"start": "champion"}, "start"),
    }
    for name, (change, words) in metas.items():
        yield (
            f"meta.json: {name}",
            case("checkpoints/c/meta.json", META | change, lambda s: read_meta(s, "c"), words),
        )
    for name, files_of in {
        "leads out": {"../../champion.json": ""},
        "is absolute": {"/etc/passwd": ""},
        "is none of a checkpoint's": {"x": ""},
    }.items():
        yield (
            f"meta.json: file that {name}",
            Case(
                lambda d, f=files_of: read_raw(
                    store_of(d),
                    "checkpoints/c/meta.json",
                    json.dumps(META | {"files": f}).encode(),
                    lambda s: load_checkpoint(s, "c"),
                ),
                StoreError,
                "store|checkpoints/c",
            ),
        )
    rankings: dict[str, tuple[Any, str]] = {
        "bars that are a list": ({"bars": [], "losses": {}}, "bars"),
        "bar that is a number": ({"bars": {"car": 0.5}, "losses": {}}, "bars.car"),
        "bar over 1": ({"bars": {"car": {"score": 7, "row": 0}}, "losses": {}}, "score"),
        "loss of no label": ({"bars": {}, "losses": {"x": 1}}, "losses"),
        "loss below nothing": ({"bars": {}, "losses": {"1": -1}}, "losses"),
    }
    path = "runs/nightly/ranking.json"
    for name, (ranking, words) in rankings.items():
        yield (
            f"ranking.json: {name}",
            case(path, ranking, lambda s: read_ranking(s, "runs/nightly"), words),
        )
    surveys: dict[str, Any] = {
        "objects of numbers": [1],
        "object of no class": [{"row": 1, "missing": 0.5, "uncertain": 0.5}],
        "more missing than there is": [{"row": 1, "of": "car", "missing": 9, "uncertain": 0}],
    }
    for name, objects in surveys.items():
        yield (
            f"survey.json: {name}",
            case(
                "runs/nightly/survey.json",
                {"checkpoint": "c", "objects": objects},
                outcomes_of_a_night,
                "objects",
            ),
        )
    shown: dict[str, tuple[str, Any, str]] = {
        "curve that is text": ("training.json", {"curve": "x"}, "curve"),
        "steps without loss": ("training.json", {"curve": [{"step": 1}]}, "loss"),
        "seconds below nothing": ("training.json", {"seconds": -1}, "seconds"),
        "figures of text": ("evaluation.json", EVALUATION | {"images": "x"}, "images"),
        "uncertainty over 1": ("evaluation.json", EVALUATION | {"uncertainty": {"car": 2}}, "car"),
        "weight of text": (
            "budget.json",
            {"rows": [{"what": "class", "name": "car", "weight": "x"}]},
            "weight",
        ),
        "set that is a number": ("evaluation.json", EVALUATION | {"set": 1}, "set"),
        "colour that is style": (
            "settings.json",
            {
                "sample_settings": {
                    "vocabulary": {
                        "classes": [
                            {"id": 1, "name": "car", "palette": ["0);background:url(//evil)", 0, 0]}
                        ]
                    }
                }
            },
            "palette",
        ),
        "class id of text": (
            "settings.json",
            {"sample_settings": {"vocabulary": {"classes": [{"id": "x", "name": "car"}]}}},
            "id",
        ),
        "class id of digits": (
            "settings.json",
            {"sample_settings": {"vocabulary": {"classes": [{"id": "1", "name": "car"}]}}},
            "id",
        ),
        "seeds of nobody": (
            "settings.json",
            {
                "sample_settings": {
                    "vocabulary": {"classes": [{"id": 1, "name": "a", "seeds": {"x": 1}}]}
                }
            },
            "seeds",
        ),
        "settings that are text": ("settings.json", {"settings": "x"}, "settings"),
    }
    for name, (where, value, words) in shown.items():
        yield (
            f"{where}: {name}",
            case(f"runs/nightly/{where}", value, lambda s: read_stored_run(s, "nightly"), words),
        )
    yield (
        "settings.json of another run",
        case(
            "runs/other/settings.json",
            {"settings": {}},
            lambda s: measured_rate(s, Settings()),
            "settings",
        ),
    )


def cases() -> Cases:
    """Yield all cases of this module."""
    yield from tables()
    yield from plans()
    yield from records()
