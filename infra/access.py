"""Who may use a Prefect server. Whoever may, can run code on its workers: that is its purpose."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from prefect.settings import PREFECT_API_URL

from infra.settings import SettingsError

__all__ = ["ACCESS_REMEDY", "access", "open_doors", "require_password"]

SECONDS = 30.0  # timeout of a busy server
ACCESS_REMEDY = (
    "for the server, set PREFECT_SERVER_API_AUTH_STRING=admin:PASSWORD and "
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS to its own address, such as http://127.0.0.1:4200; "
    "for workers and commands, set PREFECT_API_AUTH_STRING=admin:PASSWORD"
)
_NO_PASSWORD = "it has no password, so whoever reaches it can run code on its workers"
_FOREIGN = "https://elsewhere.invalid"  # RFC 2606: nobody can own this origin


def open_doors(api: str) -> Iterator[str]:
    """Yield what lets strangers use the server with the API at this URL. Raises `httpx.HTTPError`.

    It asks as a stranger would: without a password, and as a page of another origin.
    """
    answer = _ask(api)
    if answer.is_success:
        yield _NO_PASSWORD
    if answer.headers.get("access-control-allow-origin") in ("*", _FOREIGN):
        yield "it answers the pages of every origin, in any browser that reaches it"


def access() -> str:
    """Say that strangers cannot use the server that is set. Raises `RuntimeError` if they can."""
    url = PREFECT_API_URL.value()
    if not url:
        return "no server set: a command's own has a password"
    try:
        doors = list(open_doors(url))
    except httpx.HTTPError as error:
        raise RuntimeError(f"{url} does not answer: {error}") from error
    if doors:
        raise RuntimeError(f"{url}: {'; '.join(doors)}")
    return "it has a password, and pages of other origins cannot use it"


def require_password(api: str) -> None:
    """Raise `SettingsError` if the server with the API at this URL has no password."""
    if _ask(api).is_success:
        raise SettingsError(
            f"the Prefect server: {_NO_PASSWORD}; {ACCESS_REMEDY}; or accept this with "
            "--without-password"
        )


def _ask(api: str) -> httpx.Response:
    url = f"{api.rstrip('/')}/admin/version"
    # No secret is sent, so a certificate of the team's own authority needs no check here.
    return httpx.get(url, headers={"Origin": _FOREIGN}, timeout=SECONDS, verify=False)
