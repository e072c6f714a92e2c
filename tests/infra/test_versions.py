"""Versions: whole or absent, never changed, and every fault in one is named."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from infra.store import (
    FormatError,
    Manifest,
    MissingError,
    Store,
    StoreError,
    list_versions,
    publish_version,
    read_marker,
    read_shard,
    read_version,
    verify_run,
    verify_version,
    write_shard,
)
from infra.store.mark import MARK
from infra.store.seal import FileSum, seal, unseal
from tests.infra.conftest import Samples

CARD = "card-74bd8373.md"  # with the first digits of its SHA-256
META = {"run": "nightly", "classes": {"1": "car"}, "counts": {"car": 7}}


def publish(
    store: Store, samples: Samples, version: str = "v1", seed: int = 0, shards: int = 2
) -> Manifest:
    paths = [f"versions/{version}/data/{number:05d}" for number in range(shards)]
    for number, path in enumerate(paths):
        write_shard(store, path, *samples(3 + number, seed=seed + number))
    return publish_version(
        store, version, shards=paths, meta=META, files={"card.md": b"# A card\n"}
    )


def test_a_version_lists_its_content(any_store: Store, samples: Samples) -> None:
    manifest = publish(any_store, samples)
    assert read_version(any_store, "v1") == manifest
    (listed,) = list_versions(any_store)
    assert (listed.version, listed.number, listed.created) == ("v1", 1, manifest.created)
    assert (listed.samples, listed.shards, listed.meta) == (7, 2, META)
    assert (manifest.samples, manifest.meta) == (7, META)
    assert manifest.paths == ["versions/v1/data/00000", "versions/v1/data/00001"]
    assert list(manifest.files) == [CARD]
    assert (
        read_shard(any_store, manifest.paths[1])[0]["image"] == samples(4, seed=1)[0]["image"]
    ).all()
    assert verify_version(any_store, "v1") == []


def test_versions_are_listed_as_they_were_published_with_any_clocks(
    any_store: Store, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("on-time", "fast", "slow", "again-on-time")
    for name, days in zip(names, (0, 3, -3, 0), strict=True):
        with monkeypatch.context() as clock:
            clock.setattr("infra.store.versions.datetime", clock_off_by(days))
            publish(any_store, samples, name)
    listed = list_versions(any_store)
    assert [(manifest.number, manifest.version) for manifest in listed] == list(enumerate(names, 1))
    assert listed[2].created < listed[0].created < listed[1].created


def clock_off_by(days: int) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return super().now(tz) + timedelta(days)

    return Clock


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("versions/v1/data/00000.json", lambda store: read_shard(store, "versions/v1/data/00000")),
        ("versions/v1/data/00000.json", lambda store: read_marker(store, "versions/v1/data/00000")),
        ("versions/v1/manifest.json", lambda store: read_version(store, "v1")),
        ("publications/00000001.json", list_versions),
    ],
    ids=["shard", "marker", "manifest", "entry"],
)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"format": 2},
            "has format 2, this version of segmint reads format 1; use a newer segmint",
        ),
        ({"format": True}, "has format True"),
        ({"format": "1"}, "has format '1'"),
        (None, "has no format.*delete it and write it again"),
    ],
    ids=["newer", "boolean", "text", "none"],
)
def test_a_file_of_another_format_is_an_error_that_names_it_and_the_remedy(
    store: Store,
    samples: Samples,
    path: str,
    read: Callable[[Store], object],
    change: dict[str, object] | None,
    words: str,
) -> None:
    publish(store, samples)
    with_format(Path(store.url, path), change)
    with pytest.raises(FormatError, match=f"{path} {words}"):
        read(store)


def with_format(file: Path, change: dict[str, object] | None) -> None:
    """Seal a stored file again with another format, or without one."""
    value = unseal(file.read_bytes())
    del value["format"]
    file.write_bytes(seal(value | (change or {})))


def test_a_version_of_a_newer_format_is_neither_hidden_nor_published_over(
    store: Store, samples: Samples
) -> None:
    publish(store, samples)
    store.delete("publications/00000001.json")  # so that the manifest itself is read
    path = Path(store.url, "versions/v1/manifest.json")
    with_format(path, {"format": 2})
    data = path.read_bytes()
    with pytest.raises(FormatError, match=r"v1/manifest\.json has format 2"):
        list_versions(store)
    with pytest.raises(FormatError, match=r"v1/manifest\.json has format 2"):
        publish(store, samples)
    assert path.read_bytes() == data


def test_a_proposal_of_a_newer_format_is_not_overruled(store: Store, samples: Samples) -> None:
    publish(store, samples)
    store.delete("publications/00000001.json")
    store.delete("versions/v1/manifest.json")
    (proposal,) = (
        file for file in Path(store.url, "publications/00000001").iterdir() if "." not in file.name
    )
    with_format(proposal, {"format": 2})
    digest = FileSum.of(proposal.read_bytes()).sha256
    for file in list(proposal.parent.iterdir()):
        file.rename(file.with_name(file.name.replace(proposal.name, digest)))
    with pytest.raises(FormatError, match=r"publications/00000001 has format 2"):
        publish(store, samples, "v2")


def test_verify_names_a_marker_of_another_format(store: Store, samples: Samples) -> None:
    publish(store, samples)
    with_format(Path(store.url, "versions/v1/data/00000.json"), {"format": 2})
    (problem,) = verify_version(store, "v1")
    assert problem.path == "versions/v1/data/00000.json" and "has format 2" in problem.what


def test_a_manifest_without_a_number_is_refused(store: Store, samples: Samples) -> None:
    publish(store, samples)
    path = Path(store.url, "versions/v1/manifest.json")
    value = unseal(path.read_bytes())
    for number in ({}, {"number": 0}):
        path.write_bytes(seal({key: value[key] for key in value if key != "number"} | number))
        with pytest.raises(StoreError, match=r"v1/manifest\.json: number is"):
            read_version(store, "v1")


def test_what_a_killed_publisher_had_agreed_on_is_brought_to_its_version_by_the_next(
    store: Store, samples: Samples
) -> None:
    publish(store, samples, "v1")
    killed = publish(store, samples, "v2")
    store.delete("publications/00000002.json")
    store.delete("versions/v2/manifest.json")
    with pytest.raises(MissingError):
        read_version(store, "v2")
    publish(store, samples, "v3")
    assert [manifest.version for manifest in list_versions(store)] == ["v1", "v2", "v3"]
    assert read_version(store, "v2") == killed
    assert verify_version(store, "v2") == []


@pytest.mark.parametrize("entered", [True, False])
def test_a_version_that_was_deleted_does_not_come_back_and_can_be_published_anew(
    store: Store, samples: Samples, entered: bool
) -> None:
    publish(store, samples, "v1")
    publish(store, samples, "v2")
    store.delete("versions/v2")
    # its publisher was killed between the agreement and the manifest, and the samples were swept
    if not entered:
        store.delete("publications/00000002.json")
    publish(store, samples, "v3")
    assert [manifest.version for manifest in list_versions(store)] == ["v1", "v3"]
    assert publish(store, samples, "v2").number == 4
    assert verify_version(store, "v2") == []


def test_a_version_published_while_the_others_are_listed_is_not_listed_before_one_it_follows(
    store: Store, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, samples, "v1")
    read = Store.read_bytes

    def reading(self: Store, path: str) -> bytes:
        if path == "publications/00000001.json" and not self.exists("versions/v2"):
            publish(self, samples, "v2")
            publish(self, samples, "v3")
        return read(self, path)

    monkeypatch.setattr(Store, "read_bytes", reading)
    assert [manifest.version for manifest in list_versions(store)] == ["v1"]
    assert [manifest.version for manifest in list_versions(store)] == ["v1", "v2", "v3"]


def test_what_else_lies_among_the_versions_hides_none(any_store: Store, samples: Samples) -> None:
    published = publish(any_store, samples)
    for path in ("versions/notes.txt", "versions/.hidden/manifest.json", "publications/notes.txt"):
        any_store.write_bytes(path, b"a note")
    assert [version.version for version in list_versions(any_store)] == [published.version]
    assert publish(any_store, samples, "v2").number == 2


def test_an_unknown_version_is_answered_with_those_there_are(
    store: Store, samples: Samples
) -> None:
    publish(store, samples)
    with pytest.raises(MissingError, match=r"no version 'v2' is published .*there are: v1"):
        read_version(store, "v2")


KILLED = """
import sys
import numpy as np, pandas as pd
from infra.store import Store, publish_version, write_shard
store = Store.open(sys.argv[1])
arrays = {"label": np.zeros((50, 300, 300), np.uint8)}
table = pd.DataFrame({"id": [str(row) for row in range(50)]})
print(flush=True)
for number in range(10**6):
    path = f"versions/v{number}/data/00000"
    write_shard(store, path, arrays, table)
    publish_version(store, f"v{number}", shards=[path], meta={})
