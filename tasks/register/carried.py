"""Whether the files of a model are those listed beside it; travels inside every registered model.

MLflow's own loaders know nothing of the digests in the registry. What they load checks itself by
the list that it carries: a file that was damaged or changed is found. Who changes the list as well,
or the code that looks at it, is found by graft alone, which has the digest of the list.
"""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path

from tasks.artifacts import sha256_file
from tasks.errors import WeightsError

FILES_FILE = "artifacts/files.json"
CODE = "code/"  # on Python's path where MLflow loads the model
BYTECODE = "__pycache__"  # Python leaves it where MLflow loads a model in place
OWN = ("artifacts/", CODE, "served_model.py")  # the rest, as requirements, MLflow's tools rewrite


def paths(folder: Path) -> list[str]:
    """Return every file in ``folder``, with forward slashes and in order."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def added_code(folder: Path, listed: Container[str], in_place: bool = True) -> list[str]:
    """Return the files below code/ that are not listed.

    But for bytecode in its own folders, where the model may have been loaded ``in_place``: Python
    leaves it there. Nothing leaves it in a store that files are downloaded from.
    """
    code = (path for path in paths(folder) if path.startswith(CODE) and path not in listed)
    return [path for path in code if not (in_place and BYTECODE in path.split("/"))]


def check_carried(folder: Path) -> None:
    """Hold what answers in ``folder``, a model of MLflow's, against the list that it carries.

    A model of an older graft carries none. Raises ``WeightsError`` that names the first file that
    is missing, another, or was added to code/.
    """
    file = folder / FILES_FILE
    if not file.is_file():
        return
    try:
        listed = json.loads(file.read_bytes())
    except ValueError as error:  # no JSON, or no text
        raise _damaged(FILES_FILE) from error
    if not isinstance(listed, dict):
        raise _damaged(FILES_FILE)
    for path, digest in listed.items():
        if path.startswith(OWN) and not _is_whole(folder / path, digest):
            raise _damaged(path)
    for path in added_code(folder, listed):
        raise _damaged(path)


def _is_whole(file: Path, digest: str) -> bool:
    return file.is_file() and sha256_file(file) == digest


def _damaged(path: str) -> WeightsError:
    return WeightsError(
        f"{path} is missing or is not the file that the model was registered with.\n"
        "Fetch the model again, or register it again."
    )
