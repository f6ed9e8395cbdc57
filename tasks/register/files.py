"""What the files of a version must be: a digest of each, in a list that has a digest itself.

``artifacts/files.json`` lists every other file of the model, MLmodel and code/ included, with its
SHA-256; the tag ``graft.files_digest`` is the digest of that list. Versions of an older graft have
neither: of theirs only the description, the weights and the list of images have a digest, as tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from tasks.artifacts import sha256_bytes, sha256_file
from tasks.errors import TrackingError
from tasks.register.carried import FILES_FILE, added_code, paths
from tasks.register.learned import LEARNED, LEARNED_FILE

SPEC_FILE = "artifacts/spec.json"
WEIGHTS_FILE = "artifacts/model.safetensors"
FILES = "graft.files_digest"  # version tag: digest of that file
SHA256 = "graft.sha256"  # version tag: digest of the weights
SPEC_SHA256 = "graft.spec_sha256"


def list_files(folder: Path) -> str:
    """Write the list of all files of the model in ``folder`` into it; return the list's digest."""
    others = (path for path in paths(folder) if path != FILES_FILE)
    content = json.dumps({path: sha256_file(folder / path) for path in others}, indent=1)
    (folder / FILES_FILE).write_text(content)
    return sha256_bytes(content.encode())


def is_listed(version: ModelVersion) -> bool:
    """Tell whether every file of a version has a digest; false for those of an older graft."""
    return FILES in version.tags


def without_list(version: ModelVersion) -> str:
    """Return what is to be said of a version of which not every file can be checked."""
    return (
        f"{version.name} version {version.version} is of an older graft, which kept no digest of "
        "every file: its description, weights and list of images are checked, MLmodel and code/ "
        "are not"
    )


def check_files(version: ModelVersion, folder: Path, in_place: bool = True) -> None:
    """Hold the files in ``folder`` against the digests that ``version`` was registered with.

    Raises ``TrackingError`` that names the first file that is missing, is another, or was added to
    code/, from where Python would take it for one that was registered. Bytecode is passed over
    where MLflow may have loaded the model ``in_place``; where it was downloaded it is such a file.
    """
    for path, digest in _expected(version, folder, in_place):
        check_file(version, path, folder / path, digest)


def check_file(version: ModelVersion, path: str, file: Path, digest: str | None) -> None:
    """Raise ``TrackingError`` unless ``file``, ``path`` of a version, has that digest."""
    if not file.is_file():
        raise damaged(version, path, "is missing in the registry")
    if sha256_file(file) != digest:
        raise damaged(version, path)


def damaged(
    version: ModelVersion, path: str, how: str = "is not the file that was registered"
) -> TrackingError:
    """Return what is raised of a version whose file ``path`` is missing or another."""
    return TrackingError(
        f"{path} of {version.name} version {version.version} {how}.\n"
        "Do not use this version: delete it, and register the model again."
    )


def _expected(
    version: ModelVersion, folder: Path, in_place: bool
) -> Iterator[tuple[str, str | None]]:
    """Yield each file and its digest; the list of files comes first, before it is believed."""
    listed: dict[str, str] = {}
    if is_listed(version):
        yield FILES_FILE, version.tags[FILES]
        listed = _inside(version, json.loads((folder / FILES_FILE).read_text()))
        yield from listed.items()
        yield from ((path, None) for path in added_code(folder, listed, in_place))
    yield from (each for each in _tagged(version) if each not in listed.items())


def _inside(version: ModelVersion, listed: object) -> dict[str, str]:
    """Return a list of files that all lie in the version's folder.

    Who may write to the registry could else learn which files there are on whoever reads it.
    """
    paths = listed if isinstance(listed, dict) else {"..": ""}
    if any(Path(path).is_absolute() or ".." in Path(path).parts for path in paths):
        raise damaged(version, FILES_FILE, "lists files that lie elsewhere")
    return dict(paths)


def _tagged(version: ModelVersion) -> Iterator[tuple[str, str | None]]:
    """Yield what a version of any graft says of its files by tags of their own."""
    yield SPEC_FILE, version.tags.get(SPEC_SHA256)
    yield WEIGHTS_FILE, version.tags.get(SHA256)
    if LEARNED in version.tags:
        yield LEARNED_FILE, version.tags[LEARNED]
