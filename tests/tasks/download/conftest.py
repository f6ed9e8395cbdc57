"""Small image folders, archives with any member, and a look at a folder before and after."""

from __future__ import annotations

import errno
import io
import socket
import tarfile
import threading
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Snapshot = Callable[[Path], dict[str, bytes]]


def full_disk(*_: object) -> None:
    """Stand for a call that the system refuses for want of room."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="session")
def png() -> Callable[[int], bytes]:
    """Return a maker of PNGs that differ by their number."""

    def make(number: int) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def tree(tmp_path: Path, png: Callable[[int], bytes]) -> Callable[..., Path]:
    """Return a maker of folders: names of files, each of its own content."""

    def make(*names: str, root: str = "data") -> Path:
        folder = tmp_path / root
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            path = folder / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(number))
        return folder

    return make


@pytest.fixture(scope="session")
def pack() -> Callable[..., Path]:
    """Return a maker of archives of plain files; the suffix says which kind."""

    def make(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members:
                    archive.writestr(name, content)
            return path
        mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
        with tarfile.open(path, mode) as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return path

    return make


@pytest.fixture(scope="session")
def snapshot() -> Snapshot:
    """Return every file of a folder, hidden ones too, with its content."""

    def look(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return look


class Proxy:
    """Passes what is said to a server on, and cuts some of its longer answers off."""

    def __init__(self, port: int) -> None:
        self.cuts, self.after, self._port = 0, 0, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, times: int, after: int) -> None:
        """Cut the next ``times`` connections off that answer with over ``after`` bytes."""
        self.cuts, self.after = times, after

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            for pump in (self._ask, self._answer):
                threading.Thread(target=pump, args=(near, far), daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while piece := near.recv(1 << 16):
                far.sendall(piece)
        far.close()

    def _answer(self, near: socket.socket, far: socket.socket) -> None:
        told = 0
        with suppress(OSError):
            while piece := far.recv(1 << 14):
                told += len(piece)
                if self.cuts and told > self.after:
                    self.cuts -= 1
                    break
                near.sendall(piece)
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="session")
def store() -> Iterator[Proxy]:
    """Return an S3 server with the bucket ``photos``, behind a line that can be cut."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{proxy.port}/photos", method="PUT")
    )
    yield proxy
    proxy.close()
    server.stop()


@pytest.fixture
def s3(store: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return an address in that store; the keys to it are in the environment."""
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    S3FileSystem.clear_instance_cache()
    yield f"s3://photos/{uuid.uuid4().hex}"
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again without waiting."""
    monkeypatch.setattr("tasks.retry.RETRY_DELAYS", [0.0, 0.0])
