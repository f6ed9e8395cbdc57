"""Download: from what the user names to an index of image files with labels and digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tasks.artifacts import sha256_file, sha256_parts, user_folder, write_atomic
from tasks.config import DataConfig
from tasks.download.archives import extract
from tasks.download.builtin import cifar10_folder, digits_folder
from tasks.download.fetch import fetch, local_path
from tasks.download.folders import read_folders, top_folder
from tasks.download.https import shown
from tasks.download.listing import ListedImage, Listing, check_listing, classes_of
from tasks.download.manifest import SUFFIXES, find_manifest, read_manifest
from tasks.download.shard_source import check_shard_settings, download_shards
from tasks.errors import ConfigError, DataError
from tasks.formats import fields_of
from tasks.index import ImageRecord, digest_records, write_index
from tasks.values import RawDataset
from tasks.words import listed, printable

FORMAT = "raw-2"  # change it when the same source would give another index
READ_BY = (  # every setting that decides what the index holds
    "kind",
    "train",
    "val",
    "test",
    "manifest",
    "path_column",
    "label_column",
    "split_column",
    "group_column",
)
READ_MULTI_LABEL_BY = ("multi_label", "label_separator")
READ_SLICES_BY = ("slice_columns",)
AT_ONCE = 1_000  # files handed to the threads that hash them


class Origin(NamedTuple):
    """Where the images are, once they are on this machine."""

    path: Path  # a folder, or a manifest that lies beside its images
    sealed: Path | None  # the folder in the cache, named by its content's digest; None: the user's


def raw_format() -> str:
    """Return what index and facts are written in."""
    return ", ".join((FORMAT, fields_of(RawDataset), *ImageRecord._fields))


def download(config: DataConfig, cache: Path) -> RawDataset:
    """Return the index of the images that ``config`` names, in ``cache/raw/<key>/index.csv``.

    An archive is fetched, unpacked and read once for each digest; a folder or manifest of the
    user's is hashed each time, so that the digest is always that of the present files. Of shards
    it is ``download_shards``. Raises
    ``ConfigError``, ``DataError``, ``TransientDataError``, ``ResourceError``; then nothing in
    ``cache`` has changed but whole downloads and archives, which are kept under their digest.
    """
    _check_settings(config)
    try:
        return _download(config, user_folder(cache))
    except OSError as fault:  # writing raises ResourceError: what is left is the user's files
        raise DataError(f"{printable(fault.filename)} cannot be read: {fault.strerror}.") from fault


def _download(config: DataConfig, cache: Path) -> RawDataset:
    if config.kind == "shards":
        return download_shards(config, cache)
    origin = locate(config, cache)
    _check_name(origin.path)
    if origin.sealed is None:
        return _index(_read(origin, config), config, cache, key=None)
    names = READ_BY + (READ_MULTI_LABEL_BY if config.multi_label else ())
    names += READ_SLICES_BY if config.slice_columns else ()
    settings = (repr(getattr(config, name)) for name in names)
    key = sha256_parts(raw_format(), str(origin.path), *settings)
    kept = _kept(cache / "raw" / key)
    return kept or _index(_read(origin, config), config, cache, key)


def _check_settings(config: DataConfig) -> None:
    if config.kind == "shards":
        check_shard_settings(config)
    if config.kind == "manifest":
        return
    for name in ("manifest", "split_column", "group_column", "slice_columns"):
        if getattr(config, name) not in (None, ()):
            raise ConfigError(f"data.{name} goes with data.kind=manifest, not {config.kind}.")


def _check_name(path: Path) -> None:
    """Refuse a path that no JSON can hold: the rooms hand their facts on as JSON."""
    try:
        str(path).encode()
    except UnicodeEncodeError as fault:
        raise DataError(
            f"{printable(path)} is no UTF-8.\nRename the folder, or copy the data elsewhere."
        ) from fault


def locate(config: DataConfig, cache: Path) -> Origin:
    """Fetch and unpack what ``config`` names; nothing of it is read yet."""
    if config.kind in ("digits", "cifar10"):
        make = digits_folder if config.kind == "digits" else cifar10_folder
        folder = make(config, cache)
        return Origin(folder, folder)
    location = config.path or ""  # DataConfig refuses these kinds without one
    local = local_path(location, DataError)
    if local is not None and local.is_dir():
        return _origin_in_folder(local, config)
    file = fetch(location, config.sha256, cache, config.timeout_seconds, DataError)
    if config.kind == "manifest" and file.suffix.lower() in SUFFIXES:
        return Origin(file, None)
    return _origin_in_archive(file, config, cache)


def _origin_in_folder(folder: Path, config: DataConfig) -> Origin:
    if config.sha256 is not None:
        raise ConfigError(
            f"data.sha256 goes with a file, and {printable(folder)} is a folder: leave it out."
        )
    is_manifest = config.kind == "manifest"
    return Origin(find_manifest(folder, config.manifest) if is_manifest else folder, None)


def _origin_in_archive(archive: Path, config: DataConfig, cache: Path) -> Origin:
    unpacked = extract(archive, config.sha256 or sha256_file(archive), cache)
    if config.kind == "manifest":
        return Origin(find_manifest(unpacked, config.manifest), unpacked)
    return Origin(top_folder(unpacked), unpacked)


def _read(origin: Origin, config: DataConfig) -> Listing:
    if config.kind == "manifest":
        listing = read_manifest(origin.path, config, bounds=origin.sealed)
    else:
        listing = read_folders(origin.path, config)
    check_listing(listing, _where(origin, config))
    return listing


def _where(origin: Origin, config: DataConfig) -> str:
    """Return what the user named, where that is an archive: its place in the cache says little."""
    if origin.sealed is None or config.path is None:
        return printable(origin.path)
    return printable(shown(config.path) if "://" in config.path else config.path)


def _index(listing: Listing, config: DataConfig, cache: Path, key: str | None) -> RawDataset:
    """Hash every image, write index and facts, and return the facts."""
    classes = classes_of(listing)
    records = hashed_records(listing, classes)
    digest = digest_records(classes, records)
    folder = cache / "raw" / (key or sha256_parts(raw_format(), str(listing.root), digest))
    facts = RawDataset(
        kind=config.kind,
        root=listing.root,
        index=folder / "index.csv",
        classes=classes,
        multi_label=config.multi_label,
        counts=dict(sorted(Counter(record.split for record in records).items())),
        ignored=listing.ignored,
        ignored_count=listing.ignored_count,
        digest=digest,
    )
    write_index(facts.index, records)
    # last: where there are facts, there is a whole index
    write_atomic(folder / "facts.json", facts.model_dump_json(indent=2).encode())
    return facts


def hashed_records(listing: Listing, classes: tuple[str, ...]) -> list[ImageRecord]:
    """Hash every image of ``listing``; raises ``DataError`` that names those it cannot read."""
    number = {name: position for position, name in enumerate(classes)}
    digests = list(_digests([image.path for image in listing.images], listing.root))
    rows = list(zip(listing.images, digests, strict=True))
    lost = [str(listing.root / image.path) for image, digest in rows if digest is None]
    if lost:
        raise DataError(
            f"{len(lost):,} images cannot be read: {listed(lost)}.\nCheck their rights."
        )
    return [
        ImageRecord(i.path, _positions(i, number), i.split, i.group, d or "", i.slices)
        for i, d in rows
    ]


def _positions(image: ListedImage, number: dict[str, int]) -> int | tuple[int, ...]:
    if isinstance(image.label, tuple):
        return tuple(number[label] for label in image.label)
    return number[image.label]


def _digests(paths: list[str], root: Path) -> Iterator[str | None]:
    """Hash files in threads, of which no more wait than are at hand: a task takes two kilobytes."""
    from joblib import cpu_count  # by a container's limit, where os.cpu_count is the machine's

    with ThreadPoolExecutor(cpu_count()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            yield from pool.map(_digest, (root / path for path in paths[start : start + AT_ONCE]))


def _digest(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except OSError:
        return None  # the caller names all of them at once


def _kept(folder: Path) -> RawDataset | None:
    """Return the facts written before, where they are whole and their index is there."""
    try:
        facts = RawDataset.model_validate_json((folder / "facts.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return facts if facts.index == folder / "index.csv" and facts.index.is_file() else None