"""


@pytest.mark.slow
def test_a_publication_killed_before_its_manifest_is_invisible(store: Store) -> None:
    begun = published = 0
    while begun == published:  # a kill between two publications leaves none unfinished
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, store.url], stdout=subprocess.PIPE
        ) as publisher:
            assert publisher.stdout
            publisher.stdout.readline()
            time.sleep(0.3)
            publisher.send_signal(signal.SIGKILL)
        begun, published = len(store.list("versions")), len(list_versions(store))
    assert published == begun - 1
    for manifest in list_versions(store):
        assert verify_version(store, manifest.version) == []
    with pytest.raises(MissingError, match=f"no version 'v{published}' is published"):
        read_version(store, f"v{published}")


PUBLISHES = """
import json, os, sys
import numpy as np, pandas as pd
from infra.store import PublishedError, Store, publish_version, write_shard
url, version, seed = sys.argv[1:]
store = Store.open(url, json.loads(sys.stdin.readline()))
print("ready", flush=True)
sys.stdin.readline()
paths = [f"versions/{version}/data/{number:05d}-{seed}" for number in range(3)]
try:
    for number, path in enumerate(paths):
        random = np.random.default_rng([int(seed), number])
        image = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        table = pd.DataFrame({"id": [f"{number}-{row}" for row in range(4)]})
        arrays = {"image": image, "label": image[..., 0]}
        write_shard(store, path, arrays, table, seconds=float(os.getpid()))
    files = {"card.md": seed.encode()}
    print(publish_version(store, version, shards=paths, meta={"run": version}, files=files).digest)
