"""Images by address, for the hosts that ``--allow-url`` names: a server must not fetch at will.

Whoever may name an address could make the server read what only it can reach (server-side request
forgery, CWE-918). So: https alone, listed hosts alone, on public addresses alone; the name is
resolved once and that very address is connected to, so that it cannot change in between; no
redirect is followed, and no proxy is used.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from http.client import HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from tasks.errors import ConfigError
from tasks.words import printable

SECONDS = 5.0  # longest time for one image, once its host's address is known
PIECE = 1 << 16  # bytes read at a time
PORT = 443

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

GIVEN_OUT = ipaddress.IPv6Network("2000::/3")
# of IANA's special-purpose registries, what ipaddress calls global or not by Python's version
SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarks
        "3fff::/20",  # documentation, as 2001:db8::/32
    )
)


class NotFetched(Exception):  # noqa: N818 - an answer to the client
    """An address that gives no image; ``str(error)`` says why."""


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet, also one wrapped in an IPv6 one.

    IPv6 is given out from 2000::/3 alone (IANA, RFC 4291); whatever else there is stays on a site
    or a machine, unless it wraps an IPv4 address, which then counts.
    """
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or _translated(address)
        if wrapped is not None:
            return is_public(wrapped)
        if address not in GIVEN_OUT:
            return False
    special = any(address in network for network in SPECIAL)  # False for the other family's
    return address.is_global and not address.is_multicast and not special


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address in one of NAT64's (RFC 6052, 64:ff9b::/96)."""
    if address not in ipaddress.IPv6Network("64:ff9b::/96"):
        return None
    return ipaddress.IPv4Address(address.packed[-4:])


class UrlReader:
    """Reads images from listed hosts."""

    def __init__(
        self,
        hosts: Collection[str],
        public: Callable[[Address], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Take hosts as HOST or HOST:PORT, and which addresses they may resolve to.

        Raises ``ConfigError`` for what is no host.
        """
        self._hosts = {_listed(host) for host in hosts}
        self._public = public
        self._context = context or ssl.create_default_context()

    def read(self, address: str, most: int) -> bytes:
        """Return what is at ``address``, ``most`` bytes at the most; raises ``NotFetched``."""
        host, port, path = self._allowed(address)
        try:
            reached = self._resolved(host, port)
            with _Timed(host, port, reached, self._context) as connection:
                return _body(connection, path, most)
        except TimeoutError as error:
            raise NotFetched(f"{host} took longer than {SECONDS:g} s") from error
        except (OSError, HTTPException, ValueError) as error:
            raise NotFetched(f"{host} cannot be read: {_words(error)}") from error

    def _allowed(self, address: str) -> tuple[str, int, str]:
        """Return host, port and path of an address that may be read."""
        try:
            parts = urlsplit(address)
            host, port = (parts.hostname or "").rstrip("."), parts.port or PORT
        except ValueError as error:
            raise NotFetched(f"no address: {error}") from error
        if parts.scheme != "https" or not host:
            raise NotFetched("only https:// addresses are read")
        if "@" in parts.netloc:
            raise NotFetched("an address with a user in it is not read")
        if (host, port) not in self._hosts:
            shown = host if port == PORT else f"{host}:{port}"
            raise NotFetched(f"the host {printable(shown[:100])} is not allowed (--allow-url)")
        path = parts.path or "/"
        return host, port, f"{path}?{parts.query}" if parts.query else path

    def _resolved(self, host: str, port: int) -> str:
        """Return the first address of a host; none may be of an internal network."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not all(self._public(ipaddress.ip_address(address)) for address in addresses):
            raise NotFetched(f"{host} is not on the public internet")
        return addresses[0]


def _listed(host: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"https://{host}")
        name, port = (parts.hostname or "").rstrip("."), parts.port or PORT
    except ValueError:
        name = ""
    if not name or "@" in host or parts.netloc != host:
        raise ConfigError(
            f"{printable(host)} is no host.\n"
            "Write --allow-url HOST or HOST:PORT, such as --allow-url images.example.org."
        )
    return name, port


class _Timed(HTTPSConnection):
    """Connects to a given address of a host, and is cut off when the time is up.

    A socket's own timeout begins anew with every byte.
    """

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=SECONDS, context=context)
        self._address = address
        self._tls = context
        self._end = time.monotonic() + SECONDS
        self._timer = threading.Timer(SECONDS, self._cut)

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        secure = self._tls.wrap_socket(
            plain, server_hostname=self.host, do_handshake_on_connect=False
        )
        self.sock = secure  # from here on it can be cut
        self._check_time()
        secure.do_handshake()

    def _cut(self) -> None:
        with suppress(OSError):  # closed by the other side already
            if self.sock is not None:
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # SSLSocket's is for its user

    def _check_time(self) -> None:
        if time.monotonic() >= self._end:
            raise TimeoutError

    def __enter__(self) -> _Timed:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.close()
        self._check_time()


def _body(connection: HTTPSConnection, path: str, most: int) -> bytes:
    connection.request("GET", path, headers={"User-Agent": "graft", "Accept": "image/*"})
    response = connection.getresponse()
    if response.status != 200:
        again = " and redirects are not followed" if 300 <= response.status < 400 else ""
        raise NotFetched(f"{connection.host} answers {response.status}{again}")
    content = bytearray()
    while len(content) <= most and (piece := response.read(PIECE)):
        content += piece
    if len(content) > most:
        raise NotFetched(f"more than the {most:,} bytes that are left for this request")
    if response.length:  # what was promised and did not come; http.client ends quietly
        raise NotFetched(f"{connection.host} broke off after {len(content):,} bytes")
    return bytes(content)


def _words(error: Exception) -> str:
    words = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or error
    return printable(" ".join(str(words).split())[:150]) or type(error).__name__
