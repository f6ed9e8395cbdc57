"""Runs that the studio starts: processes of their own, whose whole state is on disk.

So a closed tab, a reloaded page or a studio started anew lose nothing: a run goes on, and is found
again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from tasks.artifacts import new_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config, load_config
from tasks.errors import TrainingError
from tasks.finetune.progress import read_history
from tasks.studiojob import PROCESS, note_process, process_of
from tasks.use import in_use

State = Literal["running", "done", "failed"]
LOG_LINES = 200
GONE = "The run ended by itself, without a word; its log may say why. Memory may have run out."


@dataclass(frozen=True)
class Job:
    """One run: a folder with its config, its log, its process and, at the end, its result."""

    folder: Path

    @property
    def name(self) -> str:
        """Return the job's name, which says when it was started."""
        return self.folder.name

    @property
    def config(self) -> RunConfig:
        """Return what was started."""
        return load_config(self.folder / "config.yaml")

    @property
    def state(self) -> State:
        """Say whether the run goes on, ended well, or failed."""
        if process_of(self.folder) is not None:
            return "running"
        return "failed" if "error" in self.result() else "done"

    def result(self) -> dict[str, Any]:
        """Return what ``graft run --json`` printed, or an ``error`` where it printed nothing."""
        try:
            found = json.loads((self.folder / "result.json").read_bytes())
        except (OSError, ValueError):
            found = None
        if isinstance(found, dict):
            return found
        return {"error": {"kind": "ResourceError", "message": GONE, "exit_code": 8}}

    def log(self) -> str:
        """Return the last lines that the run said."""
        try:
            text = (self.folder / "log.txt").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def epochs(self) -> list[dict[str, Any]]:
        """Return the epochs so far, as history.jsonl has them; raises ``TrainingError``."""
        for path in sorted((self.folder / "runs").glob("*/history.jsonl")):
            try:
                return [asdict(record) for record in read_history(path)]
            except (OSError, ValueError) as error:
                raise TrainingError(
                    f"{path} cannot be read: {error}.\nSo there are no curves of this run."
                ) from error
        return []

    def report(self) -> Path | None:
        """Return the run's report page, if it got so far."""
        return next(iter(sorted((self.folder / "runs").glob("*/report.html"))), None)

    def stop(self) -> None:
        """Ask the run to stop, as Ctrl-C does; after an epoch it leaves what ``--resume`` needs."""
        number = process_of(self.folder)
        if number is not None:
            os.kill(number, signal.SIGINT)


def start(home: Path, config: RunConfig) -> Job:
    """Start ``graft run`` for ``config`` in a process of its own, its files below ``home``.

    Raises ``ResourceError`` when the disk is full or read-only.
    """
    name = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    with new_folder(home / "jobs", name) as folder, in_use([folder]):
        output = config.output.model_copy(update={"folder": folder / "runs"})
        config = config.model_copy(update={"output": output})
        write_atomic(folder / "config.yaml", dump_config(config).encode())
        note_process(folder, _spawn(folder).pid)
    return Job(folder)


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", "run", str(folder / "config.yaml"), "--json"]
    with (folder / "result.json").open("wb") as result, (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=result,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the studio's terminal is not meant for the runs
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def jobs(home: Path) -> list[Job]:
    """Return every job below ``home``, the newest first."""
    found = [path.parent for path in (home / "jobs").glob(f"*/{PROCESS}")]
    return [Job(folder) for folder in sorted(found, key=_started, reverse=True)]


def _started(folder: Path) -> tuple[str, int, str]:
    """Return when a job was started, by its name: a copy or a touch changes a file's date."""
    found = re.search(r"-(\d{8}-\d{6})(?:-(\d+))?$", folder.name)
    date, number = ("", 0) if found is None else (found[1], int(found[2] or 1))
    return date, number, folder.name
