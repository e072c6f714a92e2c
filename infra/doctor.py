"""Doctor: checks what a run needs before it starts, with a remedy for everything that is wrong."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infra.access import ACCESS_REMEDY, access
from infra.credentials import public, scrub
from infra.kubernetes import require_dask_kubernetes
from infra.machine import free_space
from infra.settings import Settings
from infra.version import DISTRIBUTION

__all__ = ["Check", "Probe", "check_of", "diagnose"]

API_SECONDS = 5.0  # timeout of Prefect's server and Dask's scheduler
DASK_PORT = 8786  # Dask's own default
STORE_SECONDS = 10.0  # how long a bucket's endpoint may be unreachable; a run waits longer
ROOM = 1 << 30  # bytes that must be free if nothing is known about the run
Probe = tuple[str, Callable[[], str], str]  # name, function that returns a finding, remedy


@dataclass(frozen=True)
class Check:
    """One finding: what was checked, whether it is fine, what was found, and the remedy if not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def diagnose(
    settings: Settings, *, open_generator: Callable[[], str], needed_bytes: int = ROOM
) -> list[Check]:
    """Check everything that a run with `settings` uses. Never raises: a failure is a `Check`.

    `open_generator` opens the pipeline directory and returns what it found. `needed_bytes` is what
    the run will write.
    """
    probes = [
        *_machine_probes(settings, open_generator, needed_bytes),
        *_service_probes(settings),
    ]
    return [*_versions(), *(check_of(*probe) for probe in probes)]


def _machine_probes(
    settings: Settings, open_generator: Callable[[], str], needed_bytes: int
) -> list[Probe]:
    device = settings.generator.device
    url = settings.store.url
    return [
        ("device", lambda: _device(device), "set generator.device to auto or cpu"),
        (
            "vocabulary",
            lambda: _vocabulary(settings),
            "set vocabulary and classes to existing names",
        ),
        (
            "generator",
            open_generator,
            "set generator.path to 'embedded', a complete diffusers pipeline directory, or "
            "semflow:CHECKPOINT",
        ),
        (
            "store",
            lambda: _store(settings),
            "set store.url to a folder or bucket with write access",
        ),
        (
            "free space",
            lambda: _space(url, needed_bytes),
            "free some space, or set store.url to another disk",
        ),
    ]


def _service_probes(settings: Settings) -> Iterator[Probe]:
    compute = settings.compute
    yield (
        "compute",
        lambda: _compute(compute.runner, compute.workers),
        "start that Dask scheduler, or set compute.runner",
    )
    yield (
        "prefect",
        _prefect,
        "start `prefect server start`, or unset PREFECT_API_URL to run in-process",
    )
    yield ("access", access, ACCESS_REMEDY)
    yield ("fleet", lambda: _fleet(settings), "run the command that each of these names")
    if compute.runner == "dask-kubernetes":
        yield (
            "kubernetes",
            lambda: _kubernetes(compute.kubernetes.namespace),
            "pip install 'segmint[kubernetes]', set KUBECONFIG or run in the cluster, "
            "install the Dask operator",
        )


def check_of(name: str, probe: Callable[[], str], remedy: str) -> Check:
    """Return what a probe finds; an exception that it raises is what is wrong."""
    try:
        return Check(name, True, probe())
    except Exception as error:  # every failure is a finding
        return Check(name, False, scrub(str(error) or type(error).__name__), remedy)


def _versions(distribution: str = DISTRIBUTION) -> Iterator[Check]:
    """Yield checks of Python and all required packages against the installed metadata."""
    wanted = SpecifierSet(importlib.metadata.metadata(distribution)["Requires-Python"] or "")
    found = platform.python_version()
    yield Check(
        "python",
        found in wanted,
        f"{found}, needs {wanted}",
        "create the virtual environment with such a Python",
    )
    wrong = [
        problem
        for line in importlib.metadata.requires(distribution) or ()
        if (problem := _package(line))
    ]
    for requirement, finding in wrong:
        yield Check(requirement, False, finding, f"pip install '{requirement}'")
    if not wrong:
        version = importlib.metadata.version(distribution)
        yield Check("packages", True, f"all as {distribution} {version} needs them")


def _package(line: str) -> tuple[str, str] | None:
    """Return a requirement and what is wrong with it; None if it is met or part of an extra."""
    requirement = Requirement(line)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return wanted, "not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return wanted, f"{found} is installed"


def _device(wanted: str) -> str:
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if wanted.startswith("cuda") and int(wanted.partition(":")[2] or 0) >= len(cuda):
        raise RuntimeError(
            f"generator.device is {wanted!r}, but torch {torch.__version__} finds {len(cuda)} CUDA "
            "devices"
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("generator.device is 'mps', but this machine has none")
    found = ", ".join(cuda) or f"CPU, {torch.get_num_threads()} threads"
    return f"{found} (torch {torch.__version__})"


def _vocabulary(settings: Settings) -> str:
    vocabulary = settings.load_vocabulary()
    classes = len(vocabulary.classes)
    return f"{vocabulary.name}: {classes} classes, {len(vocabulary.backgrounds)} backgrounds"


def _store(settings: Settings) -> str:
    from infra.blocks import open_store

    patience = {} if "://" not in settings.store.url else {"retry_seconds": STORE_SECONDS}
    hurried = settings.store.model_copy(update={"options": patience | settings.store.options})
    store = open_store(hurried)
    store.probe()
    return f"{public(store.url)}: written, read and deleted"


def _space(url: str, needed: int) -> str:
    if (found := free_space(url)) is None:
        return "a bucket; its limits are unknown"
    free, folder = found
    if free < needed:
        raise RuntimeError(f"{free / 1e9:.1f} GB free at {folder}, {needed / 1e9:.1f} GB needed")
    return f"{free / 1e9:.1f} GB free at {folder}, {needed / 1e9:.1f} GB needed"


def _prefect() -> str:
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        return "no server set: runs happen in-process"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=API_SECONDS) as answer:
            return f"{public(url)} answers {answer.status}"
    except OSError as error:
        raise RuntimeError(f"{url} does not answer: {error}") from error


def _fleet(settings: Settings) -> str:
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return "no server set: nothing is scheduled"
    from infra.fleet import missing

    if lacking := list(missing(settings)):
        raise RuntimeError("; ".join(lacking))
    return "work pool, worker, limits, blocks, automations and deployments exist"


def _compute(runner: str, workers: int) -> str:
    if not runner.startswith("dask://"):
        return f"{runner}, {workers} workers"
    scheduler = urllib.parse.urlsplit(runner)
    address = (scheduler.hostname, scheduler.port or DASK_PORT)
    try:
        socket.create_connection(address, API_SECONDS).close()
    except OSError as error:
        raise RuntimeError(f"{runner} does not answer: {error}") from error
    return f"{runner} answers"


def _kubernetes(namespace: str) -> str:
    """List the Dask clusters, which needs the package, access, the operator and permission."""
    require_dask_kubernetes()
    import kr8s

    try:
        clusters = list(kr8s.get("daskclusters.kubernetes.dask.org", namespace=namespace))
    except Exception as error:
        raise RuntimeError(
            f"cannot list the Dask clusters of namespace {namespace}: {error}"
        ) from error
    return f"{len(clusters)} Dask clusters in namespace {namespace}"
