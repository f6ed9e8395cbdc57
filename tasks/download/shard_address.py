"""Which addresses may be folders of shards, and what opens them.

fsspec's drivers alone do, and only of the kinds named here: WebDataset's own opener would run a
shell for ``pipe:``. Keys come from the environment (of AWS, its whole chain of profile, container
and machine), never from an address.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts import user_folder
from tasks.download.fetch import SCHEME, local_path
from tasks.download.shard_folder import Folder, in_words
from tasks.errors import ConfigError
from tasks.secrets import check_places
from tasks.words import printable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

DRIVERS = {"s3": "s3fs (in graft[shards])", "gs": "gcsfs", "az": "adlfs"}  # what opens a scheme


def open_folder(url: str, timeout: float = 60.0) -> Folder:
    """Return the folder at ``url``: a path, file://, s3://, gs:// or az://; it need not be there.

    ``timeout`` is the longest silence of a store in seconds. Raises ``ConfigError`` for another
    kind of address, one with a login or a query in it, and a driver that is not installed.
    """
    path = folder_here(url)
    if path is not None:
        return Folder(str(path), str(path), _driver("file"), remote=False)
    scheme = url.partition("://")[0]
    _check_address(url, scheme)
    fs = _driver(scheme, **_silence(scheme, timeout))
    address = url.rstrip("/")
    return Folder(address, address.partition("://")[2], fs, remote=True)


def folder_here(url: str) -> Path | None:
    """Return the folder of this machine that ``url`` names, links resolved; None for a store's.

    It need not be there. Raises ``ConfigError`` for what is neither a path nor an address, and as
    ``user_folder``.
    """
    scheme = SCHEME.match(url)
    if scheme is not None and scheme[1].lower() != "file":
        return None
    host = url[len(scheme[0]) :].partition("/")[0] if scheme else ""
    # pipe:, and fsspec's chains of drivers; of a file a login would be repeated in errors
    known = "@" not in host if scheme else ":" not in url.partition("/")[0]
    path = local_path(url, ConfigError) if known else None
    if path is None:
        raise ConfigError(_unknown(url))
    return user_folder(path)


def _silence(scheme: str, timeout: float) -> dict[str, Any]:
    """Return what tells a driver how long a store may be silent; each calls it by another name."""
    if scheme == "s3":
        return {"config_kwargs": {"read_timeout": timeout, "connect_timeout": timeout}}
    if scheme == "az":
        return {"read_timeout": timeout, "connection_timeout": timeout}
    try:
        from aiohttp import ClientTimeout  # gcsfs's own; a plain number would limit all of a block
    except ImportError:
        return {}  # nor is gcsfs there, which is said by name
    return {"requests_timeout": ClientTimeout(sock_connect=timeout, sock_read=timeout)}


def _check_address(url: str, scheme: str) -> None:
    if scheme not in DRIVERS:
        raise ConfigError(_unknown(url))
    rest = url.partition("://")[2]
    if re.search(r"[@?#\s\\*\[\]]|::|//", rest) or ".." in rest.split("/"):
        raise ConfigError(
            f"{scheme}://… holds a login, a query or characters that no folder of shards may.\n"
            f"Write {scheme}://BUCKET/FOLDER; keys come from the environment."
        )
    if not rest.strip("/"):
        raise ConfigError(f"{scheme}:// names no bucket.\nWrite {scheme}://BUCKET/FOLDER.")
    check_places(url, ConfigError)  # which repeats an address: it has no login now


def _unknown(url: str) -> str:
    # the login first: a password may have a question mark in it
    shown = printable(re.split(r"[?#]", url.rpartition("@")[2])[0])[:200]
    return f"{shown} is no folder of shards.\nGive a path, or s3://BUCKET/FOLDER (gs://, az://)."


def _driver(scheme: str, **options: Any) -> AbstractFileSystem:  # noqa: ANN401 - the driver's
    try:
        import fsspec

        return fsspec.filesystem(scheme, skip_instance_cache=False, **options)
    except ImportError as fault:
        needed = DRIVERS.get(scheme, "fsspec (in graft[shards])")
        raise ConfigError(
            f"{scheme}:// needs {needed}, which is not installed: {in_words(fault)}.\n"
            "Install graft[shards], and the driver where it is another."
        ) from fault
