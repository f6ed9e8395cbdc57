"""What lies around a command: variables, registries in disorder, places that take no file."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.bad_inputs.rows import DATABASE, RUN, Bad, Make, check, run, typed

STORE = "MLFLOW_TRACKING_URI"
CACHE = "GRAFT_CACHE"
LIST = typed("models")
LONG = 300 * "n"


def put(make: Make, name: str, content: bytes) -> Make:
    def made(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        return make(folder)

    return made


def tables(make: Make, *statements: str) -> Make:
    """Copy the registry beside the row and change the copy."""

    def made(folder: Path) -> list[str]:
        shutil.copy(DATABASE, folder / "mlflow.db")
        with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as database:
            for statement in statements:
                database.execute(statement)
        return make(folder)

    return made


COPY = {STORE: "sqlite:///{}/mlflow.db"}
LOCK = ("given/*.lock",)
STORES = {
    "that is a word": Bad(LIST, 7, "nonsense", environment={STORE: "nonsense"}),
    "of another scheme": Bad(LIST, 7, "gopher", environment={STORE: "gopher://a/b"}),
    "on a port that is none": Bad(LIST, 7, "99999", environment={STORE: "http://127.0.0.1:99999"}),
    "where nobody listens": Bad(LIST, 7, "127.0.0.1:9", environment={STORE: "http://127.0.0.1:9"}),
    "of no host": Bad(LIST, 7, "http://", environment={STORE: "http://"}),
    "that is not there": Bad(LIST, 7, "no tracking database", environment=COPY),
    "of a text file": Bad(
        put(LIST, "mlflow.db", b"no database" * 99), 7, "mlflow.db", LOCK, environment=COPY
    ),
    "that is cut off": Bad(
        put(LIST, "mlflow.db", b"SQLite format 3\0" + bytes(99)), 7, "mlflow.db", LOCK, COPY
    ),
    "that is a folder": Bad(LIST, 7, "is a folder", (), {STORE: "sqlite:///{}"}),
    "without its tables": Bad(
        tables(LIST, "drop table model_versions"), 7, "unexpected state", LOCK, COPY
    ),
    "of another MLflow": Bad(
        tables(LIST, "update alembic_version set version_num = 'future'"), 7, "future", LOCK, COPY
    ),
    "behind a driver that is none": Bad(
        LIST,
        7,
        r"oracle://a/b.*oracle://a/b(?!.*word)",
        environment={STORE: "oracle://me:word@a/b"},
    ),
}

DAMAGES = {
    "whose files are gone": Bad(
        tables(
            typed("predict", "photos/red/0.png", "--model", "models:/small/1"),
            "update model_versions set source = 'file:///nowhere/model',"
            " storage_location = 'file:///nowhere/model'",
        ),
        7,
        "small",
        LOCK,
        COPY,
    ),
    "whose files are elsewhere": Bad(
        tables(
            typed("predict", "photos/red/0.png", "--model", "models:/small/1"),
            "update model_versions set source = 'file:///etc', storage_location = 'file:///etc'",
        ),
        7,
        "small",
        LOCK,
        COPY,
    ),
    "without graft's tags": Bad(
        tables(
            typed("predict", "photos/red/0.png", "--model", "models:/small/1"),
            "delete from model_version_tags",
        ),
        7,
        "small",
        LOCK,
        COPY,
    ),
    "whose decision is no JSON": Bad(
        tables(
            typed("approve", "small", "1"),
            "update model_version_tags set value = '{' where key like 'graft.%'",
        ),
        7,
        "small",
        LOCK,
        COPY,
    ),
}


PLACES = {
    "a cache that is a file": Bad(
        put(check(), "file", b""), 8, "file.*[Nn]ot a directory", environment={CACHE: "{}/file/x"}
    ),
    "a cache that is in a device": Bad(check(), 8, "/dev/null", environment={CACHE: "/dev/null/x"}),
    "a cache in /proc": Bad(check(), 8, "/proc/graft", environment={CACHE: "/proc/graft"}),
    "a cache of nobody": Bad(check(), 2, "~nobody-here", environment={CACHE: "~nobody-here/x"}),
    "a cache of a name too long": Bad(check(), 8, "name too long", environment={CACHE: LONG}),
    "a cache that is no UTF-8": Bad(check(), 2, r"no UTF-8", environment={CACHE: "{}/\udcff"}),
    "a cache by the config": Bad(check("output.cache=/dev/null/x"), 8, "/dev/null"),
    "runs in a file": Bad(run("output.folder=good.yaml"), 8, "good.yaml", RUN),
    "runs in a device": Bad(run("output.folder=/dev/null/x"), 8, "/dev/null", RUN),
    "runs in /proc": Bad(run("output.folder=/proc/graft"), 8, "/proc/graft", RUN),
    "runs of nobody": Bad(run("output.folder=~nobody-here/x"), 2, "~nobody-here", RUN),
}


@pytest.mark.parametrize("name", STORES)
def test_a_store(refuse, name: str):
    refuse(STORES[name])


@pytest.mark.parametrize("name", DAMAGES)
def test_a_version(refuse, name: str):
    refuse(DAMAGES[name])


@pytest.mark.parametrize("name", PLACES)
def test_a_place(refuse, name: str):
    refuse(PLACES[name])
