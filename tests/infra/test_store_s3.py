"""The store in a bucket whose server goes down, comes back, or refuses."""

import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
import s3fs

from infra.store import MissingError, Store, StoreError, read_shard, write_shard
from testbed.swift import Bucket, Swift
from tests.infra.conftest import Samples

KEY, SECRET = "somebody:else", "swordfish-1234"


def test_keys_from_the_environment_suffice(
    bucket: Bucket, s3: Swift, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    Store.open(bucket.url).probe()


def test_wrong_keys_are_refused_at_once_and_not_shown(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-5678")
    store = Store.open(
        bucket.url, {**bucket.options, "key": KEY, "secret": SECRET, "retry_seconds": 3600}
    )
    with pytest.raises(
        StoreError, match=r"refused .*check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ) as refused:
        store.probe()
    shown = "".join(traceback.format_exception(refused.value))
    assert not any(secret in shown for secret in (SECRET, "token-5678"))


def test_a_bucket_that_is_not_there_is_named(s3: Swift) -> None:
    store = Store.open("s3://no-such-bucket", s3.options)
    with pytest.raises(
        StoreError, match="s3://no-such-bucket: there is no such bucket; create it"
    ) as refused:
        store.probe()
    assert not isinstance(refused.value, MissingError)


def test_an_endpoint_that_never_answers_is_given_up_after_the_time_set(bucket: Bucket) -> None:
    options = {**bucket.options, "endpoint_url": "http://127.0.0.1:9", "retry_seconds": 0.5}
    with pytest.raises(StoreError, match=r"no answer for 0\.5 s .*everything finished is kept"):
        Store.open(bucket.url, options).probe()


def test_an_endpoint_that_comes_back_is_waited_for(
    bucket: Bucket, s3: Swift, samples: Samples
) -> None:
    store = Store.open(bucket.url, {**bucket.options, "retry_seconds": 60})
    write_shard(store, "runs/a/refine/00000", *samples(seed=0))
    s3.kill()
    back = threading.Timer(1.0, s3.start)
    back.start()
    arrays, table = samples(seed=1)
    write_shard(store, "runs/a/refine/00001", arrays, table)
    back.join()
    for number in range(2):
        found, _ = read_shard(store, f"runs/a/refine/{number:05d}")
        assert (found["image"] == samples(seed=number)[0]["image"]).all()


def test_an_endpoint_that_stays_away_stops_the_writer_and_keeps_what_was_finished(
    bucket: Bucket, s3: Swift, samples: Samples
) -> None:
    store = Store.open(bucket.url, {**bucket.options, "retry_seconds": 1})
    write_shard(store, "runs/a/refine/00000", *samples(seed=0))
    s3.kill()
    try:
        with pytest.raises(StoreError, match="no answer for 1 s"):
            write_shard(store, "runs/a/refine/00001", *samples(seed=1))
    finally:
        s3.start()
    assert [name for name in store.list("runs/a/refine") if name.endswith(".json")] == [
        "00000.json"
    ]
    read_shard(store, "runs/a/refine/00000")
    write_shard(store, "runs/a/refine/00001", *samples(seed=1))


def test_a_whole_object_is_one_request(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store, asked = Store.open(bucket.url, bucket.options), list[str]()
    store.write_bytes("a.json", b"{}")
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: s3fs.S3FileSystem, method: str, *given: Any, **named: Any) -> Any:
        asked.append(method)
        return await call(self, method, *given, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    assert store.read_bytes("a.json") == b"{}"
    assert asked == ["get_object"]


def test_options_that_s3_does_not_know_are_named(bucket: Bucket) -> None:
    store = Store.open(bucket.url, {**bucket.options, "client_kwargs": {"colour": "blue"}})
    with pytest.raises(StoreError, match=r"colour.*check the store's url and options"):
        store.probe()


def test_any_file_system_of_fsspec_will_do(samples: Samples, tmp_path: Path) -> None:
    store = Store.open("memory://segmint")
    store.probe()
    arrays, table = samples()
    write_shard(store, "runs/a/refine/00000", arrays, table)
    found, _ = read_shard(store, "runs/a/refine/00000")
    assert (found["label"] == arrays["label"]).all()
