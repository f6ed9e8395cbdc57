"""A bad input: how it is made, what graft has to answer, and what must be left as it was."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.flows.digests import digest

Make = Callable[[Path], list[str]]  # from an empty folder to the command's arguments

DATABASE = "mlruns/mlflow.db"
# what may change: a run is written down in MLflow, as failed ...
RUN = (DATABASE, "mlruns/artifacts", "mlruns/artifacts/*")
# ... the list of the files is made before they are decoded ...
INDEX = ("cache/raw", "cache/raw/*")
# ... and whole archives are kept under their digest
ARCHIVE = ("cache/archives", "cache/archives/*")


class Bad(NamedTuple):
    """A bad input and the answer to it."""

    make: Make
    code: int
    pattern: str  # of the message; it names the thing that is wrong
    changes: tuple[str, ...] = ()  # of all that is there, what may differ afterwards
    environment: Mapping[str, str] = {}


def typed(*arguments: str) -> Make:
    """Type a command as it stands; ``{}`` in an argument is the row's folder."""
    return lambda folder: [argument.replace("{}", str(folder)) for argument in arguments]


def check(*overrides: str) -> Make:
    """Check the good config with some values replaced."""
    return typed("check", "good.yaml", *overrides)


def run(*overrides: str) -> Make:
    """Run the good config with some values replaced."""
    return typed("run", "good.yaml", *overrides)


def config(content: bytes | str, *command: str) -> Make:
    """Write a config and check it, or do with it what ``command`` says."""

    def make(folder: Path) -> list[str]:
        path = folder / "bad.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [*(command or ("check",)), str(path)]

    return make


def photos(change: Callable[[Path], object], *overrides: str) -> Make:
    """Copy the good photos, change the copy, and check it."""

    def make(folder: Path) -> list[str]:
        shutil.copytree("photos", folder / "photos")
        change(folder / "photos")
        return check(f"data.path={folder / 'photos'}", *overrides)(folder)

    return make


def encoded(size: tuple[int, int], kind: str, mode: str = "RGB") -> bytes:
    """Return a noisy image as a file of that kind."""
    stream = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(stream, kind)
    return stream.getvalue()


def changed(before: Mapping[str, str], after: Mapping[str, str], declared: tuple[str, ...]) -> dict:
    """Return what differs between two snapshots and was not declared."""
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    left = sorted(n for n in names if not any(fnmatch(n, pattern) for pattern in declared))
    return {name: (before.get(name), after.get(name)) for name in left}


def snapshot(*roots: Path) -> dict[str, str]:
    """Return every folder, link and file under ``roots`` with its content's digest.

    Prefect's own folder is left out, and of MLflow's database the rows count, not the bytes.
    """
    found: dict[str, str] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(("mlruns/prefect", DATABASE)):
                found[name] = _state(path)
        if (root / DATABASE).is_file():
            found[DATABASE] = _rows(root / DATABASE)
            found["registry"] = _rows(root / DATABASE, "^(model_v|registered)")
    return found


def _state(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    return digest(path)


def _rows(path: Path, tables: str = ".") -> str:
    with closing(sqlite3.connect(path)) as database:
        named = database.execute("select name from sqlite_master where type = 'table'").fetchall()
        content = [
            (name, sorted(map(repr, database.execute(f"select * from {name}"))))
            for (name,) in sorted(named)
            if re.search(tables, name)
        ]
    return hashlib.sha256(repr(content).encode()).hexdigest()
