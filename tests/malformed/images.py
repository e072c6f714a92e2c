"""Folders in VOC layout: labels, lists of images and class names."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

from infra.voc import VocError, VocFolder
from testbed.inputs import small_voc
from tests.malformed import Case, Cases, file


def png(
    width: int,
    height: int,
    *,
    kind: int = 0,
    depth: int = 8,
    pixels: bytes = b"\0\0",
    extra: bytes = b"",
) -> bytes:
    """Return a PNG with these header values and chunks, and correct checksums."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def cases() -> Cases:
    whole = io.BytesIO()
    Image.new("L", (64, 64), 1).save(whole, "PNG")
    label = whole.getvalue()
    huge = zlib.compress(b"\0" * (1 << 24))
    contents = {
        "nothing": b"",
        "text": b"hello",
        "NUL": b"\0" * 64,
        "only its signature": label[:8],
        "cut header": label[:20],
        "cut data": label[:-20],
        "without its end": label[:-12],
        "wrong checksum": label[:40] + b"\xff" + label[41:],
        "many pixels": png(1 << 15, 1 << 15),
        "most pixels": png((1 << 31) - 1, (1 << 31) - 1),
        "tall": png(1, (1 << 31) - 1),
        "no pixels": png(0, 0),
        "one side none": png(5, 0),
        "too little data": png(64, 64),
        "no data": png(64, 64, pixels=b""),
        "unknown depth": png(3, 2, depth=7),
        "unknown kind": png(3, 2, kind=9),
        "colours": png(1, 1, kind=2, pixels=b"\0abc"),
        "with alpha": png(1, 1, kind=6, pixels=b"\0abcd"),
        "text bomb": png(1, 1, extra=chunk(b"zTXt", b"a\0\0" + huge)),
        "profile bomb": png(1, 1, extra=chunk(b"iCCP", b"a\0\0" + huge) * 70),
        "critical chunk of nobody": png(1, 1, extra=chunk(b"EVIL", b"")),
        "animation of nothing": png(1, 1, extra=chunk(b"acTL", b"")),
        "PostScript": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 3 2\n%%EndComments\n(evil) run\n"
        ),
        "GIF": b"GIF89a\x03\x00\x02\x00\x00\x00\x00;",
        "BMP": b"BM" + b"\0" * 60,
        "PSD": b"8BPS\0\1" + b"\0" * 60,
        "FITS": b"SIMPLE  =                    T",
        "TIFF": b"II*\0\x08\0\0\0\xff\xff",
        "XPM": b"/* XPM */",
        "WMF": b"\xd7\xcd\xc6\x9a" + b"\0" * 40,
        "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "pickle": b"\x80\x04cos\nsystem\n.",
    }
    for name, content in contents.items():
        yield f"label: {name}", Case(lambda d, c=content: labelled(d, c), VocError, r"a\.png")
    stems = {
        "parent": "../a",
        "absolute": "/etc/passwd",
        "parent below": "b/../../a",
        "only parents": "../../../../etc/shadow",
        "NUL": "a\0b",
        "escape": "\x1b[2J",
        "turned writing": "\u202ea",
        "long": "a" * 300,
        "missing": "b",
    }
    for name, stem in stems.items():
        yield (
            f"stem: {name}",
            Case(lambda d, s=stem: listed(d, s.encode()), VocError, r"val\.txt|missing"),
        )
    yield "split: not UTF-8", Case(lambda d: listed(d, b"\xff"), VocError, r"val\.txt is not UTF-8")
    yield (
        "split: UTF-16",
        Case(lambda d: listed(d, "a".encode("utf-16")), VocError, r"val\.txt is not UTF-8"),
    )
    names = {
        "not UTF-8": b"\xff",
        "escape": b"ground\n\x1b[31mcar",
        "one twice": b"ground\ncar\ncar",
        "many": b"\n".join(b"%d" % i for i in range(300)),
    }
    for name, content in names.items():
        yield (
            f"classes.txt: {name}",
            Case(lambda d, c=content: named(d, c), VocError, r"classes\.txt"),
        )


def labelled(folder: Path, content: bytes) -> object:
    file(small_voc(folder) / "SegmentationClass/a.png", content)
    return VocFolder(folder, "val", ["ground", "car"])[0]


def listed(folder: Path, stems: bytes) -> object:
    file(small_voc(folder) / "ImageSets/Segmentation/val.txt", stems + b"\n")
    return VocFolder(folder, "val", ["ground", "car"])


def named(folder: Path, classes: bytes) -> object:
    file(small_voc(folder) / "classes.txt", classes)
    return VocFolder(folder, "val", ["ground", "car"])
