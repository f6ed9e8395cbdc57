"""A folder of shards, on this machine or in a store such as S3: list, read, write."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from tasks.artifacts import FULL, disk_errors, file_atomic, sync_folder, write_atomic
from tasks.errors import ConfigError, DataError, GraftError, ResourceError, TransientDataError
from tasks.retry import with_retries
from tasks.words import printable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

BLOCK = 8 << 20  # bytes that are fetched at once
PART = 32 << 20  # bytes of a file's part that is sent at once
# botocore's, by name: it is not imported for their sake
NO_KEYS = (
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    *("ProfileNotFound", "TokenRetrievalError", "UnauthorizedSSOTokenError"),
)


@dataclass(frozen=True)
class Folder:
    """Files side by side at one address; every error of the driver's is a ``GraftError``."""

    url: str  # without a slash at its end
    root: str  # as the driver names it
    fs: AbstractFileSystem
    remote: bool

    def where(self, name: str) -> str:
        """Return the address of a file, fit to print."""
        return printable(f"{self.url}/{name}")

    def sizes(self) -> dict[str, int]:
        """Return the files' names, sorted, and bytes; none where there is no folder.

        A link to a file is that file. Raises ``DataError`` for a tar that is neither.
        """
        with self._errors(self.url):
            self.fs.invalidate_cache()
            try:
                found = self.fs.ls(self.root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            files = ((Path(f["name"]).name, int(f["size"])) for f in found if _is_file(f))
            return dict(sorted(files))

    def check_bucket(self) -> None:
        """Raise ``DataError`` where the store has no such bucket: it is not for graft to make."""
        if self.remote:
            with self._errors(f"{self.url.partition('://')[0]}://{self._bucket}"):
                self.fs.info(self._bucket)

    def open(self, name: str, start: int = 0) -> IO[bytes]:
        """Open a file for reading, from byte ``start`` on."""
        with self._errors(self.where(name)):
            given = {"block_size": BLOCK, "cache_type": "readahead"} if self.remote else {}
            file: IO[bytes] = self.fs.open(f"{self.root}/{name}", "rb", **given)
            file.seek(start)
            return file

    def read(self, name: str, most: int) -> bytes:
        """Return a whole file of at most ``most`` bytes."""
        with self.open(name) as file, self._errors(self.where(name)):
            content = file.read(most + 1)
        if len(content) > most:
            raise DataError(f"{self.where(name)} has more than {most:,} bytes: it is not graft's.")
        return content

    def put(self, path: Path, name: str) -> None:
        """Put a file of this machine, synced, in place of one that is there: whole, or not."""
        if not self.remote:
            with disk_errors(self.where(name)):
                Path(self.root).mkdir(parents=True, exist_ok=True)
                _move(path, Path(self.root) / name)
            return
        with self._errors(self.where(name)):
            self.fs.put_file(str(path), f"{self.root}/{name}", **self._how_to_put())

    def write(self, content: bytes, name: str) -> None:
        """Write a small file: whole, or not at all."""
        if not self.remote:
            write_atomic(Path(self.root) / name, content)
            return
        with self._errors(self.where(name)):  # a store takes an object whole
            self.fs.pipe_file(f"{self.root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file; that it is not there is no fault."""
        with self._errors(self.where(name)):
            try:
                self.fs.rm_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return
            if not self.remote:
                sync_folder(Path(self.root))

    @property
    def _bucket(self) -> str:
        return self.root.partition("/")[0]

    def _how_to_put(self) -> dict[str, int]:
        if self.url.startswith("az://"):
            return {"overwrite": True}  # adlfs leaves a file that is there, else
        return {"chunksize": PART, "max_concurrency": 2} if self.url.startswith("s3://") else {}

    def stream(self, name: str) -> Stream:
        """Return the bytes of a file from its first to its last, hashed on the way."""
        return Stream(self, name)

    @contextmanager
    def _errors(self, where: str) -> Iterator[None]:
        try:
            yield
        except (GraftError, MemoryError):
            raise
        except FileNotFoundError as fault:
            raise DataError(f"{printable(where)} is not there.\nCheck the address.") from fault
        except PermissionError as fault:
            raise DataError(
                f"{printable(where)} is not open to you: {in_words(fault)}.\n"
                "Check its rights, and the keys that are in the environment."
            ) from fault
        except Exception as fault:  # drivers raise errors of their own kinds
            raise _fault(where, fault, self.remote) from fault


class Stream:
    """A file read once, in order; a connection that is cut is opened again where it was cut."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._file: IO[bytes] | None = None
        self.position = 0  # bytes given so far
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Return the next bytes, ``size`` at most; none at the end.

        Raises ``TransientDataError`` where the connection stays cut, ``DataError``.
        """
        piece = with_retries(self._read, size)
        self.position += len(piece)
        self._digest.update(piece)
        return piece

    def _read(self, size: int) -> bytes:
        try:
            with self._folder._errors(self._folder.where(self._name)):
                if self._file is None:
                    self._file = self._folder.open(self._name, self.position)
                return self._file.read(size)
        except BaseException:
            self.close()
            raise

    def sha256(self) -> str:
        """Return the digest of what was given so far."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Let the connection go."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _is_file(found: Mapping[str, Any]) -> bool:
    """Tell whether what a driver found is a file; fsspec has links of this machine as "other"."""
    linked = bool(found.get("islink"))
    path = Path(found["name"])
    if found["type"] == "file" or (linked and path.is_file()):
        return True
    if path.suffix == ".tar" and found["type"] != "directory":
        raise DataError(
            f"{printable(path)} is {'a link to no file' if linked else 'no plain file'}.\n"
            "Mend it, or take it out of the folder."
        )
    return False


def _move(path: Path, target: Path) -> None:
    """Move a file that is synced: by a rename, or into another file system by way of one."""
    try:
        path.replace(target)
    except OSError as fault:
        if fault.errno != errno.EXDEV:
            raise
        with file_atomic(target) as copy, path.open("rb") as file:
            shutil.copyfileobj(file, copy, 1 << 20)
    else:
        sync_folder(target.parent)


def _fault(where: str, fault: Exception, remote: bool) -> GraftError:
    if type(fault).__name__ in NO_KEYS:
        return ConfigError(
            f"{printable(where)} needs keys, and there are none: {in_words(fault)}.\n"
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, where graft works."
        )
    if isinstance(fault, OSError) and fault.errno in FULL:
        return ResourceError(f"The disk is full while writing {printable(where)}.\nFree some.")
    words = f"{printable(where)} cannot be reached: {in_words(fault)}.\n"
    if remote:
        return TransientDataError(f"{words}Check the network and the address, or try again later.")
    return DataError(f"{words}Check the folder and its rights.")


def in_words(fault: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(f"{fault or type(fault).__name__}".split()).rstrip(".")[:200]
