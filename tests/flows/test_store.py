"""The database that is kept ready is the one that Prefect's own migrations make."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from flows.store import lay_store


def schema(database: Path) -> tuple[set, list]:
    with sqlite3.connect(database) as connection:
        found = connection.execute("select type, name, coalesce(sql, '') from sqlite_master")
        # migrations write a table's constraints in an order that changes from run to run
        parts = {
            (kind, name, tuple(sorted(line.strip().rstrip(",") for line in sql.splitlines())))
            for kind, name, sql in found
        }
        revision = connection.execute("select version_num from alembic_version").fetchall()
        tables = [name for kind, name, _ in parts if kind == "table"]
        rows = {t: connection.execute(f'select count(*) from "{t}"').fetchone()[0] for t in tables}
    assert {t for t, n in rows.items() if n} == {"alembic_version"}
    return parts, revision


def test_it_is_what_prefect_makes(tmp_path):
    made, laid = tmp_path / "made", tmp_path / "laid"
    for folder in (made, laid):
        folder.mkdir()
    code = (
        "import sys, pathlib as p; from flows import store; store.make_store(p.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, made], check=True, capture_output=True)
    assert lay_store(laid)
    assert schema(laid / "prefect.db") == schema(made / "prefect.db")


def test_a_store_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "prefect.db").write_bytes(b"mine")
    assert not lay_store(tmp_path)
    assert (tmp_path / "prefect.db").read_bytes() == b"mine"


def test_another_database_needs_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:///:memory:")
    assert not lay_store(tmp_path)
