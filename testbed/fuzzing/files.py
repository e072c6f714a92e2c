"""Fuzzed readers of files that a user gives: settings, words, configs, folders in VOC layout."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from infra.settings import Settings, SettingsError
from infra.voc import VocError, VocFolder
from infra.vocabulary import load_vocabulary
from models.segmenters.configs import read_config
from tasks.plan.captions import read_captions
from tasks.plan.rows import PlanError
from testbed.fuzzing.target import Target
from testbed.inputs import file, small_voc

__all__ = ["FILES"]

_CLASSES = ("ground", "car")


# Settings and words


def _written(name: str, texts: Iterable[str]) -> Callable[[Path], Iterable[bytes]]:
    return lambda folder: [text.encode() for text in texts]


_TOML = 'name = "a"\nseed = 1\nclasses = ["car"]\n[store]\nurl = "out"\n[plan]\nimages = 8\n'
_YAML = "name: a\nseed: 1\nclasses: [car]\nstore: {url: out}\nplan:\n  images: 8\n  multi: 0.5\n"
_FLAGS = ("plan.images=3", 'store.options={"anon": true}', "classes=car,bird", "plan.budget.car=2")
_VOCABULARY = json.dumps(
    {
        "name": "pets",
        "classes": [{"id": 1, "name": "cat", "palette": [1, 2, 3], "synonyms": ["kitten"]}],
        "backgrounds": [{"name": "lawn"}],
    }
)


def _flag(folder: Path, data: bytes) -> object:
    return Settings(_flags=[data.decode("utf-8", "replace")])


# mmsegmentation's configs

_CONFIG = """_base_ = []
norm_cfg = dict(type='SyncBN', requires_grad=True)
channels = [32] * 2 + [7 // 2 - 1]
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='MixVisionTransformer', **norm_cfg),
    decode_head=dict(
        type='FCNHead', channels=sum(channels), loss_decode=[dict(loss_weight=1.0 / 2)]))
"""


# Folders in VOC layout


def _pictures(below: str, *kinds: str) -> Callable[[Path], Iterable[bytes]]:
    """Prepare a VOC folder, and pictures of these modes as inputs for one of its folders."""

    def prepare(folder: Path) -> Iterable[bytes]:
        small_voc(folder)
        for mode in kinds:
            with io.BytesIO() as buffer:
                picture = Image.new(mode, (3, 2), 1 if mode in "LP" else (1, 2, 3))
                picture.save(buffer, "JPEG" if below == "JPEGImages" else "PNG")
                yield buffer.getvalue()

    return prepare


def _read_voc(name: str) -> Callable[[Path, bytes], object]:
    def attempt(folder: Path, data: bytes) -> object:
        file(folder / name, data)
        return [*VocFolder(folder, "val", _CLASSES)]

    return attempt


def _listed(text: bytes) -> Callable[[Path], Iterable[bytes]]:
    def prepare(folder: Path) -> Iterable[bytes]:
        small_voc(folder)
        return [text]

    return prepare


FILES: dict[str, Target] = {
    "settings-toml": Target(
        _written("toml", [_TOML]),
        lambda folder, data: Settings(_file=file(folder / "a.toml", data)),
        (SettingsError,),
    ),
    "settings-yaml": Target(
        _written("yaml", [_YAML]),
        lambda folder, data: Settings(_file=file(folder / "a.yaml", data)),
        (SettingsError,),
    ),
    "flags": Target(_written("flag", _FLAGS), _flag, (SettingsError,)),
    "vocabulary": Target(
        _written("json", [_VOCABULARY]),
        lambda folder, data: load_vocabulary(str(file(folder / "pets.json", data))),
        (ValueError,),
        is_json=True,
    ),
    "captions": Target(
        _written("txt", ["a car\na bird on the grass\n"]),
        lambda folder, data: read_captions(str(file(folder / "captions.txt", data))),
        (PlanError,),
    ),
    "config": Target(
        _written("py", [_CONFIG]),
        lambda folder, data: read_config(file(folder / "config.py", data)),
        (ValueError,),
    ),
    "voc-label": Target(
        _pictures("SegmentationClass", "L", "P"),
        _read_voc("SegmentationClass/a.png"),
        (VocError,),
    ),
    "voc-image": Target(_pictures("JPEGImages", "RGB"), _read_voc("JPEGImages/a.jpg"), (VocError,)),
    "voc-list": Target(_listed(b"a\n"), _read_voc("ImageSets/Segmentation/val.txt"), (VocError,)),
    "voc-classes": Target(_listed(b"ground\ncar\n"), _read_voc("classes.txt"), (VocError,)),
}
