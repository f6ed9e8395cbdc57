"""Fetching against files on disk and a real https server with a certificate made here."""

from __future__ import annotations

import hashlib
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from tasks.download.fetch import fetch, local_path
from tasks.download.https import fetch_https
from tasks.errors import (
    DataError,
    ResourceError,
    TransientDataError,
    TransientWeightsError,
    WeightsError,
)

BODY = b"graft" * 300_000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Pages(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Pages.asked.append(self.path)
        page = self.path.partition("?")[0]
        if page.startswith("/status/"):
            self.send_error(int(page.rpartition("/")[2]))
        elif page == "/to-http":
            self._redirect("http://127.0.0.1/body.zip")
        elif page == "/to-ftp":
            self._redirect("ftp://127.0.0.1/body.zip")
        elif page == "/moved":
            self._redirect("/body.zip")
        elif page == "/silent":
            time.sleep(2)
        elif page == "/huge":
            self._body(b"", claimed=1 << 60)
        elif page == "/broken":
            self._body(BODY[:1000], claimed=len(BODY))
        else:
            self._body(BODY, claimed=len(BODY))

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def _body(self, body: bytes, claimed: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(claimed))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(serve_https) -> tuple[str, Path]:
    port, pem = serve_https(Pages, "127.0.0.1")
    return f"https://127.0.0.1:{port}", pem


@pytest.fixture
def site(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    address, pem = server
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Pages.asked.clear()
    return address


def files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if not p.is_dir())


def test_download_is_kept_under_its_digest_and_not_asked_for_twice(site: str, tmp_path: Path):
    for _ in range(2):
        path = fetch(f"{site}/a/Body.ZIP?token=1", DIGEST, tmp_path, 5, DataError)
    assert path == tmp_path / "downloads" / f"{DIGEST}.zip"
    assert path.read_bytes() == BODY
    assert Pages.asked == ["/a/Body.ZIP?token=1"]
    assert files_in(tmp_path) == [path]


def test_damaged_download_is_fetched_again(site: str, tmp_path: Path):
    path = fetch(f"{site}/body.zip", DIGEST, tmp_path, 5, DataError)
    path.write_bytes(BODY[:-1])
    assert fetch(f"{site}/body.zip", DIGEST, tmp_path, 5, DataError).read_bytes() == BODY


def test_redirect_to_https_is_followed(site: str, tmp_path: Path):
    assert fetch(f"{site}/moved", DIGEST, tmp_path, 5, DataError).read_bytes() == BODY


@pytest.mark.parametrize(
    ("page", "kind", "words"),
    [
        ("/status/404", WeightsError, "404"),
        ("/status/403", WeightsError, "403"),
        ("/status/503", TransientWeightsError, "503"),
        ("/status/429", TransientWeightsError, "429"),
        ("/to-http", WeightsError, "not https"),
        ("/to-ftp", WeightsError, "not https"),
        ("/silent", TransientWeightsError, "timed out"),
        ("/broken", TransientWeightsError, "broke off after 1,000 of 1,500,000 bytes"),
        ("/huge", ResourceError, "bytes left"),
    ],
)
def test_fault_leaves_the_cache_as_it_was(
    site: str, tmp_path: Path, page: str, kind: type[Exception], words: str
):
    with pytest.raises(kind, match=words) as caught:
        fetch(f"{site}{page}?token=secret", DIGEST, tmp_path, 0.5, WeightsError)
    assert type(caught.value) is kind
    assert caught.value.exit_code == (8 if kind is ResourceError else 4)
    assert "secret" not in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    assert files_in(tmp_path) == []


def test_wrong_digest_is_refused_and_not_kept(site: str, tmp_path: Path):
    with pytest.raises(DataError, match=DIGEST) as caught:
        fetch(f"{site}/body.zip", "0" * 64, tmp_path, 5, DataError)
    assert not isinstance(caught.value, TransientDataError)
    assert files_in(tmp_path) == []


def test_certificate_nobody_vouches_for_is_refused(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(DataError, match="SSL_CERT_FILE") as caught:
        fetch(f"{server[0]}/body.zip", DIGEST, tmp_path, 5, DataError)
    assert not isinstance(caught.value, TransientDataError)


def test_nobody_listening_is_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(TransientDataError, match="refused"):
        fetch("https://127.0.0.1:1/body.zip", DIGEST, tmp_path, 5, DataError)


def test_impossible_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(WeightsError, match="no usable address"):
        fetch("https://a..b/body.zip", DIGEST, tmp_path, 5, WeightsError)


def test_local_paths_are_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "my data.zip"
    file.write_bytes(BODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for location in ("my data.zip", "~/my data.zip", str(file), file.as_uri()):
        assert fetch(location, DIGEST, tmp_path / "cache", 5, DataError) == file
        assert fetch(location, None, tmp_path / "cache", 5, DataError) == file
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://example.org/a.zip", "http:// is not supported"),
        ("ftp://example.org/a.zip", "ftp:// is not supported"),
        ("s3://bucket/a.zip", "s3:// is not supported"),
        ("HTTPS://example.org/a.zip", "needs a sha256"),
        ("https://user:secret@example.org/a.zip", "usable https address"),
        ("https:///a.zip", "usable https address"),
        ("https://example.org/ä.zip", "usable https address"),
        ("https://example.org/a b.zip", "usable https address"),
        ("https://example.org:port/a.zip", "no address"),
        ("file://server/a.zip", "on this machine"),
        ("nowhere.zip", "not there"),
        (".", "a folder"),
        ("", "no path"),
        ("a\0b", "no path"),
        ("~nobody-of-this-name/a.zip", "cannot be followed"),
    ],
)
def test_unusable_locations_are_refused(
    location: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=words) as caught:
        fetch(location, None, tmp_path / "cache", 5, WeightsError)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_local_file_of_another_digest_is_refused(tmp_path: Path):
    file = tmp_path / "a.zip"
    file.write_bytes(b"other")
    with pytest.raises(DataError, match="has sha256"):
        fetch(str(file), DIGEST, tmp_path / "cache", 5, DataError)


def test_local_path_says_none_for_https_alone(tmp_path: Path):
    assert local_path("https://example.org/a.zip", DataError) is None
    assert local_path(str(tmp_path), DataError) == tmp_path.resolve()


def test_first_digits_of_a_digest_are_enough_for_what_publishes_no_more(site: str, tmp_path: Path):
    path = fetch_https(f"{site}/net.pth", DIGEST[:8], tmp_path, 5, WeightsError)
    assert path == tmp_path / "downloads" / f"{DIGEST[:8]}.pth"
    assert path.read_bytes() == BODY
    with pytest.raises(WeightsError, match=f"sha256 {DIGEST}, not 00000000"):
        fetch_https(f"{site}/net.pth", "0" * 8, tmp_path, 5, WeightsError)
    assert files_in(tmp_path) == [path]
