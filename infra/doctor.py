"""Doctor: what a run needs of this machine, each checked before it matters, with the remedy for
whatever is wrong.
"""

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

from infra.credentials import public
from infra.kubernetes import require_dask_kubernetes
from infra.machine import free_space
from infra.settings import Settings

__all__ = ["Check", "diagnose"]

DISTRIBUTION = "segmint"
API_SECONDS = 5.0  # how long Prefect's server or Dask's scheduler may take to answer
DASK_PORT = 8786  # Dask's own default
STORE_SECONDS = 10.0  # how long a bucket's endpoint may stay away; a run is more patient
ROOM = 1 << 30  # bytes to be free where nothing is known of the run


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it is well, what was found, and what to do if not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def diagnose(
    settings: Settings, *, open_generator: Callable[[], str], needed_bytes: int = ROOM
) -> list[Check]:
    """Check everything that `settings` will use; nothing is raised, a failure is a check that is
    not ok.

    `open_generator` opens the pipeline directory and says what it found; `needed_bytes` is what a
    run will write.
    """
    probes: list[tuple[str, Callable[[], str], str]] = [
        (
            "device",
            lambda: _device(settings.generator.device),
            "set generator.device to auto or cpu",
        ),
        (
            "vocabulary",
            lambda: _vocabulary(settings),
            "set vocabulary and classes to what there is",
        ),
        (
            "generator",
            open_generator,
            "set generator.path to 'embedded' or a whole diffusers pipeline directory",
        ),
        (
            "store",
            lambda: _store(settings),
            "set store.url to a folder or bucket that you may write to",
        ),
        (
            "free space",
            lambda: _space(settings.store.url, needed_bytes),
            "free some, or set store.url to another disk",
        ),
        (
            "compute",
            lambda: _compute(settings.compute.runner, settings.compute.workers),
            "start that Dask scheduler",
        ),
        (
            "prefect",
            _prefect,
            "start `prefect server start`, or unset PREFECT_API_URL to run in-process",
        ),
        ("fleet", lambda: _fleet(settings), "run what each of these names"),
    ]
    if settings.compute.runner == "dask-kubernetes":
        remedy = "pip install 'segmint[kubernetes]', set KUBECONFIG or run in the cluster, install the Dask operator"
        probes.append(
            ("kubernetes", lambda: _kubernetes(settings.compute.kubernetes.namespace), remedy)
        )
    return [*_versions(), *(_check(*probe) for probe in probes)]


def _check(name: str, probe: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, True, probe())
    except Exception as error:  # whatever is wrong is the finding
        return Check(name, False, str(public(str(error) or type(error).__name__)), remedy)


def _versions(distribution: str = DISTRIBUTION) -> Iterator[Check]:
    """Python and every required package against the bounds of pyproject.toml, as they were
    installed with it.
    """
    wanted = SpecifierSet(importlib.metadata.metadata(distribution)["Requires-Python"] or "")
    found = platform.python_version()
    yield Check(
        "python",
        found in wanted,
        f"{found}, needs {wanted}",
        "make the virtual environment with another Python",
    )
    wrong = [
        problem
        for line in importlib.metadata.requires(distribution) or ()
        if (problem := _package(line))
    ]
    for requirement, finding in wrong:
        yield Check(requirement, False, finding, f"pip install '{requirement}'")
    if not wrong:
        yield Check(
            "packages",
            True,
            f"all as {distribution} {importlib.metadata.version(distribution)} needs them",
        )


def _package(line: str) -> tuple[str, str] | None:
    """The requirement and what is wrong with it; None if it is met or belongs to an extra."""
    requirement = Requirement(line)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return wanted, "not installed"
    return (
        None
        if requirement.specifier.contains(found, prereleases=True)
        else (wanted, f"{found} is installed")
    )


def _device(wanted: str) -> str:
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if wanted.startswith("cuda") and int(wanted.partition(":")[2] or 0) >= len(cuda):
        raise RuntimeError(
            f"generator.device is {wanted!r}; torch {torch.__version__} sees {len(cuda)} CUDA devices"
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError("generator.device is 'mps'; this machine has none")
    return f"{', '.join(cuda) or f'CPU, {torch.get_num_threads()} threads'} (torch {torch.__version__})"


def _vocabulary(settings: Settings) -> str:
    vocabulary = settings.load_vocabulary()
    return f"{vocabulary.name}: {len(vocabulary.classes)} classes, {len(vocabulary.backgrounds)} backgrounds"


def _store(settings: Settings) -> str:
    from infra.blocks import open_store

    patience = {} if "://" not in settings.store.url else {"retry_seconds": STORE_SECONDS}
    hurried = settings.store.model_copy(update={"options": patience | settings.store.options})
    store = open_store(hurried)
    store.probe()
    return f"{public(store.url)}: written, read and deleted"


def _space(url: str, needed: int) -> str:
    if (found := free_space(url)) is None:
        return "in a bucket, unlimited as far as can be seen"
    free, folder = found
    if free < needed:
        raise RuntimeError(f"{free / 1e9:.1f} GB free at {folder}, {needed / 1e9:.1f} GB needed")
    return f"{free / 1e9:.1f} GB free at {folder}, {needed / 1e9:.1f} GB needed"


def _prefect() -> str:
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        return "no server set: runs in-process"
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
    return "work pool, worker, limits, blocks, automations and deployments are there"


def _compute(runner: str, workers: int) -> str:
    if not runner.startswith("dask://"):
        return f"{runner}, {workers} workers"
    place = urllib.parse.urlsplit(runner)
    try:
        socket.create_connection((place.hostname, place.port or DASK_PORT), API_SECONDS).close()
    except OSError as error:
        raise RuntimeError(f"{runner} does not answer: {error}") from error
    return f"{runner} answers"


def _kubernetes(namespace: str) -> str:
    """Asks for the Dask clusters there are: that takes the package, a way in, the operator's
    resource and the right.
    """
    require_dask_kubernetes()
    import kr8s

    try:
        clusters = list(kr8s.get("daskclusters.kubernetes.dask.org", namespace=namespace))
    except Exception as error:
        raise RuntimeError(
            f"cannot list the Dask clusters of namespace {namespace}: {error}"
        ) from error
    return f"{len(clusters)} Dask clusters in namespace {namespace}"
