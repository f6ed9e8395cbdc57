"""Prefect's database as its own migrations leave it, kept ready: making it anew takes 5.5 s.

``flows/empty/REVISION.db.gz`` is that database, empty, named after its last migration. A newer
Prefect goes on from it with the migrations that it lacks; a Prefect that does not know the revision
makes its own. A test holds the file to be what Prefect makes; remake it with
``python -m flows.store``.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import sqlite3
from pathlib import Path

from tasks.artifacts import write_atomic

FOLDER = Path(__file__).parent / "empty"
MIGRATIONS = Path("server/database/_migrations/versions/sqlite")


def lay_store(home: Path) -> bool:
    """Put the empty database into a ``home`` that has none; say whether that was done.

    Raises ``ResourceError`` when the disk is full.
    """
    target = home / "prefect.db"
    ready = _known()
    if ready is None or target.exists() or os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL"):
        return False
    write_atomic(target, gzip.decompress(ready.read_bytes()))
    return True


def _known() -> Path | None:
    """Return the file whose revision the installed Prefect has a migration for."""
    found = importlib.util.find_spec("prefect")  # does not import it
    if found is None or not found.submodule_search_locations:
        return None
    migrations = Path(found.submodule_search_locations[0]) / MIGRATIONS
    for path in FOLDER.glob("*.db.gz"):
        if any(migrations.glob(f"*_{path.name.removesuffix('.db.gz')}_*.py")):
            return path
    return None


def make_store(home: Path) -> Path:
    """Let Prefect's migrations make an empty database in ``home``; return its path."""
    import asyncio

    os.environ["PREFECT_HOME"] = str(home)  # read when prefect is first imported
    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())
    database = home / "prefect.db"
    with sqlite3.connect(database) as connection:
        connection.execute("vacuum")
    return database


def main() -> None:
    """Make ``flows/empty/REVISION.db.gz`` anew with the installed Prefect."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        database = make_store(Path(name))
        with sqlite3.connect(database) as connection:
            (revision,) = connection.execute("select version_num from alembic_version").fetchone()
        content = gzip.compress(database.read_bytes(), 9, mtime=0)
    for old in FOLDER.glob("*.db.gz"):
        old.unlink()
    write_atomic(FOLDER / f"{revision}.db.gz", content)


if __name__ == "__main__":
    main()
