"""Run a command and its children, and say what they took."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLED_EVERY = 0.5  # seconds
SCORING = "scoring"  # a file in the command's folder while its memory is not looked at


class PeerError(Exception):
    """The peer's process ended badly; the text is the end of its output."""


@dataclass(frozen=True)
class Cost:
    """What a command and its children took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def watch(command: list[str], folder: Path, **environment: str) -> Cost:
    """Run ``command`` to its end, its output in ``folder``; raises ``PeerError``.

    Peak memory is of the whole process tree: its proportional set size, which counts a page that
    several worker processes share once, sampled twice a second; or, where that is more, the
    largest process's resident peak, which the kernel keeps. Samples taken while there is a file
    ``SCORING`` in ``folder`` do not count. Between fork and exec a child has the memory of this
    process, which the kernel counts as its own: a peak no higher than this process's says nothing.
    """
    env = {**os.environ, **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python compiles what it imports once
    start, own = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        child = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=out, stderr=err)
        peak, done = [0], threading.Event()
        sampler = threading.Thread(target=_sample, args=(child.pid, folder, peak, done))
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        sampler.join()
    if child.returncode != 0:
        ends = [
            (folder / name).read_text(errors="replace")[-2000:] for name in ("stdout", "stderr")
        ]
        raise PeerError(f"exit code {child.returncode}\n" + "\n".join(ends))
    return Cost(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mib=max(peak[0] / 2**20, usage.ru_maxrss / 2**10 if usage.ru_maxrss > own else 0),
    )


def _sample(pid: int, folder: Path, peak: list[int], done: threading.Event) -> None:
    scoring = folder / SCORING
    while not done.wait(SAMPLED_EVERY):
        with suppress(psutil.Error):
            root, unseen = psutil.Process(pid), scoring.exists()
            taken = sum(_pss(p) for p in [root, *root.children(recursive=True)])
            if not (unseen or scoring.exists()):
                peak[0] = max(peak[0], taken)


def _pss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return process.memory_full_info().pss
    return 0
