"""The Prefect API that a command's flows use: the user's server, or else one temporary server.

Prefect itself starts a temporary server in every process that has no PREFECT_API_URL, including
each of Dask's workers, and that server survives a SIGKILL of its process. `prefect_api` starts one
server for this process and all of its children. `python -m infra.local_server SOCKET` is that
server. It listens on an inherited socket, and exits when its standard input closes, so it never
outlives the process that started it. It has a random password, which the children find in their
environment, because every user of the machine can connect to it.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Cancelled

from infra.supervision import on_stop

__all__ = ["Api", "ServerStartError", "prefect_api"]

# A start takes 6 to 12 s on two idle cores, the first one of a user more, because it creates the
# database. It took over 300 s on two cores with a load of 27.
STARTUP_SECONDS = 900.0
STOPPED = "The command was stopped; the same command continues it."
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
    """A Prefect API. If it is a user's server, it cancels the runs of a stopped command."""

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
        """Cancel what has not ended of the tracked runs and of the flows that they called."""
        tracked = FlowRunFilter(id=FlowRunFilterId(any_=self._runs))
        called = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=self._runs))
        with get_client(sync_client=True) as client:
            for chosen in (tracked, called):
                for run in client.read_flow_runs(flow_run_filter=chosen):
                    if run.state is None or not run.state.is_final():
                        client.set_flow_run_state(run.id, Cancelled(message=STOPPED), force=True)


@contextmanager
def prefect_api() -> Iterator[Api]:
    """Provide a Prefect API to the flows of this block.

    It is the server that PREFECT_API_URL or a Prefect profile names. Without one, a temporary
    server runs until the block ends. Raises `ServerStartError`.
    """
    if PREFECT_API_URL.value():
        yield Api(temporary=False)
        return
    password = f"segmint:{secrets.token_urlsafe()}"
    process, url = _start(password)
    own = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": password}
    before = {name: os.environ[name] for name in own if name in os.environ}
    os.environ.update(own)  # for the processes that this one starts
    try:
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password}):
            yield Api(temporary=True)
    finally:
        for name in own:
            del os.environ[name]
        os.environ.update(before)
        _stop(process)


def _start(password: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a temporary server and wait until it answers; return it and the URL of its API."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        closed = {
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.local_server", str(listening.fileno())],
            env={**os.environ, **settings, **_ENVIRONMENT, **closed},
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
    url = f"{address}/api"
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
