"""Small image folders, archives with any member, and a look at a folder before and after."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Snapshot = Callable[[Path], dict[str, bytes]]


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
