"""The Prefect API that flows of a command use: the user's server, or else one temporary server.

Prefect would start a temporary server in every process that has no PREFECT_API_URL, Dask's workers
included, and each would stay after a SIGKILL. `prefect_api` starts one, for this process and all
that it starts. `python -m infra.local_server SOCKET` is that server: it listens on an inherited
socket and exits as soon as its standard input closes, so it never outlives the process that
started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from infra.supervision import on_stop

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import State

__all__ = ["Api", "ServerStartError", "prefect_api"]

# A start takes 6 to 12 s on two idle cores, the first one of a user more, because it creates the
# database. It took over 300 s on two cores with a load of 27.
STARTUP_SECONDS = 900.0
SHUTDOWN_SECONDS = 5.0  # for the server to write the events that it has received
# As Prefect's own temporary server has them (prefect.server.api.server.SubprocessASGIServer); it
# serves no pages and sends no usage data.
_ENVIRONMENT = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


class ServerStartError(RuntimeError):
    """The temporary Prefect server did not start."""


class Api:
    """A Prefect API, which is told if the command is stopped."""

    def __init__(self, temporary: bool) -> None:
        self._runs: list[UUID] = []
        if not temporary:
            on_stop(self._cancel)

    def tracked(self, flow: Flow[Given, Returned]) -> Flow[Given, Returned]:
        """Return the flow; if the command is stopped, its runs are cancelled on the server."""

        def remember(flow: Flow[Given, Returned], flow_run: FlowRun, state: State[Any]) -> None:
            self._runs.append(flow_run.id)

        return flow.with_options(on_running=[*flow.on_running_hooks, remember])

    def _cancel(self) -> None:
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterId,
            FlowRunFilterParentFlowRunId,
        )
        from prefect.states import Cancelled

        stopped: State[Any] = Cancelled(message="The command was stopped; the same command continues it.")
        children = FlowRunFilterParentFlowRunId(any_=self._runs)
        with get_client(sync_client=True) as client:
            ours = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=self._runs))
            )
            parts = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(parent_flow_run_id=children)
            )
            for run in [*ours, *parts]:
                if run.state is None or not run.state.is_final():
                    client.set_flow_run_state(run.id, stopped, force=True)


@contextmanager
def prefect_api() -> Iterator[Api]:
    """Have a Prefect API for the flows of this block: the server that PREFECT_API_URL or a Prefect
    profile names, else a temporary one.

    Raises `ServerStartError`.
    """
    if PREFECT_API_URL.value():
        yield Api(temporary=False)
        return
    process, url = _start()
    os.environ["PREFECT_API_URL"] = url  # for processes that are started from here
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield Api(temporary=True)
    finally:
        del os.environ["PREFECT_API_URL"]
        _stop(process)


def _start() -> tuple[subprocess.Popen[bytes], str]:
    """Start a temporary server and wait until it answers; return it and the URL of its API."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.local_server", str(listening.fileno())],
            env={**os.environ, **settings, **_ENVIRONMENT},
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    try:
        httpx.get(f"{url}/health", timeout=STARTUP_SECONDS, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        process.kill()
        raise ServerStartError(
            f"the temporary Prefect server did not start ({type(error).__name__}, exit code "
            f"{process.wait()}); see what it printed, or set PREFECT_API_URL to your own server"
        ) from error
    return process, url


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(SHUTDOWN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin:
            process.stdin.close()


def _exit_with(wait: Callable[[], object]) -> None:
    wait()
    os._exit(0)


def _serve(listening: int) -> None:
    """Serve Prefect's API on an inherited socket until SIGTERM or until standard input closes."""
    import uvicorn

    Thread(target=_exit_with, args=(sys.stdin.buffer.read,), daemon=True).start()
    server = uvicorn.Server(
        uvicorn.Config(
            "prefect.server.api.server:create_app",
            factory=True,
            lifespan="on",
            log_level="error",
            timeout_graceful_shutdown=1,
        )
    )
    server.run(sockets=[socket.socket(fileno=listening)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
