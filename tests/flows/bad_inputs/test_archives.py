"""Archives and manifests that are damaged, hostile, or say what cannot be."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.flows.bad_inputs.rows import ARCHIVE, INDEX, Bad, Make, check, encoded

LONG = 255 * "n"


def archive(write: Callable[[Path], object], name: str = "a.zip") -> Make:
    def make(folder: Path) -> list[str]:
        write(folder / name)
        return check(f"data.path={folder / name}")(folder)

    return make


def zipped(*members: tuple[str, bytes], links: bool = False) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                info = zipfile.ZipInfo(name)
                info.external_attr = (0o120777 if links else 0o100644) << 16
                file.writestr(info, content)

    return write


def tarred(name: str, kind: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w") as file:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            file.addfile(member)

    return write


def half_of_the_photos(path: Path) -> None:
    made = Path(shutil.make_archive(str(path.with_suffix("")), "zip", "photos"))
    content = made.read_bytes()
    made.write_bytes(content[: len(content) // 2])


PICTURE = encoded((9, 9), "PNG")
ARCHIVES = {
    "of no bytes": Bad(
        archive(lambda p: p.write_bytes(b"")), 3, r"a\.zip.*neither a zip nor a tar"
    ),
    "of text": Bad(archive(lambda p: p.write_text("no")), 3, r"a\.zip cannot be unpacked"),
    "cut off": Bad(archive(half_of_the_photos), 3, r"a\.zip cannot be unpacked"),
    "that leads out": Bad(archive(zipped(("../x.png", PICTURE))), 3, r"'\.\./x\.png' is a path"),
    "with a root": Bad(archive(zipped(("/x.png", PICTURE))), 3, "'/x.png' is a path that leads"),
    "with a drive": Bad(archive(zipped(("C:\\x.png", PICTURE))), 3, "leads out"),
    "with a link": Bad(archive(zipped(("a", b"/etc"), links=True)), 3, "'a' is a link"),
    "of folders in folders": Bad(
        archive(zipped((1_500 * "a/" + "x.png", PICTURE))), 3, "nested over 100 folders deep"
    ),
    "with a file twice": Bad(archive(zipped(("a/b", b""), ("a", b""))), 3, "'a' twice"),
    "with a name too long": Bad(archive(zipped((LONG + "n", b""))), 3, r"name too long: n{60}\.\n"),
    "with a class to obey": Bad(
        archive(zipped(("a\x1b[31m/x.png", PICTURE), ("b/x.png", PICTURE))),
        3,
        r"no plain text: a\\x1b\[31m",
        ARCHIVE,
    ),
    "of one image": Bad(
        archive(zipped(("a/x.png", PICTURE))), 3, r"given/a\.zip has one class", ARCHIVE
    ),
    "of nothing": Bad(archive(zipped()), 3, "no image", ARCHIVE),
    "with a device": Bad(archive(tarred("x", tarfile.CHRTYPE), "a.tar"), 3, "'x' is a link or a"),
    "with a hard link": Bad(archive(tarred("x", tarfile.LNKTYPE), "a.tar"), 3, "'x' is a link"),
    "with a pipe": Bad(archive(tarred("x", tarfile.FIFOTYPE), "a.tar"), 3, "'x' is a link or a"),
}


def manifest(content: bytes | str, *overrides: str, name: str = "list.csv") -> Make:
    def make(folder: Path) -> list[str]:
        shutil.copytree("photos", folder / "photos")
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return check("data.kind=manifest", f"data.path={path}", *overrides)(folder)

    return make


def parquet(frame: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.to_parquet(stream)
    return stream.getvalue()


ROWS = (
    "photos/red/0.png,red\nphotos/red/1.png,red\nphotos/blue/0.png,blue\nphotos/blue/1.png,blue\n"
)
TABLE = "path,label\n" + ROWS
MANIFESTS = {
    "of no bytes": Bad(manifest(""), 3, r"list\.csv cannot be read"),
    "of a header alone": Bad(manifest("path,label\n"), 3, r"list\.csv has no rows"),
    "without a header": Bad(manifest(ROWS), 3, "no column 'path'"),
    "without labels": Bad(manifest("path,class\n" + ROWS), 3, "no column 'label'"),
    "with another separator": Bad(manifest(TABLE.replace(",", ";")), 3, "no column 'path'"),
    "of another column": Bad(manifest(TABLE, "data.label_column=labl"), 3, "Did you mean 'label'"),
    "of another split column": Bad(manifest(TABLE, "data.split_column=fold"), 3, "column 'fold'"),
    "with an empty path": Bad(manifest(TABLE + ",red\n"), 3, "no path in row 5"),
    "with an empty label": Bad(manifest(TABLE + "photos/red/2.png,\n"), 3, "no label in row 5"),
    "with a cell too many": Bad(manifest(TABLE + "a,b,c\n"), 3, r"list\.csv cannot be read"),
    "with a quote that is open": Bad(manifest(TABLE + '"photos'), 3, r"list\.csv"),
    "in Latin-1": Bad(manifest((TABLE + "é,red\n").encode("latin-1")), 3, r"list\.csv.*UTF-8"),
    "in UTF-16": Bad(manifest(TABLE.encode("utf-16")), 3, r"list\.csv.*UTF-8"),
    "with a null byte": Bad(manifest(TABLE + "a\0b,red\n"), 3, r"list\.csv|a\\x00b"),
    "of lost files": Bad(manifest(TABLE + "nowhere/a.png,red\n"), 3, r"nowhere/a\.png"),
    "of a folder": Bad(manifest(TABLE + "photos/red,red\n"), 3, "photos/red"),
    "of two labels": Bad(manifest(TABLE + "photos/red/0.png,blue\n"), 3, r"red/0\.png"),
    "of an unknown split": Bad(
        manifest("path,label,split\n" + ROWS.replace("\n", ",fold1\n")), 3, "fold1"
    ),
    "of one class": Bad(manifest(TABLE.replace("blue\n", "red\n")), 3, "one class, red"),
    "that is no Parquet": Bad(manifest("PAR1", name="list.parquet"), 3, r"list\.parquet cannot"),
    "cut off Parquet": Bad(
        manifest(parquet(pd.DataFrame({"path": ["a"], "label": ["b"]}))[:-9], name="a.parquet"),
        3,
        r"a\.parquet cannot be read",
    ),
    "of lists in Parquet": Bad(
        manifest(parquet(pd.DataFrame({"path": [["a"]], "label": ["b"]})), name="a.parquet"),
        3,
        "column 'path'",
    ),
    "of pickles": Bad(
        manifest(b"\x80\x04K\x01.", name="list.pkl"), 3, r"list\.pkl cannot be unpacked"
    ),
    "that has another digest": Bad(
        manifest(TABLE, "data.sha256=" + 64 * "0"), 3, r"list\.csv has sha256 [0-9a-f]{64}, not 000"
    ),
    "of other slices": Bad(manifest(TABLE, "data.slice_columns=[site]"), 3, "column 'site'"),
    "of groups that are torn": Bad(
        manifest("path,label,group\n" + ROWS.replace("\n", ",g\n")), 3, "each class needs", INDEX
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive(refuse, name: str):
    refuse(ARCHIVES[name])


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest(refuse, name: str):
    refuse(MANIFESTS[name])
