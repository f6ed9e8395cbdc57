"""Slow storage: what comes slowly comes whole, what hangs ends in time and leaves nothing."""

from __future__ import annotations

import hashlib
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import TransientDataError

PIECES = 6
PAUSE = 0.25  # seconds between pieces; all of them take longer than the timeout
TIMEOUT = 1.0


class Drips(BaseHTTPRequestHandler):
    """Sends a file in pieces with pauses; /hangs stops half-way, /deaf never answers at all."""

    body = b""

    def do_GET(self) -> None:
        if self.path == "/deaf":
            time.sleep(4 * TIMEOUT)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        step = -(-len(self.body) // PIECES)
        for number in range(PIECES):
            if self.path == "/hangs" and number == PIECES // 2:
                time.sleep(4 * TIMEOUT)
                return
            self.wfile.write(self.body[number * step : (number + 1) * step])
            self.wfile.flush()
            time.sleep(PAUSE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow(serve_https, tmp_path: Path, pack, png, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of a slow server of an archive of class folders."""
    names = [f"{label}/{number}.png" for label in "ab" for number in range(4)]
    members = [(name, png(number)) for number, name in enumerate(names)]
    Drips.body = pack(tmp_path / "photos.zip", members).read_bytes()
    port, pem = serve_https(Drips, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return f"https://127.0.0.1:{port}"


def config(address: str) -> DataConfig:
    digest = hashlib.sha256(Drips.body).hexdigest()
    return DataConfig(kind="folder", path=address, sha256=digest, timeout_seconds=TIMEOUT)


def test_what_comes_slowly_comes_whole(slow: str, tmp_path: Path):
    start = time.monotonic()
    raw = download(config(f"{slow}/photos.zip"), tmp_path / "cache")
    assert time.monotonic() - start > TIMEOUT  # it is the silence that is bounded, not the whole
    assert sum(raw.counts.values()) == 8


@pytest.mark.parametrize("page", ["hangs", "deaf"])
def test_what_hangs_ends_in_time(slow: str, tmp_path: Path, page: str):
    start = time.monotonic()
    with pytest.raises(TransientDataError, match=f"/{page} cannot be read: .*timed out"):
        download(config(f"{slow}/{page}"), tmp_path / "cache")
    assert time.monotonic() - start < 3 * TIMEOUT
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
