"""Configs of mmsegmentation, checkpoints and snapshots of trainings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from models.segmenters import build_segmenter, pack_segmenter, unpack_segmenter
from models.segmenters.hooks import TrainingError
from models.segmenters.snapshots import Snapshots, read_snapshot
from tests.malformed import DEEP, Case, Cases, file
from tests.models.test_segmenters import TINY


def configs() -> Cases:
    texts = {
        "import": "import os\n" + TINY,
        "call": "model = __import__('os').system('touch owned')",
        "call by name": "model = print(1)",
        "loop": "for i in range(3):\n    pass",
        "function": "def f():\n    pass",
        "class": "class A:\n    pass",
        "with": "with open('x'):\n    pass",
        "lambda": "model = lambda: 1",
        "comprehension": "model = [i for i in (1, 2)]",
        "formatted text": "model = f'{1}'",
        "attribute": "a = dict()\nmodel = a.keys",
        "statement": "print(1)",
        "assert": "assert True",
        "item assigned": "a = dict()\na['b'] = 1",
        "walrus": "model = (a := 1)",
        "list without end": "model = [0] * 10 ** 9",
        "long list": "a = [0] * 65536\nmodel = a * 65536",
        "long text": "a = 'x' * 65536\nmodel = dict(decode_head=a * 65536)",
        "lists of lists": (
            "a = [dict()] * 100\nb = [a] * 100\nc = [b] * 100\nmodel = dict(decode_head=c)"
        ),
        "division by zero": "model = 1 / 0",
        "unknown name": "model = dict(decode_head=nothing)",
        "no model": "a = 1",
        "model of no head": "model = dict(type='A')",
        "model that is a list": "model = [1]",
        "syntax": "model = (",
        "deep": "model = " + "[" * 5000 + "]" * 5000,
        "NUL": "model = 1\0",
        "base that is missing": "_base_ = 'nowhere.py'",
        "base of a package": "_base_ = 'mmseg::evil.py'",
        "base that is itself": "_base_ = 'config.py'",
        "base that is a number": "_base_ = 1",
        "base that is no config": "_base_ = '/etc/passwd'",
        "not UTF-8": b"model = '\xff'",
    }
    for name, text in texts.items():
        yield (
            f"mmseg config: {name}",
            Case(
                lambda d, t=text: build_segmenter(str(file(d / "config.py", t)), ("ground", "car")),
                ValueError,
                "config|nowhere|passwd",
            ),
        )
    for suffix, text in {
        "yaml": "model: !!python/object/apply:os.system ['true']",
        "json": '{"custom_imports": {"imports": ["evil"]}}',
        "pkl": "",
    }.items():
        yield (
            f"mmseg config: .{suffix}",
            Case(
                lambda d, s=suffix, t=text: build_segmenter(
                    str(file(d / f"config.{s}", t)), ("ground", "car")
                ),
                ValueError,
                rf"config\.{suffix}",
            ),
        )


def packed(folder: Path) -> dict[str, bytes]:
    return pack_segmenter(build_segmenter(str(file(folder / "tiny.py", TINY)), ("ground", "car")))


def checkpoints() -> Cases:
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "dotted type": lambda m: m.update(type="os.system"),
        "module for a type": lambda m: m.update(type="antigravity"),
        "list for a type": lambda m: m.update(type=["os"]),
        "number for a type": lambda m: m["backbone"].update(type=1),
        "scope": lambda m: m["backbone"].update(type="evil::Net"),
        "hook for a backbone": lambda m: m["backbone"].update(type="nothing_registered"),
        "weights from elsewhere": lambda m: m["backbone"].update(
            init_cfg={"type": "Pretrained", "checkpoint": "http://evil/x.pth"}
        ),
        "pretrained": lambda m: m.update(pretrained="evil.pth"),
        "checkpoint path": lambda m: m["backbone"].update(checkpoint_path="evil.pth"),
        "unknown argument": lambda m: m["backbone"].update(evil=1),
        "text for a number": lambda m: m["backbone"].update(embed_dims="8"),
        "width without end": lambda m: m["backbone"].update(embed_dims=1 << 40),
        "negative width": lambda m: m["backbone"].update(embed_dims=-8),
        "no backbone": lambda m: m.pop("backbone"),
        "no head": lambda m: m.pop("decode_head"),
        "nothing": lambda m: m.clear(),
    }

    def attempt(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        files = packed(folder)
        config = json.loads(files["config.json"])
        change(config["model"])
        unpack_segmenter({**files, "config.json": json.dumps(config).encode()})

    for name, change in changes.items():
        yield (
            f"checkpoint's config: {name}",
            Case(lambda d, c=change: attempt(d, c), ValueError, "config"),
        )
    contents = {
        "list": b"[]",
        "deep": b"[" * DEEP,
        "not UTF-8": b"\xff",
        "no model": b"{}",
        "model that is text": b'{"model": "a", "classes": []}',
        "classes that are a number": b'{"model": {}, "classes": 1}',
        "cut off": b"{",
    }
    for name, content in contents.items():
        yield (
            f"checkpoint's config: {name}",
            Case(
                lambda d, c=content: unpack_segmenter({**packed(d), "config.json": c}),
                ValueError,
                r"config\.json",
            ),
        )
    for name, content in {
        "pickle": b"\x80\x02cos\nsystem\n.",
        "empty": b"",
        "other tensors": safetensors.torch.save({"a": torch.zeros(1)}),
    }.items():
        yield (
            f"checkpoint's weights: {name}",
            Case(
                lambda d, c=content: unpack_segmenter({**packed(d), "weights.safetensors": c}),
                ValueError,
                r"weights\.safetensors",
            ),
        )
    for name, content in {
        "text": b"hello",
        "no notes": safetensors.torch.save({"a": torch.zeros(1)}),
        "notes that are no JSON": safetensors.torch.save(
            {"notes": torch.zeros(3, dtype=torch.uint8)}
        ),
    }.items():
        yield (
            f"snapshot: {name}",
            Case(
                lambda d, c=content: read_snapshot(Snapshots(lambda: c, lambda _: None), {}),
                TrainingError,
                "snapshot",
            ),
        )


def cases() -> Cases:
    """Yield all cases of this module."""
    yield from configs()
    yield from checkpoints()
