"""What of docs/security.md this installation keeps, for `segmint doctor --security`."""

from __future__ import annotations

import os
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from prefect.settings import PREFECT_API_URL, PREFECT_PROFILES_PATH

from infra.access import ACCESS_REMEDY, access
from infra.credentials import public
from infra.doctor import Check, Probe, check_of
from infra.hidden import reveal
from infra.memory import memory_limit
from infra.settings import Settings
from infra.sources import ALLOWED
from infra.store.url import endpoint_of

__all__ = ["security_checks"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def security_checks(settings: Settings) -> list[Check]:
    """Check who may reach what. Never raises: what is not kept is a `Check` with a remedy."""
    return [check_of(*probe) for probe in _probes(settings)]


def _probes(settings: Settings) -> Iterator[Probe]:
    yield ("access", access, ACCESS_REMEDY)
    yield (
        "server's address",
        lambda: _private("PREFECT_API_URL", PREFECT_API_URL.value()),
        "put the server behind https, or reach it through a tunnel",
    )
    yield (
        "bucket's address",
        lambda: _private(
            "the bucket's endpoint", endpoint_of(reveal(settings.store.options)) or ""
        ),
        "give AWS_ENDPOINT_URL with https",
    )
    yield (
        "dask",
        lambda: _dask(settings.compute.runner),
        "use dask-local, or tls:// with certificates (infra/compose), or network policies",
    )
    yield ("places", _places, f"list folders and buckets in {ALLOWED}, not all of them")
    yield ("user", _user, "start segmint as a user of its own, as infra/systemd does")
    yield ("secret files", _secret_files, "chmod 600 these files")
    yield ("store", lambda: _store(settings.store.url), "chmod o-w the store's folder")
    yield ("memory", _memory, "give the worker a memory limit: a container's, or MemoryMax")


def _private(what: str, url: str | None) -> str:
    """Say that a URL is not read by others on the way. Raises `RuntimeError` if it may be."""
    if not url:
        return "none set"
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise RuntimeError(f"{what} is {public(url)}: passwords and data travel in clear")
    return public(url)


def _dask(runner: str) -> str:
    if runner == "threads":
        return "not used"
    if runner == "dask-local":
        return "certificates of its own for each run"
    import dask

    scheme = runner.partition("://")[0]
    if scheme == "dask":
        scheme = dask.config.get("distributed.comm.default-scheme", "tcp")
    if scheme != "tls":
        raise RuntimeError(f"{runner} talks in clear: whoever reaches it runs code on its workers")
    return "TLS with certificates"


def _places() -> str:
    entries = [entry.strip() for entry in os.environ.get(ALLOWED, "").split(",") if entry.strip()]
    if wide := [entry for entry in entries if not entry.rpartition("://")[2].strip("/")]:
        raise RuntimeError(f"parameters of runs may name everything in {', '.join(wide)}")
    return f"the worker's own, and {', '.join(entries)}" if entries else "the worker's own"


def _user() -> str:
    if os.geteuid() == 0:
        raise RuntimeError("this is root: a run that is broken into owns the machine")
    return f"user {os.geteuid()}"


def _secret_files() -> str:
    found = [PREFECT_PROFILES_PATH.value(), Path(".env"), Path("~/.aws/credentials").expanduser()]
    found += [Path(name) for name in (os.environ.get("AWS_SHARED_CREDENTIALS_FILE"),) if name]
    there = [path for path in found if path.is_file()]
    others = stat.S_IRWXG | stat.S_IRWXO
    if shown := [str(path) for path in there if path.stat().st_mode & others]:
        raise RuntimeError(f"others may read {', '.join(shown)}")
    return ", ".join(map(str, there)) or "none found"


def _store(url: str) -> str:
    if "://" in url:
        return "a bucket: its policy says who may write"
    folder = Path(url)
    if folder.exists() and folder.stat().st_mode & stat.S_IWOTH:
        raise RuntimeError(f"everybody on this machine may write into {folder}")
    return f"{folder}: others cannot write"


def _memory() -> str:
    if (limit := memory_limit()) is None:
        raise RuntimeError("no limit: one hostile file can take all memory of the machine")
    return f"at most {limit / 1e9:.1f} GB"
