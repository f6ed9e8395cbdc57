"""Download one file over https into the cache, whole and of the right digest, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

from tasks.artifacts import disk_errors, sha256_file, sync_folder
from tasks.errors import (
    DataError,
    GraftError,
    ResourceError,
    TransientDataError,
    TransientWeightsError,
    WeightsError,
)
from tasks.secrets import revealed
from tasks.use import in_use

PIECE = 1 << 20  # bytes read at a time
# RFC 9110 section 15 and RFC 6585: the server says that a later try may go well
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# what is raised in an error's place where another try may go well
TRANSIENT: Mapping[type[GraftError], type[GraftError]] = {
    DataError: TransientDataError,
    WeightsError: TransientWeightsError,
}


def fetch_https(
    address: str, sha256: str, cache: Path, timeout: float, error: type[GraftError]
) -> Path:
    """Return ``cache/downloads/<sha256><suffix>``, downloaded unless it is there and undamaged.

    ``sha256`` may be the first hex digits only, which is what torchvision publishes. ``timeout`` is
    the longest silence in seconds. Raises ``error``, a key of ``TRANSIENT``, where another try
    cannot help (404, certificate, digest), its value there where it may, ``ResourceError`` on a
    full disk, ``ConfigError`` for a secret in ``address`` that is not there.
    """
    target = cache / "downloads" / f"{sha256}{_suffix(address)}"
    if target.is_file() and sha256_file(target).startswith(sha256):
        return target
    with (
        revealed(address) as real,
        _network_errors(address, error),
        _open(real, timeout, error) as response,
        disk_errors(str(target)),  # innermost: what is left of OSError is the network's
    ):
        _check_space(response, cache, address)
        _save(response, target, sha256, address, error)
    return target


def shown(address: str) -> str:
    """Return the address without its query and credentials, which may be secrets."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone: a plain one could be read and changed on the way."""

    def __init__(self, error: type[GraftError]) -> None:
        self.error = error

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise self.error(
                f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not https.\n"
                "Give an address that stays on https."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, timeout: float, error: type[GraftError]) -> HTTPResponse:
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(secure, _HttpsRedirects(error))
    headers = {"User-Agent": "graft"}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - fetch's https alone
    response: HTTPResponse = opener.open(request, timeout=timeout)
    return response


def _check_space(response: HTTPResponse, cache: Path, address: str) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    size = response.length  # of the body; None where the server does not say
    if size is not None and size > free:
        raise ResourceError(
            f"{shown(address)} has {size:,} bytes, and {cache} has {free:,} bytes left.\n"
            "Free some space, or name another folder in output.cache."
        )


def _save(
    response: HTTPResponse, target: Path, sha256: str, address: str, error: type[GraftError]
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with in_use([Path(name)]), os.fdopen(handle, "wb") as file:
            found = _stream(response, file, address, error)
            os.fsync(file.fileno())
        if not found.startswith(sha256):
            raise error(
                f"{shown(address)} has sha256 {found}, not {sha256}.\n"
                "The file was changed or the digest is of another file: check both."
            )
        Path(name).chmod(0o644)
        Path(name).replace(target)
        sync_folder(target.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _stream(response: HTTPResponse, file: IO[bytes], address: str, error: type[GraftError]) -> str:
    """Copy the body to ``file`` and return its digest."""
    digest, size, promised = hashlib.sha256(), 0, response.length
    while piece := response.read(PIECE):
        file.write(piece)
        digest.update(piece)
        size += len(piece)
    file.flush()
    # http.client ends quietly when the connection breaks off in the middle
    if promised is not None and size < promised:
        raise TRANSIENT[error](
            f"{shown(address)} broke off after {size:,} of {promised:,} bytes.\nTry again later."
        )
    return digest.hexdigest()


@contextmanager
def _network_errors(address: str, error: type[GraftError]) -> Iterator[None]:
    """Turn what urllib raises into errors for a user."""
    where = shown(address)
    try:
        yield
    except urllib.error.HTTPError as fault:
        passing = fault.code in TRANSIENT_STATUS
        kind, advice = (TRANSIENT[error], "Try again later") if passing else (error, "Check it")
        raise kind(f"{where} answers {fault.code} {fault.reason}.\n{advice}.") from fault
    except (urllib.error.URLError, ssl.SSLError, HTTPException, OSError) as fault:
        reason = fault.reason if isinstance(fault, urllib.error.URLError) else fault
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise error(
                f"{where}: the certificate is not trusted: {reason.verify_message}.\n"
                "Where it is your own, name its authority in SSL_CERT_FILE."
            ) from fault
        raise TRANSIENT[error](
            f"{where} cannot be read: {reason or type(reason).__name__}.\n"
            "Check the network and the address, or try again later."
        ) from fault
    except ValueError as fault:  # a host that no name server could have
        raise error(f"{where} is no usable address: {fault}.") from fault


def _suffix(address: str) -> str:
    """Return the file name's last suffix, which readers of weights go by."""
    suffix = PurePosixPath(unquote(urlsplit(address).path)).suffix
    return suffix.lower() if re.fullmatch(r"\.[A-Za-z0-9]{1,15}", suffix) else ""
