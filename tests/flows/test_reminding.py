"""A publication's event may be lost with the server, so the next run re-emits it, until the version
was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from infra.events import PUBLISHED
from testbed import nights


@pytest.fixture
def published() -> Iterator[Callable[[], list[str]]]:
    """Returns the versions of the events since the last call, in order."""

    def emitted() -> list[str]:
        EventsWorker.instance().wait_until_empty()
        events = [event for client in AssertingEventsClient.all for event in client.pop_events()]
        return [event.payload["version"] for event in events if event.event == PUBLISHED]

    EventsWorker.set_client_override(AssertingEventsClient)
    AssertingEventsClient.reset()
    yield emitted
    EventsWorker.drain_all()
    EventsWorker.set_client_override(None)
    AssertingEventsClient.reset()


def test_a_run_re_emits_the_last_publication_until_it_was_trained_on(
    tmp_path: Path, published: Callable[[], list[str]]
) -> None:
    first, second, third = (
        nights.settings(tmp_path, name=name) for name in ("first", "second", "third")
    )
    nights.run(first)
    assert published() == [nights.version(first)]
    nights.run(second)
    assert published() == [nights.version(first), nights.version(second)]
    nights.store_of(second).write_json("runs/second/training.json", {})
    nights.run(third)
    assert published() == [nights.version(third)]


def test_a_publication_of_other_classes_is_not_re_emitted(
    tmp_path: Path, published: Callable[[], list[str]]
) -> None:
    nights.run(nights.settings(tmp_path, name="first", classes=["car", "house"]))
    published()
    second = nights.settings(tmp_path, name="second", classes=["car", "house", "tree"])
    nights.run(second)
    assert published() == [nights.version(second)]
