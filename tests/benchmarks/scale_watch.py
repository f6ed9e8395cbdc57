"""Run one point's process and say what it took, stage by stage.

Memory is of the process and its children together, sampled five times a second. *Own* memory is
what they alone can hold: anonymous and shared pages (Pss_Anon and Pss_Shmem of the kernel's
smaps_rollup). *Resident* memory adds the pages of mapped files (Pss), such as packed images and
libraries, which the kernel drops when others need the room, and is no less than the largest
process's resident peak that the kernel itself keeps (ru_maxrss).
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.benchmarks.peer_watch import REPOSITORY, PeerError

SAMPLED_EVERY = 0.2  # seconds
MARKS = "GRAFT_SCALE_MARKS"  # the file that a job says its stages in
KIB = 1024
MIB = 2**20


@dataclass(frozen=True)
class Stage:
    """A part of a point's work."""

    name: str
    seconds: float
    own_mib: float | None  # its peak; None: it was over before it was sampled


@dataclass(frozen=True)
class Taken:
    """What a process and its children took, from its start to its end."""

    seconds: float
    cpu_seconds: float
    own_mib: float
    resident_mib: float
    stages: list[Stage] = field(default_factory=list)
    output: str = ""


class Sampler(threading.Thread):
    """Looks at a process and its children until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._done = pid, threading.Event()
        self.samples: list[tuple[float, int, int]] = []  # monotonic seconds, own and all bytes

    def run(self) -> None:
        while not self._done.wait(SAMPLED_EVERY):
            self.samples.append((time.monotonic(), *tree_memory(self._pid)))

    def stop(self) -> None:
        """Let the thread end, and wait for it."""
        self._done.set()
        self.join()

    def peak(self, start: float, end: float) -> float | None:
        """Return the highest own memory between two moments in MiB, None if none was seen."""
        seen = [own for moment, own, _ in self.samples if start <= moment <= end]
        return max(seen) / MIB if seen else None


def tree_memory(pid: int) -> tuple[int, int]:
    """Return own and resident bytes of a process and its children; 0 when it is gone."""
    own = resident = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            sizes = _rollup(process.pid)
            own += sizes.get("Pss_Anon", 0) + sizes.get("Pss_Shmem", 0)
            resident += sizes.get("Pss", 0)
    return own, resident


def _rollup(pid: int) -> dict[str, int]:
    """Return the sizes in /proc/PID/smaps_rollup in bytes; none when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {name.rstrip(":"): int(size) * KIB for name, size, _ in words}


def watch_stages(command: list[str], folder: Path, **environment: str) -> Taken:
    """Run ``command`` to its end, its files in ``folder``; raises ``PeerError`` when it fails."""
    marks, start = folder / "marks.jsonl", time.monotonic()
    marks.touch()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        child = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **environment, MARKS: str(marks)},
            stdout=out,
            stderr=err,
        )
        sampler = Sampler(child.pid)
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
    if child.returncode != 0:
        raise PeerError(_last_words(child.returncode, folder))
    own, resident = (max((s[place] for s in sampler.samples), default=0) for place in (1, 2))
    return Taken(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        own_mib=own / MIB,
        resident_mib=max(resident / MIB, usage.ru_maxrss / KIB),
        stages=_stages(marks, start, sampler),
        output=(folder / "stdout").read_text(),
    )


def _stages(marks: Path, start: float, sampler: Sampler) -> list[Stage]:
    """Return the stages that the job marked, from its start on."""
    found = []
    for line in marks.read_text().splitlines():
        mark = json.loads(line)
        start = mark.get("start", start)
        end = mark["end"]
        found.append(Stage(mark["stage"], end - start, sampler.peak(start, end)))
        start = end
    return found


def _last_words(code: int, folder: Path) -> str:
    ends = [(folder / name).read_text(errors="replace")[-2000:] for name in ("stdout", "stderr")]
    return f"exit code {code}\n" + "\n".join(ends)
