"""Images by address against a real https server with a certificate made here."""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from tasks.errors import ConfigError
from tasks.register import serving_urls
from tasks.register.serving_urls import NotFetched, UrlReader, is_public

BODY = bytes(range(256)) * 1000


class Pages(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Pages.asked.append(f"{self.headers['Host']}{self.path}")
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/image.png")
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        elif self.path == "/slow":
            self._slowly()
        else:
            self.send_response(200)
            if self.path != "/endless":
                promised = len(BODY) + (self.path == "/torn")
                self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(BODY)

    def _slowly(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        for _ in range(40):  # a header that never ends, a byte at a time
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(serve_https) -> tuple[int, Path]:
    return serve_https(Pages, "localhost")


@pytest.fixture(scope="module")
def port(served: tuple[int, Path]) -> int:
    return served[0]


@pytest.fixture(scope="module")
def pem(served: tuple[int, Path]) -> Path:
    return served[1]


@pytest.fixture
def reader(port: int, pem: Path) -> UrlReader:
    """Return a reader that takes this machine for a public one, and the certificate for good."""
    hosts = [f"localhost:{port}", f"127.0.0.1:{port}"]
    return UrlReader(hosts, lambda _: True, ssl.create_default_context(cafile=str(pem)))


def test_an_image_of_a_listed_host_is_read(reader, port):
    for host in ("localhost", "LOCALHOST", "localhost."):
        assert reader.read(f"https://{host}:{port}/image.png?size=1", len(BODY)) == BODY
        assert Pages.asked[-1] == f"localhost:{port}/image.png?size=1"
    assert reader.read(f"https://localhost:{port}/endless", len(BODY)) == BODY


@pytest.mark.parametrize(
    ("path", "most", "words"),
    [
        ("/image.png", len(BODY) - 1, "more than the 255,999 bytes"),
        ("/endless", 1000, "more than the 1,000 bytes"),
        ("/missing", 10**6, "localhost answers 404"),
        ("/moved", 10**6, "localhost answers 302 and redirects are not followed"),
        ("/torn", 10**6, "broke off after 256,000 bytes"),
        ("/a b", 10**6, "cannot be read"),
    ],
)
def test_what_is_not_there_is_said(reader, port, path, most, words):
    with pytest.raises(NotFetched, match=words):
        reader.read(f"https://localhost:{port}{path}", most)


def test_time_is_up_also_when_a_byte_comes_now_and_then(reader, port, monkeypatch):
    monkeypatch.setattr(serving_urls, "SECONDS", 0.4)
    begun = time.monotonic()
    with pytest.raises(NotFetched, match=r"localhost took longer than 0\.4 s"):
        reader.read(f"https://localhost:{port}/slow", 10**6)
    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda port: f"http://localhost:{port}/image.png", "only https"),
        (lambda _: "file:///etc/hostname", "only https"),
        (lambda _: "", "only https"),
        (lambda _: "https://localhost/image.png", "the host localhost is not allowed"),
        (lambda port: f"https://example.org:{port}/", "the host example.org:.* is not allowed"),
        (lambda port: f"https://localhost:{port}@example.org/", "with a user in it"),
        (lambda port: f"https://user:word@localhost:{port}/", "with a user in it"),
        (lambda _: "https://localhost:99999/", "no address"),
        (lambda _: "https://[localhost/", "no address"),
        (lambda port: f"https://127.0.0.1:{port}/image.png", "cannot be read: .*certificate"),
    ],
)
def test_another_address_is_not_asked(reader, port, make: Callable[[int], str], words):
    before = len(Pages.asked)
    with pytest.raises(NotFetched, match=words):
        reader.read(make(port), 10**6)
    assert len(Pages.asked) == before


def test_a_host_of_an_internal_network_is_not_asked(port, pem):
    reader = UrlReader([f"localhost:{port}"], context=ssl.create_default_context(cafile=str(pem)))
    before = len(Pages.asked)
    with pytest.raises(NotFetched, match="localhost is not on the public internet"):
        reader.read(f"https://localhost:{port}/image.png", 10**6)
    assert len(Pages.asked) == before


def test_a_host_that_nobody_knows_or_that_does_not_listen_is_said(pem):
    reader = UrlReader(["nowhere.invalid", "localhost:1"], lambda _: True)
    for address in ("https://nowhere.invalid/", "https://localhost:1/"):
        with pytest.raises(NotFetched, match="cannot be read: "):
            reader.read(address, 10)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # where clouds keep a machine's credentials
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.1.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff0e::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("2002:7f00:1::", False),  # 6to4 of 127.0.0.1
        ("64:ff9b::a9fe:a9fe", False),  # NAT64 of 169.254.169.254
        ("64:ff9b::5db8:d70e", True),
        ("2002:5db8:d70e::1", True),  # 6to4 of 93.184.215.14
        ("64:ff9b:1::5db8:d70e", False),  # NAT64 of a site's own
        ("::7f00:1", False),  # IPv4-compatible, of old
        ("::5db8:d70e", False),
        ("::ffff:0:7f00:1", False),  # SIIT's
        ("::ffff:0:5db8:d70e", False),
        ("fec0::1", False),  # site-local, of old
        ("5f00::1", False),  # SRv6
        ("4000::1", False),  # nobody's yet
        ("100::1", False),  # discarded
        ("1fff:ffff::1", False),
        ("2001:db8::1", False),  # documentation
        ("3fff:1::1", False),
        ("3fff:1000::1", True),
        ("2001::5db8:d70e", False),  # Teredo
        ("2001:10::1", False),  # ORCHID
        ("2001:20::1", False),
        ("2001:2::1", False),  # benchmarks
        ("2001:1ff:ffff::1", False),
        ("2001:200::1", True),
        ("2a00:1450:4001:829::2004", True),
        ("192.0.0.8", False),
        ("192.0.0.170", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("198.18.0.1", False),
        ("203.0.113.7", False),
        ("::ffff:192.0.0.8", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize("host", ["", "https://example.org", "a/b", "u@a", "a:b", "a:99999", "[a"])
def test_what_is_no_host_is_refused(host):
    with pytest.raises(ConfigError, match="is no host") as caught:
        UrlReader([host])
    assert len(str(caught.value).splitlines()) == 2
