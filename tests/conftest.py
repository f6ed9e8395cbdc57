"""Fixtures that every test shares."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many threads as processors in each of several workers would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
IMPORT_PATH = tuple(sys.path)

if sys.dont_write_bytecode and sys.pycache_prefix is None:
    # the tests start hundreds of processes, and each would compile Prefect, SQLAlchemy and more
    # anew: what is compiled is kept, beside no source, as whoever set that wants it
    _compiled = REPOSITORY / ".pytest_cache" / "compiled"
    shutil.rmtree(f"{_compiled}{tempfile.gettempdir()}", ignore_errors=True)  # of earlier tests
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(_compiled)
    os.environ["PYTHONPYCACHEPREFIX"] = str(_compiled)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which -p no:xdist leaves out
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out files in the order of tests/order.py where --dist loadfile asks for files."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.order import LongFilesFirst

    return LongFilesFirst(config, log)


def pytest_collection_finish() -> None:
    """Leave what has been imported out of garbage collections: graft's own took a second each."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Forget folders that MLflow put on the import path while it loaded a model of an earlier test.

    They hold a part of ``tasks``, which processes that a test starts would take for the whole.
    """
    sys.path[:] = IMPORT_PATH


@pytest.fixture
def own_alarm() -> Iterator[None]:
    """Leave SIGALRM to Prefect, as it is out of tests.

    While pytest-timeout has it, Prefect ends a task by an exception that a thread of its injects.
    """
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *left)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data and weights beside the checkout."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("../shared is missing, and CI must have it")
        pytest.skip("../shared (real data and weights) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the browser that is installed on this machine."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is missing, and CI must have it")
        pytest.skip("no Chromium is installed on this machine")
    return path


@pytest.fixture(scope="session")
def listening() -> Callable[[int], set[str]]:
    """Return what says at which addresses a process and those it started take connections."""

    def addresses(number: int) -> set[str]:
        first = psutil.Process(number)
        return {
            socket.laddr.ip
            for process in (first, *first.children(recursive=True))
            for socket in process.net_connections("inet")
            if socket.status == psutil.CONN_LISTEN
        }

    return addresses


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY
