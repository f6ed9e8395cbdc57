"""Manifests: a CSV or Parquet table with the path and label of each image, and perhaps its split.

Labels are strings and sort as such: ``10`` comes before ``2``. With ``data.multi_label`` a cell
holds any number of them, ``data.label_separator`` between two; an empty one is an image of none.
"""

from __future__ import annotations

import difflib
import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.config import DataConfig
from tasks.download.folders import subfolders
from tasks.download.listing import ListedImage, Listing
from tasks.download.splits import assign_splits, named_splits
from tasks.errors import ConfigError, DataError
from tasks.words import listed, printable

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")


def find_manifest(folder: Path, name: str | None) -> Path:
    """Return the manifest called ``name`` in ``folder``, or the only table there.

    Without a name, the only folder in ``folder`` is looked into as well, as archives often have a
    wrapper. Raises ``DataError``.
    """
    if name is not None:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise DataError(f"{printable(folder)} has no manifest {name}.\nCheck data.manifest.")
        return path
    tables, inner = _tables(folder), subfolders(folder)
    if not tables and len(inner) == 1:
        tables = _tables(folder / inner[0])
    if len(tables) != 1:
        found = listed([str(table.relative_to(folder)) for table in tables])
        raise DataError(
            f"{printable(folder)} must have one CSV or Parquet manifest, and has: {found}.\n"
            "Name it in data.manifest."
        )
    return tables[0]


def read_manifest(path: Path, config: DataConfig, bounds: Path | None) -> Listing:
    """List the images in the table at ``path``; its columns are named by ``config``.

    Where it names no column of splits or groups, those are ``split`` and ``group`` if there.

    Paths start at the manifest's folder. With ``bounds`` (an unpacked archive) all must lie inside
    it, and it is the listing's root; without, absolute paths and ``..`` are the user's own. An
    empty group is an image on its own, an empty cell of a slice column a value like others; a row
    given twice counts once. Raises ``DataError`` on a missing column, an empty cell, an unknown
    split, paths that name no file (all of them), and a path with two labels; ``ConfigError`` where
    ``config`` names splits and there is no column.
    """
    table = read_table(path)
    if table.empty:
        raise DataError(f"The manifest {printable(path)} has no rows.\nAdd one for each image.")
    paths = column_texts(table, config.path_column, path)
    labels = column_labels(table, config, path)
    splits = _splits(table, config, path)
    groups = _groups(table, config, path)
    slices = _slices(table, config, path)
    root = (bounds or path.parent).resolve()
    placed = place_paths(paths, path, root, inside=bounds is not None)
    rows = zip(placed, labels, splits, groups, slices, strict=True)
    return Listing(root, unique_images([ListedImage(*row) for row in rows], path), (), 0)


def _tables(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES and path.is_file())


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet manifest as it stands; raises ``DataError``."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            # pandas' metadata would hide a column that was an index
            arrow = pq.ParquetFile(path).read()
            read: pd.DataFrame = arrow.to_pandas(ignore_metadata=True, integer_object_nulls=True)
            return read
        with warnings.catch_warnings():
            # pandas only warns when it drops what a row has beyond the header
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # "NA" and "null" may be classes: an empty cell alone is missing
            return pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                na_values=[""],
                index_col=False,
                encoding="utf-8-sig",
            )
    except (OSError, ValueError, pd.errors.ParserWarning, pa.ArrowException) as fault:
        reason = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise DataError(
            f"The manifest {printable(path)} cannot be read: {reason}\n"
            "It must be a Parquet file or a comma-separated UTF-8 table with a header."
        ) from fault


def _column(table: pd.DataFrame, name: str, path: Path) -> pd.Series:
    columns = [str(column) for column in table.columns]
    if name not in columns:
        near = difflib.get_close_matches(name, columns, n=1, cutoff=0)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"The manifest {printable(path)} has no column {name!r}; "
            f"it has: {listed(columns)}.{hint}\n"
            "Name it in data.path_column, label_column, split_column, group_column, slice_columns."
        )
    return table.iloc[:, columns.index(name)]


