"""Whether the machines of a Ray cluster can do a command's work: looked at before any is begun."""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_URL

from flows.ray_worker import TOKEN, Terms, environment, fault, versions
from tasks.artifacts import write_atomic
from tasks.errors import ConfigError, ResourceError
from tasks.register.address import shown_address, tracking_uri
from tasks.register.client import connect
from tasks.runnerconfig import RunnerConfig
from tasks.use import in_use, sweep_mark

ANSWER_SECONDS = 180.0  # a machine's first process imports torch and MLflow, maybe from a network
LONGEST_SECONDS = 31 * 24 * 3600.0  # that a command works: a cell has 30 days
OF_ONE_MACHINE = ("", "sqlite", "file")  # kinds of MLflow stores

Node = dict[str, Any]


@contextmanager
def nodes_checked(runner: RunnerConfig, folders: Sequence[Path], tracked: bool) -> Iterator[Terms]:
    """Look at every machine, and give the terms to which later ones are held.

    Raises ``ConfigError`` for what has to be set otherwise: a machine with another version of
    graft, torch or Python, without one of the folders, or from which MLflow or Prefect cannot be
    reached; and where none has what a piece of work reserves. ``ResourceError``: no answer.
    """
    import ray

    nodes: list[Node] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    _check_room(runner, nodes)
    several = len({node["NodeManagerAddress"] for node in nodes}) > 1
    api = _prefect(several)
    if tracked:
        _check_store(several)
        connect()  # makes the database where there is none
    terms = _terms(folders, tracked, api)
    marks = [folder / f"{TOKEN}-{terms.token}" for folder in terms.folders]
    try:
        for mark in marks:
            _tidy(mark.parent)
            write_atomic(mark, terms.token.encode())
        with in_use(marks):
            _ask(nodes, terms)
            yield terms
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Remove the tokens of commands that were killed, and so did not."""
    for mark in folder.glob(f"{TOKEN}-*"):
        with suppress(FileNotFoundError):  # another command's tidying
            if time.time() - mark.stat().st_mtime > LONGEST_SECONDS:
                sweep_mark(mark)


def _terms(folders: Sequence[Path], tracked: bool, api: str) -> Terms:
    return Terms(
        versions=versions(),
        folders=tuple(folders),
        token=uuid.uuid4().hex,
        tracked=tracked,
        prefect=api,
        environment=environment(),
        folder=Path.cwd(),
    )


def _check_room(runner: RunnerConfig, nodes: Sequence[Node]) -> None:
    """Raise ``ConfigError`` where work would wait for ever."""
    for node in nodes:
        has = node["Resources"]
        if has.get("CPU", 0) >= runner.cpus and has.get("GPU", 0) >= runner.gpus:
            return
    raise ConfigError(
        f"No machine of the Ray cluster has {runner.cpus:g} processors and {runner.gpus:g} GPUs.\n"
        "Set a smaller runner.cpus or runner.gpus, or start such a machine."
    )


def _check_store(several: bool) -> None:
    """Raise ``ConfigError`` for an MLflow store that other machines cannot or must not write."""
    place = urlsplit(tracking_uri())
    if several and (place.scheme in OF_ONE_MACHINE or _is_loopback(place.hostname)):
        raise ConfigError(
            f"The Ray cluster has several machines, and {shown_address()} is for one.\n"
            "Start mlflow server where all reach it, and set MLFLOW_TRACKING_URI."
        )


def _prefect(several: bool) -> str:
    """Return the address of Prefect's API, to which the machines report."""
    api: str | None = PREFECT_API_URL.value()
    if not api or (several and _is_loopback(urlsplit(api).hostname)):
        raise ConfigError(
            "The machines of the Ray cluster report to Prefect, and its server is for this one.\n"
            "Start prefect server start --host 0.0.0.0, and set PREFECT_API_URL to what all reach."
        )
    return api


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:  # a name
        return False


def _ask(nodes: Sequence[Node], terms: Terms) -> None:
    """Let each machine look at itself, all at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        look = ray.remote(fault).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        asked[look.remote(terms)] = f"{node['NodeName']} ({node['NodeManagerAddress']})"
    done, left = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    if left:
        raise ResourceError(
            f"{asked[left[0]]} of the Ray cluster did not answer in {ANSWER_SECONDS:.0f} s.\n"
            "See ray status, or take it out of the cluster."
        )
    for ref in done:
        words = _answer(ref)
        if words:
            raise ConfigError(f"{asked[ref]} of the Ray cluster cannot be used: {words}")


def _answer(ref: Any) -> str:  # noqa: ANN401 - an ObjectRef
    import ray

    try:
        return str(ray.get(ref))
    except ray.exceptions.RayError as error:
        words = " ".join(str(error).split())[-200:]
        return f"{words}\nInstall graft there as here, with the extra ray."
