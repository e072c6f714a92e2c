"""Runs with a bucket as their store, on a real S3 server that may fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from infra.settings import Settings
from infra.store import SegmentationDataset, StoreError, verify_version
from tasks.run.failures import NightFailedError
from tasks.run.progress import Event, listening
from tasks.run.verify import verify_stored_run
from testbed import nights
from testbed.swift import Bucket, Swift

Into = Callable[..., Settings]


@pytest.fixture
def into(bucket: Bucket, s3: Swift, monkeypatch: pytest.MonkeyPatch) -> Into:
    """Settings of the small run in a new bucket; the environment holds the credentials."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)

    def settings(retry_seconds: float = 60.0) -> Settings:
        return nights.settings(
            "", store={"url": f"{bucket.url}/team", "options": {"retry_seconds": retry_seconds}}
        )

    return settings


class _Once:
    """Calls `action` at the first progress of `stage`."""

    def __init__(self, stage: str, action: Callable[[], object]) -> None:
        self._stage = stage
        self._action = action
        self.happened = False

    def __call__(self, event: Event) -> None:
        if event.stage == self._stage and event.amount and not self.happened:
            self.happened = True
            self._action()


def assert_same(ours: Settings, theirs: Settings) -> None:
    expected = nights.samples(theirs)[0]
    found = nights.samples(ours)[0]
    assert found.keys() == expected.keys()
    for field, array in found.items():
        np.testing.assert_array_equal(array, expected[field], err_msg=field)


def test_a_run_in_a_bucket_can_be_read_back(into: Into, undisturbed: Settings) -> None:
    chosen = into()
    nights.run(chosen)
    store, version = nights.store_of(chosen), nights.version(undisturbed)
    assert verify_stored_run(store, "night") == verify_version(store, version) == []
    far, near = (
        SegmentationDataset(s.store.url, version, s.store.options) for s in (chosen, undisturbed)
    )
    assert len(far) == len(near) > 0
    for index in range(len(far)):
        a, b = far[index], near[index]
        assert a["id"] == b["id"]
        assert a["image"].equal(b["image"])
        assert a["label"].equal(b["label"])


def test_an_endpoint_that_is_down_is_an_error_before_anything_is_made(
    into: Into, s3: Swift
) -> None:
    worked: Counter[str] = Counter()
    s3.stop()
    try:
        with (
            listening(lambda event: worked.update({event.stage: event.amount})),
            pytest.raises(
                StoreError, match=r"no answer for 0.5 s .*bring the endpoint back and run again"
            ),
        ):
            nights.run(into(retry_seconds=0.5))
    finally:
        s3.start()
    assert not worked


def test_a_run_waits_for_an_endpoint_that_comes_back(
    into: Into, s3: Swift, undisturbed: Settings
) -> None:
    chosen = into()
    back = threading.Timer(1.0, s3.start)

    def fail() -> None:
        s3.kill()
        back.start()

    outage = _Once("refine", fail)
    with listening(outage):
        nights.run(chosen)
    back.join()
    assert outage.happened
    assert_same(chosen, undisturbed)


def test_a_run_stops_when_the_endpoint_stays_away_and_resumes_from_there(
    into: Into, s3: Swift, undisturbed: Settings
) -> None:
    chosen = into(retry_seconds=0.5)
    outage = _Once("refine", s3.kill)
    try:
        with (
            listening(outage),
            pytest.raises(NightFailedError, match=r"shard 00000: refine .*no answer for 0\.5 s"),
        ):
            nights.run(chosen)
    finally:
        s3.start()
    finished = {path for path in nights.finished(chosen) if "refine" not in path}
    assert finished == {f"runs/night/synthesize/{shard:05d}" for shard in range(4)}
    assert "synthesize" not in nights.run(into())
    assert_same(chosen, undisturbed)