except PublishedError:
    print("lost")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "seeds", "versions", "winners"),
    [
        (("a", "b", "c"), "012", 3, 3),
        (("a", "a", "a"), "000", 1, 3),
        (("a", "a", "a"), "012", 1, 1),
    ],
    ids=["of different versions", "of the same", "of the same name with different content"],
)
def test_of_publications_at_once_each_version_survives_whole_and_only_its_publisher_succeeds(
    any_store: Store, names: tuple[str, ...], seeds: str, versions: int, winners: int
) -> None:
    with ExitStack() as stack:
        publishers = []
        for name, seed in zip(names, seeds, strict=True):
            command = [sys.executable, "-c", PUBLISHES, any_store.url, name, seed]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            publishers.append(stack.enter_context(process))
        for publisher in publishers:
            tell(publisher, json.dumps(dict(any_store.options)))
            assert publisher.stdout
            assert publisher.stdout.readline() == "ready\n"
        for publisher in publishers:
            tell(publisher, "go")
        told = [publisher.communicate()[0].strip() for publisher in publishers]
    assert [publisher.returncode for publisher in publishers] == [0, 0, 0]
    listed = list_versions(any_store)
    assert [manifest.number for manifest in listed] == list(range(1, versions + 1))
    assert {manifest.version for manifest in listed} == set(names)
    assert [verify_version(any_store, manifest.version) for manifest in listed] == [[]] * versions
    digests = {read_version(any_store, manifest.version).digest for manifest in listed}
    assert {digest for digest in told if digest != "lost"} == digests
    assert len([digest for digest in told if digest != "lost"]) == winners


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def test_publishing_the_same_again_changes_nothing(any_store: Store, samples: Samples) -> None:
    first = publish(any_store, samples)
    assert publish(any_store, samples) == first


def test_a_published_version_takes_no_other_content(any_store: Store, samples: Samples) -> None:
    manifest = publish(any_store, samples)
    with pytest.raises(
        StoreError, match="v1/data/00000: this version is published and stays as it is"
    ):
        write_shard(any_store, manifest.paths[0], *samples(3, seed=9))
    with pytest.raises(StoreError, match="v1/data/00002: this version is published"):
        write_shard(any_store, "versions/v1/data/00002", *samples(3, seed=9))
    with pytest.raises(StoreError, match=r"v1/card-74bd8373\.md: this version is published"):
        any_store.write_bytes(f"versions/v1/{CARD}", b"# Another\n")
    with pytest.raises(StoreError, match=r"v1/manifest\.json: this version is published"):
        any_store.write_bytes("versions/v1/manifest.json", b"{}")
    with pytest.raises(
        StoreError, match="'v1' is published with other content; versions never change"
    ):
        publish_version(any_store, "v1", shards=manifest.paths[:1], meta=META)
    assert read_version(any_store, "v1") == manifest
    assert verify_version(any_store, "v1") == []


