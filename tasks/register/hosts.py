"""Which hosts are asked for files, or given any: the tracking server, and those the reader allows.

Whoever may register a version could else make all who read it ask any host for anything, and send
their logins there (CWE-918, CWE-522). MLflow guards its servers so, by
``mlflow.store.artifact.host_policy``, not those who read; the schemes here are those of its list.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

from tasks.errors import ConfigError
from tasks.words import printable

VARIABLE = "GRAFT_ARTIFACT_HOSTS"
ELSEWHERE = ("runs", "models")  # the registry would be asked again, and could name any host
PROXIED = "mlflow-artifacts"
BY_SETTINGS = ("hdfs", "viewfs", PROXIED)  # without a host, the reader's own settings name it
PORTS = {
    "http": 80,
    "https": 443,
    "ftp": 21,
    "sftp": 22,
    "hdfs": None,
    "viewfs": None,
    "abfss": 443,
    "r2": 443,
    "b2": 443,
}
# hosts of the company that the scheme stands for: a login goes to it, not to whoever has an account
PROVIDERS = {
    "abfss": (
        ".dfs.core.windows.net",
        ".dfs.core.chinacloudapi.cn",
        ".dfs.core.usgovcloudapi.net",
        ".dfs.fabric.microsoft.com",
    ),
    "r2": (".r2.cloudflarestorage.com",),
    "b2": (".backblazeb2.com",),
}

Target = tuple[str, int | None]  # host and port


def refused_host(address: str, server: str) -> str | None:
    """Return ``SCHEME://HOST`` of an address that is not to be asked; ``None``: it may be.

    ``server`` is the tracking server's address. Raises ``ConfigError`` for a list of hosts in
    ``GRAFT_ARTIFACT_HOSTS`` that cannot be read.
    """
    scheme = address.partition(":")[0].lower()
    try:
        found, own = urlsplit(address), urlsplit(server)
        if _may_be_asked(found, own):
            return None
    except ValueError:  # no port, no host
        return f"{printable(scheme)}://…"
    return f"{printable(found.scheme)}://{printable(found.netloc.rpartition('@')[2])}"


def _may_be_asked(found: SplitResult, own: SplitResult) -> bool:
    if found.scheme in ELSEWHERE:
        return False
    if found.scheme in BY_SETTINGS and not found.netloc:
        return True
    if found.scheme not in PORTS and found.scheme != PROXIED:
        return True  # it names a bucket or a folder, no host
    if "\\" in found.netloc or any(each.isspace() for each in found.netloc):
        return False  # HTTP clients take the host's end for another than urlsplit does
    scheme = own.scheme if found.scheme == PROXIED else found.scheme
    target = _target(found, scheme)
    if target[0].endswith(PROVIDERS.get(scheme, ())) and target[1] == PORTS[scheme]:
        return True
    is_own = scheme == own.scheme and target == _target(own, own.scheme)
    return is_own or target in _allowed(scheme)


def _target(parts: SplitResult, scheme: str) -> Target:
    """Return host and port, each as all of its spellings; raises ``ValueError`` for no port."""
    host = (parts.hostname or "").lower()
    try:
        if ipaddress.ip_address(host).is_loopback:
            host = "localhost"
    except ValueError:
        pass  # a name
    return host, parts.port or PORTS.get(scheme)


def _allowed(scheme: str) -> set[Target]:
    words = [word.strip() for word in os.environ.get(VARIABLE, "").split(",")]
    return {_entry(word, scheme) for word in words if word}


def _entry(word: str, scheme: str) -> Target:
    try:
        parts = urlsplit(f"//{word}")
        if parts.netloc != word or "@" in word or not parts.hostname:
            raise ValueError(word)
        return _target(parts, scheme)
    except ValueError:
        raise ConfigError(
            f"{VARIABLE} has an entry that is no host.\n"
            "Write HOST or HOST:PORT, with commas between them: files.example.org,store:9000."
        ) from None
