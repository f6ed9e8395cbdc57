"""The process behind a run that the studio started; cleaning up must know it as well."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from tasks.artifacts import write_atomic
from tasks.processes import started, still_runs

PROCESS = "process.json"
_FACTS = TypeAdapter(tuple[int, str, str])  # number, when it was started, and when the machine was


def is_job(folder: Path) -> bool:
    """Say whether ``folder`` is that of a run which the studio started."""
    return (folder / PROCESS).is_file()


def note_process(folder: Path, number: int) -> None:
    """Write down which process works on a job; raises ``ResourceError`` for a full disk."""
    facts = [number, started(number) or "", _boot()]
    write_atomic(folder / PROCESS, json.dumps(facts).encode())


def process_of(folder: Path) -> int | None:
    """Return the number of the job's process while it runs; one that got it later is not it.

    None as well where the file that names it is damaged.
    """
    try:
        number, began, boot = _FACTS.validate_json((folder / PROCESS).read_bytes())
    except (OSError, ValueError):
        return None
    return number if boot == _boot() and still_runs(number, began) else None


def runs_of(folder: Path) -> list[Path]:
    """Return the run folders of a job, whose weights and locks are theirs."""
    found = (folder / "runs").glob("[!.]*")
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def _boot() -> str:
    """Name the machine's last start, which process numbers are counted from."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