def test_only_finished_shards_of_its_own_make_a_version(store: Store, samples: Samples) -> None:
    write_shard(store, "runs/nightly/select/00000", *samples())
    with pytest.raises(StoreError, match="data/00000 is not finished; write the shard before"):
        publish_version(store, "v1", shards=["versions/v1/data/00000"], meta={})
    for shards in ([], ["runs/nightly/select/00000"], ["versions/v1/data/00000"] * 2):
        with pytest.raises(StoreError, match="needs shards versions/v1/data/<name>, each once"):
            publish_version(store, "v1", shards=shards, meta={})
    assert list_versions(store) == []


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


LABELS = "data/00001.zarr/label/c/0/0/0"
FAULTS: list[tuple[str, Callable[[bytes], bytes] | None, str]] = [
    (
        LABELS,
        lambda data: flip(data, 5),
        "data/00001.zarr/label/c/0/0/0: has changed: damaged samples: 00010000$",
    ),
    (
        LABELS,
        lambda data: flip(data, -1),
        "label/c/0/0/0: the index of its chunks is cut off or damaged",
    ),
    (
        LABELS,
        lambda data: data[:-7],
        "label/c/0/0/0: the index .*; it has \\d+ bytes, \\d+ were written",
    ),
    (LABELS, lambda data: data[:20] + data, "label/c/0/0/0: has changed"),
    (LABELS, None, "label/c/0/0/0: is missing"),
    (
        "data/00000.zarr/image/c/0/0/0/0",
        lambda data: flip(data, 800),
        "has changed: damaged samples: 00000001$",
    ),
    (
        "data/00000.zarr/image/zarr.json",
        lambda data: data + b" ",
        "image/zarr.json: has 759 bytes instead of 758",
    ),
    ("data/00000.zarr/zarr.json", None, "00000.zarr/zarr.json: is missing"),
    (
        "data/00000.parquet",
        lambda data: flip(data, 100),
        "00000.parquet: has changed: its checksum differs",
    ),
    ("data/00001.json", None, "data/00001.json: the shard is missing: it has no valid marker"),
    (
        "data/00001.json",
        lambda data: flip(data, 50),
        "data/00001.json: the shard is missing: it has no valid marker",
    ),
    (CARD, lambda data: flip(data, 3), f"{CARD}: has changed"),
    (CARD, None, f"{CARD}: is missing"),
    (
        "manifest.json",
        lambda data: flip(data, 40),
        "manifest.json: .*the seal does not fit the content; restore it",
    ),
    ("manifest.json", lambda data: data[:-1], "manifest.json: .*the seal does not fit the content"),
]


@pytest.mark.parametrize(("path", "fault", "words"), FAULTS)
def test_verify_names_each_fault(
    store: Store, samples: Samples, path: str, fault: Callable[[bytes], bytes] | None, words: str
) -> None:
    publish(store, samples)
    file = Path(store.url, "versions/v1", path)
    if fault:
        file.write_bytes(fault(file.read_bytes()))
    else:
        file.unlink()
    problems = verify_version(store, "v1")
    assert len(problems) == 1
    pytest.raises(AssertionError, match=words).matches(AssertionError(str(problems[0])))


def test_verify_names_a_whole_shard_that_is_gone(store: Store, samples: Samples) -> None:
    publish(store, samples)
    for suffix in (".zarr", ".parquet", ".json"):
        store.delete(f"versions/v1/data/00001{suffix}")
    assert [problem.path for problem in verify_version(store, "v1")] == [
        "versions/v1/data/00001.json"
    ]


def test_verify_finds_a_manifest_that_is_valid_but_wrong(store: Store, samples: Samples) -> None:
    manifest = publish(store, samples)
    path = Path(store.url, "versions/v1/manifest.json")
    path.write_bytes(replace(manifest, shards={"00000": manifest.shards["00000"]}).to_bytes())
    wrong = "versions/v1/manifest.json: is not the manifest that was published"
    assert [str(problem) for problem in verify_version(store, "v1")] == [wrong]
    swapped = {"00000": manifest.shards["00001"], "00001": manifest.shards["00000"]}
    path.write_bytes(replace(manifest, shards=swapped).to_bytes())
    markers = [
        f"versions/v1/data/{name}.json: is not the marker that was published" for name in swapped
    ]
    assert [str(problem) for problem in verify_version(store, "v1")] == [wrong, *markers]


