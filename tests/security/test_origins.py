"""Pages of other origins, and users of the machine without the password, use no Prefect server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    temporary_settings,
)

from infra.access import access, open_doors, require_password
from infra.local_server import prefect_api
from infra.settings import SettingsError
from testbed.browser import browser
from testbed.fleet import Prefect
from testbed.processes import wait_until
from testbed.strangers import stranger

pytestmark = pytest.mark.server

PASSWORD = "admin:not telling"
FLUSH_SECONDS = "0.2"  # between two writes of events; Prefect's default is 5
SECONDS = 60.0  # for an event to be written, on a busy machine
# What a page can do without its reader's help. `no-cors` with an untyped body asks no permission
# first, and browsers ask none for a socket.
ATTACKS = {
    "flow": """([api, name]) => fetch(`${api}/flows/`, {
        method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({name})
    })""",
    "flow without asking": """([api, name]) => fetch(`${api}/flows/`, {
        method: 'POST', mode: 'no-cors', body: new Blob([JSON.stringify({name})])
    })""",
    "event by socket": """([api, name]) => new Promise((resolve, reject) => {
        const socket = new WebSocket(`${api.replace('http', 'ws')}/events/in`)
        socket.onerror = reject
        socket.onclose = resolve
        socket.onopen = () => {
            socket.send(JSON.stringify({
                id: crypto.randomUUID(), occurred: new Date().toISOString(), event: name,
                resource: {'prefect.resource.id': 'segmint.dataset.night'}, payload: {},
            }))
            setTimeout(() => socket.close(), 1000)
        }
    })""",
}


def server(root: Path, **also: str) -> Prefect:
    """Return a server on SQLite, which is enough for a few requests."""
    database: Any = SimpleNamespace(url=f"sqlite+aiosqlite:///{root}/prefect.db")
    soon = {"PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": FLUSH_SECONDS}
    return Prefect(root, database, also | soon)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server as Prefect starts it."""
    found = server(tmp_path_factory.mktemp("opened"))
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server with the variables that the README sets."""
    found = server(
        tmp_path_factory.mktemp("closed"),
        PREFECT_SERVER_API_AUTH_STRING=PASSWORD,
        PREFECT_API_AUTH_STRING=PASSWORD,
    )
    origin = found.url.removesuffix("/api")
    found.environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = origin
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page in a browser of the machine on which the servers run."""
    with stranger() as (origin, _), browser() as page:
        page.goto(origin)
        yield page


def attack(page: Page, kind: str, api: str) -> str:
    """Let the page attack a server; return the name of the flow or event that it tries to make."""
    name = f"theirs.{uuid.uuid4()}"
    with_errors = f"async given => {{ try {{ await ({ATTACKS[kind]})(given) }} catch {{}} }}"
    page.evaluate(with_errors, [api, name])
    return name


def succeeded(api: str, name: str) -> bool:
    """Return whether a flow or an event of this name is on the server."""
    flows = ask(api, "flows/filter", {"flows": {"name": {"any_": [name]}}})
    events = ask(api, "events/filter", {"filter": {"event": {"name": [name]}}})
    return bool(flows or events["events"])


def ask(api: str, path: str, given: dict[str, Any]) -> Any:
    user, _, password = PASSWORD.partition(":")
    answer = httpx.post(f"{api}/{path}", json=given, auth=(user, password), timeout=60)
    return answer.raise_for_status().json()


@pytest.mark.browser
@pytest.mark.parametrize("kind", ATTACKS)
def test_a_page_of_another_origin_changes_nothing(
    kind: str, page: Page, opened: Prefect, closed: Prefect
) -> None:
    """On a server as Prefect starts it, each of them succeeds.

    Servers write events after a while. The closed one is attacked first, so it has more time.
    """
    refused = attack(page, kind, closed.url)
    made = attack(page, kind, opened.url)
    assert wait_until(lambda: succeeded(opened.url, made), SECONDS)
    assert not succeeded(closed.url, refused)


def test_another_origin_is_not_permitted_what_the_pages_of_the_server_are(closed: Prefect) -> None:
    own = closed.url.removesuffix("/api")
    asked = {"Access-Control-Request-Method": "POST"}
    permitted = {
        origin: httpx.options(f"{closed.url}/flows/", headers={**asked, "Origin": origin})
        for origin in (own, "https://elsewhere.example", "null", own.replace("127.0.0.1", "evil"))
    }
    headers = {o: a.headers.get("access-control-allow-origin") for o, a in permitted.items()}
    assert headers == {origin: own if origin == own else None for origin in permitted}


def test_setup_and_doctor_name_what_is_open(closed: Prefect, opened: Prefect) -> None:
    assert list(open_doors(closed.url)) == []
    require_password(closed.url)
    with temporary_settings({PREFECT_API_URL: closed.url}):
        assert "has a password" in access()
    with pytest.raises(SettingsError, match=r"AUTH_STRING=admin:PASSWORD.*--without-password"):
        require_password(opened.url)
    with temporary_settings({PREFECT_API_URL: opened.url}), pytest.raises(RuntimeError) as found:
        access()
    assert "no password" in str(found.value) and "pages of every origin" in str(found.value)
    with stranger() as (origin, _):  # a password alone
        (door,) = open_doors(f"{origin}/api")
    assert "pages of every origin" in door


def test_setup_refuses_a_server_without_a_password(opened: Prefect) -> None:
    with pytest.raises(AssertionError, match="it has no password"):
        opened.command("segmint", "setup")


def test_the_server_of_a_command_answers_its_own_processes_alone(tmp_path: Path) -> None:
    # the flows' tests leave their server's URL and database in the settings of the process
    left = {PREFECT_API_URL, PREFECT_API_AUTH_STRING, PREFECT_API_DATABASE_CONNECTION_URL}
    with temporary_settings({PREFECT_HOME: tmp_path / "prefect"}, restore_defaults=left):
        before = os.environ.get("PREFECT_API_AUTH_STRING")
        with prefect_api():
            url = str(PREFECT_API_URL.value())
            assert list(open_doors(url)) == []
            assert httpx.post(f"{url}/flows/", json={"name": "theirs"}).status_code == 401
            assert os.environ["PREFECT_API_AUTH_STRING"] == PREFECT_API_AUTH_STRING.value()
            with get_client(sync_client=True) as client:
                assert client.read_flows() == []
        assert os.environ.get("PREFECT_API_AUTH_STRING") == before
