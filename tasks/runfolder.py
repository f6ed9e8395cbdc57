"""Where a run begins: its folder, with the config in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from tasks.artifacts import folder_atomic, new_folder, numbered, user_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.public import public_config
from tasks.unfinished import BEGUN, FOLDER, LOCK, Begun, write_begun
from tasks.use import alone


@contextmanager
def run_folder(config: RunConfig) -> Iterator[Path]:
    """Yield a new run folder with the config in it, which goes on any error."""
    with new_folder(user_folder(config.output.folder), _name(config)) as folder:
        _write_config(folder, config)
        yield folder


def begin_folder(config: RunConfig, begun: Begun) -> Path:
    """Return a new run folder, in which the run is unfinished: it is there whole, or not at all."""
    root, name = user_folder(config.output.folder), _name(config)
    _sweep(root)
    return next(folder for folder in numbered(root, name) if _is_begun(folder, config, begun))


def _is_begun(folder: Path, config: RunConfig, begun: Begun) -> bool:
    """Make ``folder``, unless it is there; say whether it is this run's."""
    if folder.exists():
        return False
    with folder_atomic(folder) as scratch:
        _write_config(scratch, config)
        (scratch / FOLDER).mkdir()
        (scratch / FOLDER / LOCK).touch()  # before what it guards
        write_begun(scratch, begun)
    try:  # another of the same second may have come first
        written = (folder / FOLDER / BEGUN).read_bytes()
    except FileNotFoundError:  # and be over already
        return False
    return written == begun.model_dump_json().encode()


def _sweep(root: Path) -> None:
    """Remove what beginnings that were killed have left; one that goes on holds its lock.

    What somebody else has left, and is not to be removed here, stays.
    """
    for lock in root.glob("..*.lock"):
        scratch = root / lock.name.removeprefix(".").removesuffix(".lock")
        with suppress(OSError), alone(scratch) as free:
            if free:
                shutil.rmtree(scratch)


def _name(config: RunConfig) -> str:
    return f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _write_config(folder: Path, config: RunConfig) -> None:
    write_atomic(folder / "config.yaml", dump_config(public_config(config)).encode())