def test_verify_finds_any_flipped_byte(store: Store, samples: Samples) -> None:
    write_shard(store, "versions/v1/data/00000", *samples(2, size=6))
    publish_version(store, "v1", shards=["versions/v1/data/00000"], meta=META)
    files = [file for file in Path(store.url, "versions").rglob("*") if file.is_file()]
    for file in (file for file in files if file.name != MARK):
        data = file.read_bytes()
        for at in range(0, len(data), 1 if "/c/" in str(file) else 29):
            file.write_bytes(flip(data, at))
            problems = verify_version(store, "v1")
            assert any(
                str(file).startswith(f"{store.url}/{problem.path}") for problem in problems
            ), (file, at)
        file.write_bytes(data)
    assert verify_version(store, "v1") == []


def test_a_version_is_listed_by_its_entry_alone_and_its_manifest_is_not_read(
    any_store: Store, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(any_store, samples, "v1")
    read: Any = list[str]()
    monkeypatch.setattr(
        Store, "read_bytes", lambda store, path: read.append(path) or store.place.get(path)
    )
    (listed,) = list_versions(any_store)
    assert listed.sha256 == FileSum.of(first.to_bytes()).sha256
    assert read == ["publications/00000001.json"]


def test_a_version_that_was_deleted_and_published_anew_is_listed_where_it_came_back(
    store: Store, samples: Samples
) -> None:
    for version in ("v1", "v2"):
        publish(store, samples, version)
    store.delete("versions/v1")
    again = publish(store, samples, "v1")
    store.delete("publications/00000003.json")  # its publisher is between manifest and entry
    assert [(one.number, one.created) for one in list_versions(store)][-1] == (3, again.created)
    assert [one.version for one in list_versions(store)] == ["v2", "v1"]


def test_a_version_with_a_damaged_manifest_is_listed_and_found_when_it_is_read(
    store: Store, samples: Samples
) -> None:
    for version in ("v1", "v2"):
        publish(store, samples, version)
    path = Path(store.url, "versions/v1/manifest.json")
    path.write_bytes(flip(path.read_bytes(), 30))
    assert [version.version for version in list_versions(store)] == ["v1", "v2"]
    with pytest.raises(StoreError, match=r"v1/manifest\.json: the seal does not fit the content"):
        read_version(store, "v1")


def test_a_version_without_an_entry_and_with_a_damaged_manifest_is_left_out_and_logged(
    store: Store, samples: Samples, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("v1", "v2"):
        publish(store, samples, version)
    store.delete("publications/00000001.json")
    path = Path(store.url, "versions/v1/manifest.json")
    path.write_bytes(flip(path.read_bytes(), 30))
    assert [version.version for version in list_versions(store)] == ["v2"]
    assert "versions/v1/manifest.json: the seal does not fit the content" in caplog.text


def test_an_entry_that_is_incomplete_is_not_used(store: Store, samples: Samples) -> None:
    publish(store, samples)
    path = Path(store.url, "publications/00000001.json")
    value = unseal(path.read_bytes())
    path.write_bytes(seal({name: value[name] for name in ("format", "version", "sha256")}))
    assert [version.version for version in list_versions(store)] == ["v1"]
    publish(store, samples, "v2")
    assert unseal(path.read_bytes()) == value


def test_verify_names_the_shards_that_a_run_lacks(any_store: Store, samples: Samples) -> None:
    any_store.write_json("runs/nightly/settings.json", {})
    expected = {"refine": ["00000", "00001", "00002"], "select": ["00000"]}

    def problems() -> list[str]:
        return [str(problem) for problem in verify_run(any_store, "nightly", expected)]

    for number in (0, 2):
        write_shard(any_store, f"runs/nightly/refine/{number:05d}", *samples(seed=number))
    assert problems() == [
        "runs/nightly/refine/00001.json: the shard is missing: it has no valid marker"
    ]
    write_shard(any_store, "runs/nightly/refine/00001", *samples(seed=1))
    assert problems() == []  # nothing of a stage that has not begun is missing
    any_store.delete("runs/nightly/refine/00002.zarr/label/c/0/0/0")
    assert problems() == ["runs/nightly/refine/00002.zarr/label/c/0/0/0: is missing"]
    with pytest.raises(MissingError, match=r"no run 'daily' in .*there are: nightly"):
        verify_run(any_store, "daily", expected)


def test_verify_checks_shards_that_nobody_expects_for_damage(
    any_store: Store, samples: Samples
) -> None:
    write_shard(any_store, "runs/nightly/other/00007", *samples(seed=1))
    assert verify_run(any_store, "nightly", {}) == []
    any_store.delete("runs/nightly/other/00007.parquet")
    (problem,) = verify_run(any_store, "nightly", {})
    assert str(problem) == "runs/nightly/other/00007.parquet: is missing"