def column_texts(table: pd.DataFrame, name: str, path: Path, empty: str | None = None) -> list[str]:
    """Return a column as strings, whole floats as integers.

    An empty cell becomes ``empty``, and is refused where that is None.
    """
    column = _column(table, name, path)
    missing = column.isna().tolist()
    cells = [
        "" if gone else _text(cell, name, path)
        for cell, gone in zip(column.tolist(), missing, strict=True)
    ]
    blank = [str(row + 1) for row, cell in enumerate(cells) if not cell.strip()]
    if blank and empty is None:
        raise DataError(
            f"The manifest {printable(path)} has no {name} in row {listed(blank)}.\n"
            "Fill or remove these rows (the header is not counted)."
        )
    return cells


def _text(cell: object, name: str, path: Path) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, str | int | float):
        return str(cell)
    raise DataError(
        f"The manifest {printable(path)} holds a {type(cell).__name__} in column {name!r}.\n"
        "Cells must be text or numbers."
    )


def column_labels(
    table: pd.DataFrame, config: DataConfig, path: Path
) -> list[str | tuple[str, ...]]:
    """Return each row's label, or with ``data.multi_label`` all of them, sorted."""
    if not config.multi_label:
        return [label.strip() for label in column_texts(table, config.label_column, path)]
    cells = column_texts(table, config.label_column, path, empty="")
    parts = ({part.strip() for part in cell.split(config.label_separator)} for cell in cells)
    return [tuple(sorted(labels - {""})) for labels in parts]


def _splits(table: pd.DataFrame, config: DataConfig, path: Path) -> list[str]:
    column = _chosen(config.split_column, "split", table, config)
    if column is None:
        if named_splits(config):
            raise ConfigError("data.train, val and test name values of data.split_column: give it.")
        return [""] * len(table)
    cells = [cell.strip() for cell in column_texts(table, column, path)]
    values = sorted(set(cells))
    where = f"Column {column!r} of {printable(path)}"
    known = assign_splits(config, values, where)
    unknown = [value for value in values if value not in known]
    if unknown:
        raise DataError(
            f"{where} has splits of unknown meaning: {listed(unknown)}.\n"
            "Use train, val and test, or name them in data.train, data.val and data.test."
        )
    return [known[cell] for cell in cells]


def _groups(table: pd.DataFrame, config: DataConfig, path: Path) -> list[str]:
    column = _chosen(config.group_column, "group", table, config)
    if column is None:
        return [""] * len(table)
    return [cell.strip() for cell in column_texts(table, column, path, empty="")]


def _slices(table: pd.DataFrame, config: DataConfig, path: Path) -> list[tuple[str, ...]]:
    columns = (column_texts(table, name, path, empty="") for name in config.slice_columns)
    values = [[cell.strip() for cell in cells] for cells in columns]
    return list(zip(*values, strict=True)) if values else [()] * len(table)


def _chosen(named: str | None, usual: str, table: pd.DataFrame, config: DataConfig) -> str | None:
    """Return the column that the user named, else the usual one if it is there and has no part."""
    if named is not None:
        return named
    taken = (config.path_column, config.label_column)
    return usual if usual in map(str, table.columns) and usual not in taken else None


def place_paths(paths: list[str], manifest: Path, root: Path, inside: bool) -> list[str]:
    """Return each path relative to ``root`` where it lies in it, else absolute."""
    start = manifest.parent.resolve()
    full = [os.path.normpath(start / path) for path in paths]
    outside = [p for p, f in zip(paths, full, strict=True) if not Path(f).is_relative_to(root)]
    if outside and inside:
        raise DataError(
            f"{len(outside):,} paths in {printable(manifest.name)} lead out of the archive: "
            f"{listed(outside)}."
        )
    absent = [p for p, f in zip(paths, full, strict=True) if not _is_file(f)]
    if absent:
        raise DataError(
            f"{len(absent):,} of {len(paths):,} paths in {printable(manifest)} name no file: "
            f"{listed(absent)}.\n"
            f"A relative path starts at {printable(manifest.parent)}."
        )
    return [_relative(Path(path), root) for path in full]


def _relative(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # too long a name, a folder that may not be read
        return False


def unique_images(images: list[ListedImage], manifest: Path) -> tuple[ListedImage, ...]:
    """Sort, and drop rows given twice; refuse an image of two labels, splits, groups or slices."""
    unique = sorted(set(images))
    torn = [b.path for a, b in pairwise(unique) if a.path == b.path]
    if torn:
        raise DataError(
            f"The manifest {printable(manifest)} gives two labels, splits, groups or slices to: "
            f"{listed(sorted(set(torn)))}.\nKeep one row for each image."
        )
    return tuple(unique)
