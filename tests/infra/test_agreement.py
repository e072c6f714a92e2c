"""Agreement of publishers: one of the proposals wins for ever, and every publisher gets it."""

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from infra.store import Store, StoreError
from infra.store.agreement import agree

RIVALS = 6


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_one_alone_is_agreed_with_and_stays(any_store: Store) -> None:
    assert agree(any_store, "publications/1", b"first") == b"first"
    assert agree(any_store, "publications/1", b"second") == b"first"
    assert agree(any_store, "publications/2", b"second") == b"second"


@pytest.mark.usefixtures("switching")
def test_all_rivals_and_latecomers_get_the_same_proposal(store: Store) -> None:
    start = Barrier(RIVALS)
    with ThreadPoolExecutor(RIVALS) as pool:
        for attempt in range(50):

            def propose(rival: int, folder: str = f"publications/{attempt}") -> bytes:
                start.wait()
                return agree(store, folder, b"%d" % rival)

            told = set(pool.map(propose, range(RIVALS)))
            assert len(told) == 1
            assert agree(store, f"publications/{attempt}", b"late") in told


@pytest.mark.parametrize("said", [[], ["proposed"], ["proposed", "open"], ["proposed", "agreed"]])
def test_a_killed_publisher_blocks_no_other(store: Store, said: list[str]) -> None:
    value = hashlib.sha256(b"killed").hexdigest()
    store.write_bytes(f"publications/1/{value}", b"killed")
    for word in said:
        store.write_bytes(f"publications/1/000.{word}.{value}.0", b"")
    told = agree(store, "publications/1", b"living")
    assert told in (b"killed", b"living")
    assert agree(store, "publications/1", b"killed") == told
    if "agreed" in said:  # a process that voted so may have returned it
        assert told == b"killed"


def test_a_proposal_that_changed_is_named(store: Store) -> None:
    agree(store, "publications/1", b"first")
    store.write_bytes(f"publications/1/{hashlib.sha256(b'first').hexdigest()}", b"other")
    with pytest.raises(StoreError, match=r"publications/1/\w+ is not what was proposed"):
        agree(store, "publications/1", b"second")


def test_a_store_that_does_not_list_what_it_holds_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.store.agreement.LISTED_SECONDS", 0.0)
    monkeypatch.setattr(Store, "list", lambda self, path: [])
    with pytest.raises(
        StoreError,
        match=r"publications/1 does not list 000\.proposed.* nothing can be agreed on there",
    ):
        agree(store, "publications/1", b"first")
