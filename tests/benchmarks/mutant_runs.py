"""Tests run on one mutant after the other, each in a fork of a process that has imported the rest.

Importing torch, scipy and pytest takes longer than the tests do. So the first fork runs the tests
on the code as it is and says which packages it needed; they are imported once, and every further
fork imports nothing but graft and its tests, from a copy of the repository with the mutant in it.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = ("tasks", "flows", "tests", "conftest")  # what every fork imports anew
ROOM = 12 * 2**30  # bytes of memory that a mutant may ask for
SLACK = 5.0  # seconds of a processor beside a multiple of what the tests take
PATIENCE = 60.0  # seconds of doing nothing; a mutant may wait for ever


class Outcome(NamedTuple):
    """How the tests ended: 0 passed, 1 failed, -24 and -9 out of time, ...; and what it took."""

    status: int
    seconds: float  # of the clock
    work: float  # of a processor


class Bench:
    """A copy of the repository in which one file at a time is another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / name).is_file():  # else removed, and not yet committed
                shutil.copy2(REPOSITORY / name, folder / name)
        shared = REPOSITORY.parent / "shared"
        if shared.exists() and not (folder.parent / "shared").exists():
            (folder.parent / "shared").symlink_to(shared.resolve())

    def warm_up(self, tests: tuple[str, ...]) -> Outcome:
        """Run the tests on the code as it is, import what they do, and run them once more."""
        found = self.folder / "imported"
        self._run(tests, None, found)
        for name in found.read_text().split():
            try:
                importlib.import_module(name)
            except Exception as error:  # made by its package while it is imported, not a file
                print(f"not imported beforehand: {name} ({error})", file=sys.stderr)
        gc.collect()
        gc.freeze()  # pytest collects garbage over and over; a fork need not look at all of this
        return self._run(tests, None)

    def try_out(self, path: str, source: str, tests: tuple[str, ...], clean: Outcome) -> Outcome:
        """Run the tests with another text in ``path``."""
        file = self.folder / path
        original = file.read_bytes()
        file.write_text(source)
        for compiled in self.folder.glob(f".compiled/**/{file.stem}.*.pyc"):
            compiled.unlink()  # a file of the same length and second passes for the old one
        try:
            return self._run(tests, clean)
        finally:
            file.write_bytes(original)

    def _run(
        self, tests: tuple[str, ...], clean: Outcome | None, imported: Path | None = None
    ) -> Outcome:
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._in_child(tests, clean, imported)
        limit = math.inf if clean is None else 10 * clean.work + PATIENCE
        while True:
            done, status, used = os.wait4(pid, os.WNOHANG)
            if done or time.monotonic() - start - _kept_waiting(pid) > limit:
                break
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # with what it has started
        if not done:
            _, status, used = os.wait4(pid, 0)
        work = used.ru_utime + used.ru_stime
        return Outcome(os.waitstatus_to_exitcode(status), time.monotonic() - start, work)

    def _in_child(
        self, tests: tuple[str, ...], clean: Outcome | None, imported: Path | None
    ) -> None:
        status = 3
        try:
            os.setsid()
            with (self.folder / "output").open("wb") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            self._settle(clean)
            status = int(_pytest(tests))
            if imported is not None:
                imported.write_text("\n".join(_of_others()))
        finally:
            os._exit(status)

    def _settle(self, clean: Outcome | None) -> None:
        """Be where the copy is, with as much time and memory as a mutant gets."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if clean is not None:
            seconds = int(4 * clean.work + SLACK)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            resource.setrlimit(resource.RLIMIT_DATA, (ROOM, ROOM))
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(self.folder / ".compiled")
        sys.dont_write_bytecode = clean is not None
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        elsewhere = ("", str(REPOSITORY))
        sys.path[:] = [str(self.folder), *(path for path in sys.path if path not in elsewhere)]
        for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
            del sys.modules[name]


def _kept_waiting(pid: int) -> float:
    """Return the seconds that a process would have run, had others not had the processor."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # it is gone, or the system does not count them
        return 0.0


def _pytest(tests: tuple[str, ...]) -> int:
    import pytest

    options = ("-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist")
    options = (*options, "-p", "no:unraisableexception")  # collects garbage ten times
    cleared = ("-o", "addopts=--import-mode=importlib", "-o", "timeout=0")
    return pytest.main([*options, *cleared, *tests])


def _of_others() -> list[str]:
    """Return the modules that are imported now and are files of other packages."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        own = name.partition(".")[0] in OWN or name.startswith(("__", "test_"))
        if file and not own and getattr(module, "__spec__", None) is not None:
            found.append(name)
    return found
