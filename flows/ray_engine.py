"""Pieces of work on a Ray cluster that is there already, by prefect-ray's task runner.

Ray gives a piece whose process or machine dies to another one, and Prefect's task engine runs on
the cluster too: it reports from there. graft starts no cluster and sends no usage figures.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture

from flows.engines import Do, Engine
from flows.ray_nodes import nodes_checked
from flows.ray_worker import Away, Told
from tasks.errors import ConfigError, ResourceError
from tasks.runnerconfig import RunnerConfig

ADDRESS = "RAY_ADDRESS"
KNOCK_SECONDS = 5.0
LONGEST = 200  # characters of what Ray tells
SETTINGS_FRAME = b"\x04"  # the kind of the frame that begins HTTP/2 (RFC 9113, 3.4)
CLOSING_SECONDS = 30.0  # that ended work has to close its runs
log = logging.getLogger(__name__)

TRIES = 3  # further ones for work whose process or machine was lost
# read when ray is imported
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run graft` would upload this folder
    "RAY_COLOR_PREFIX": "0",
    "RAY_task_oom_retries": str(TRIES),  # Ray's own is to try for ever
    # what answers at the address may be no Ray: give up in 15 s, not in minutes
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
    "RAY_py_gcs_connect_timeout_s": "10",
}


@contextmanager
def open_ray(runner: RunnerConfig, folders: Sequence[Path], tracked: bool) -> Iterator[Engine]:
    """Give the engine of a cluster, all of whose machines have been looked at.

    Raises ``ConfigError`` where ray is not installed, no cluster is named or its machines do not
    suit, ``ResourceError`` within half a minute where it does not answer.
    """
    _settle()
    address = _address(runner)
    try:
        import ray  # noqa: F401 - prefect-ray imports without it
        from prefect_ray.context import remote_options
        from prefect_ray.task_runners import RayTaskRunner
    except ImportError as error:
        raise ConfigError(
            f"runner.kind=ray needs Ray: {error}.\nType pip install 'graft[ray]' on every machine."
        ) from error
    options: dict[str, Any] = {
        "num_cpus": runner.cpus,
        "num_gpus": runner.gpus,
        "max_retries": TRIES,
        "scheduling_strategy": "SPREAD",
    }
    with (
        redirect_stdout(_News()),
        _connected(address),
        nodes_checked(runner, folders, tracked) as terms,
        RayTaskRunner(address) as tasks,
        remote_options(**options),
    ):
        engine = OnRay(tasks, Away(terms))
        try:
            yield engine
        except BaseException:
            engine.stop()
            raise


class OnRay(Engine):
    """Does the work in processes of the cluster."""

    def __init__(self, tasks: Any, away: Away) -> None:  # noqa: ANN401 - a RayTaskRunner
        self._tasks = tasks
        self._away = away
        self._open: set[PrefectFuture[Any]] = set()

    def submit(self, task: Task[..., Any], do: Do, given: Any) -> PrefectFuture[Any]:  # noqa: ANN401
        """Begin it on a machine that has what it reserves, as soon as there is one."""
        parameters = {"work": given, "do": self._away.doing(do)}
        future: PrefectFuture[Any] = self._tasks.submit(task, parameters)
        self._open.add(future)
        return future

    def outcome(self, future: PrefectFuture[Any]) -> Any:  # noqa: ANN401
        """Wait, as any engine; what was lost again and again is a ``ResourceError``."""
        from ray import exceptions as of_ray

        came = super().outcome(future)
        self._open.discard(future)
        if isinstance(came, Told):
            came.say()
            return came.result
        lost = (
            of_ray.WorkerCrashedError,
            of_ray.NodeDiedError,
            of_ray.LocalRayletDiedError,
            of_ray.OutOfMemoryError,
            of_ray.ObjectLostError,
        )
        if not isinstance(came, lost):
            return came
        _report(future)
        error = ResourceError(
            f"Its process or machine was lost at each of {TRIES + 1} tries: out of memory?\n"
            "See Ray's logs on the machines; reserve more by runner.cpus, or give it less to do."
        )
        error.__cause__ = came
        return error

    def stop(self) -> None:
        """End what is not finished, which closes its runs in MLflow first."""
        import ray

        refs = [future.wrapped_future for future in self._open]  # type: ignore[attr-defined]
        for ref in refs:
            ray.cancel(ref)
        left = ray.wait(refs, num_returns=len(refs), timeout=CLOSING_SECONDS)[1] if refs else []
        for ref in left:
            ray.cancel(ref, force=True)


def _settle() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def _address(runner: RunnerConfig) -> str:
    """Return host:port: without one Ray would start a cluster of its own."""
    address = runner.address or os.environ.get(ADDRESS)
    if not address:
        raise ConfigError(
            f"runner.kind=ray names no cluster.\nSet runner.address=HOST:PORT, or {ADDRESS}."
        )
    if re.fullmatch(r"[^/\s:]+:\d{1,5}", address) is None:
        raise ConfigError(
            f"{address!r} is no address of a Ray cluster for graft.\n"
            "Start graft on one of its machines, with runner.address=HOST:PORT of its head."
        )
    return address


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Be connected to the cluster, as this process may be already.

    SIGTERM stays what it was, which Ray would change.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    host, _, port = address.rpartition(":")
    away = f"No Ray cluster answers at {address}"
    advice = "Start it, or correct runner.address; graft must run on one of its machines."
    try:
        answer = _knock(host, int(port))
    except (OSError, OverflowError) as error:
        raise ResourceError(f"{away}: {error}.\n{advice}") from error
    if not answer.startswith(SETTINGS_FRAME):
        raise ResourceError(f"{away}: its server speaks no gRPC.\n{advice}")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, namespace="graft", log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # ConnectionError, RuntimeError and others, by Ray's own account
        words = " ".join(str(error).split())[:200]
        raise ResourceError(f"{away} as it should: {words}\n{advice}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()


class _News(io.TextIOBase):
    """Standard output while Ray is there: what it prints on it goes to the log, much shortened."""

    def write(self, text: str) -> int:
        """Say the first sentence of what it has to tell of its machines."""
        words = text.strip()
        if words:
            log.warning("%s", words.partition(". ")[0][:LONGEST], extra={"room": "ray"})
        return len(text)


def _knock(host: str, port: int) -> bytes:
    """Greet by HTTP/2, as gRPC does, and return the first answer: Ray itself would wait long."""
    with socket.create_connection((host, port), KNOCK_SECONDS) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        answer = b""
        while len(answer) < 4 and (piece := line.recv(9)):
            answer += piece
    return answer[3:4]


def _report(future: PrefectFuture[Any]) -> None:
    """Tell Prefect of a task run that ended along with its process, which could not."""
    with suppress(Exception), get_client(sync_client=True) as client:
        client.set_task_run_state(future.task_run_id, future.state, force=True)
