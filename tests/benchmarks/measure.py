"""Run a command as a child process and say what it cost."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What one command took, its own children included."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def measure(command: list[str], cwd: Path, **environment: str) -> Cost:
    """Run ``command`` to its end; raises ``CalledProcessError`` when it fails.

    CPU seconds and peak memory come from wait4 and so are this child's and its waited-for
    children's, not those of other processes.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        output, errors = _drain(child)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command, output, errors)
    return Cost(
        wall_seconds=time.perf_counter() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
        output=output,
    )


def _drain(child: subprocess.Popen[str]) -> tuple[str, str]:
    """Read both pipes to their end without reaping the child, whose usage wait4 must see."""
    import threading

    errors: list[str] = []
    assert child.stdout is not None
    assert child.stderr is not None
    reader = threading.Thread(target=lambda: errors.append(child.stderr.read()))
    reader.start()
    output = child.stdout.read()
    reader.join()
    return output, "".join(errors)


def machine() -> str:
    """Return processor, cores and versions in one line, without a host's name."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Python {platform.python_version()}, torch {version('torch')}"
