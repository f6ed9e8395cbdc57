"""Find the file that a user names: on this machine, or over https with a digest.

For images and weights alike.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.download.https import fetch_https, shown
from tasks.errors import GraftError
from tasks.secrets import check_places
from tasks.words import printable

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def fetch(
    location: str, sha256: str | None, cache: Path, timeout: float, error: type[GraftError]
) -> Path:
    """Return the path of the file that ``location`` names, checked against ``sha256`` if given.

    ``location`` is a path (``~`` is the home folder, a relative one starts at the working folder),
    a ``file://`` or an ``https://`` address; an https file is kept in ``cache/downloads`` and needs
    ``sha256``. ``timeout`` is the longest silence of a download in seconds. Raises ``error``
    (``DataError`` or ``WeightsError``), its transient kind for a network fault that may pass, and
    ``ResourceError`` on a full disk.
    """
    local = local_path(location, error)
    if local is not None:
        _check_local(local, sha256, error)
        return local
    if sha256 is None:
        raise error(
            f"{shown(location)} is an https address and needs a sha256.\n"
            "Give the digest its publisher states, or that of a copy you trust."
        )
    return fetch_https(location, sha256, cache, timeout, error)


def local_path(location: str, error: type[GraftError]) -> Path | None:
    """Return the absolute path that ``location`` names, links resolved; None for https.

    The path need not exist. Raises ``error`` for another scheme or a malformed address.
    """
    check_places(location, error)
    scheme = SCHEME.match(location)
    if scheme is None:
        return _absolute(location, error)
    if scheme[1].lower() == "file":
        return _absolute(_path_of_file_url(location, error), error)
    _check_https(location, error)
    return None


def _absolute(path: str, error: type[GraftError]) -> Path:
    if not path or "\0" in path:
        raise error(f"{path!r} is no path: name a file or folder.")
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as fault:  # an unknown ~user, links in a circle
        raise error(f"{printable(path)} cannot be followed: {fault}") from fault


def _path_of_file_url(location: str, error: type[GraftError]) -> str:
    parts = urlsplit(location)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise error(
            f"{printable(location)} names no file on this machine.\n"
            "Write file:///folder/file, or a plain path."
        )
    return unquote(parts.path)


def _check_https(location: str, error: type[GraftError]) -> None:
    try:
        parts = urlsplit(location)
        usable = parts.scheme == "https" and parts.hostname and not parts.username
        _ = parts.port  # ValueError where it is no port number
    except ValueError as fault:
        raise error(f"{printable(location)} is no address: {fault}.") from fault
    if parts.scheme != "https":
        raise error(
            f"{parts.scheme}:// is not supported: {shown(location)}\n"
            "Use https:// with a sha256, file:// or a local path."
        )
    if not usable or not re.fullmatch(r"[!-~]+", location):
        raise error(
            f"{shown(location)} is no usable https address: no host, a login, or characters "
            "that must be percent-encoded."
        )


def _check_local(path: Path, sha256: str | None, error: type[GraftError]) -> None:
    if not path.is_file():
        other = "no plain file" if path.exists() else "not there"
        fact = "a folder, not a file" if path.is_dir() else other
        raise error(
            f"{printable(path)} is {fact}.\nCheck the path; a relative one starts at {Path.cwd()}."
        )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if sha256 else None
    except OSError as fault:
        raise error(f"{printable(path)} cannot be read: {fault.strerror}.") from fault
    if found != sha256:
        raise error(
            f"{printable(path)} has sha256 {found}, not {sha256}.\n"
            "The file was changed or the digest is of another file: check both."
        )
