"""Download, of shards: the index, and the images of validation and test; training images stay."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path, PurePosixPath

from tasks.artifacts import disk_errors, sha256_bytes, sha256_parts, write_atomic
from tasks.config import DataConfig
from tasks.download.archives import DEEPEST
from tasks.download.sealed import sealed
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_samples import Sample, read_samples
from tasks.download.shards import INDEX_FILE, read_shard_index
from tasks.download.splits import SPLITS
from tasks.errors import ConfigError, DataError, ResourceError
from tasks.index import ImageRecord, count_labels, write_index
from tasks.splitvalues import Shard, ShardIndex
from tasks.values import RawDataset
from tasks.words import listed, printable

LONGEST_PATH = 1_000  # characters, far below what Linux takes
NO_NAME = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)  # the shard's fault
FORMAT = "shards-1"  # change it when the same index would give other files
# what decides how other kinds are read, and decides nothing where it has been decided already
SETTLED = (
    *("train", "val", "test", "val_fraction", "test_fraction", "manifest", "path_column"),
    *("label_column", "label_separator", "split_column", "group_column", "slice_columns"),
)


def check_shard_settings(config: DataConfig) -> None:
    """Raise ``ConfigError`` for a setting that shards would pass over."""
    for name in SETTLED:
        usual = DataConfig.model_fields[name].default
        if getattr(config, name) != usual:
            raise ConfigError(
                f"data.{name} decides nothing where data.kind=shards: splits and labels were "
                f"settled when they were made.\nLeave it at {usual!r}, or make other shards."
            )


def download_shards(config: DataConfig, cache: Path) -> RawDataset:
    """Return the data set of the folder ``data.path``, with ``cache/archives/<key>/files`` in it.

    Those files are the index as it is there, the images of validation and test below ``images``,
    and ``index.csv`` of these alone; they are fetched once for each content of the index. Raises
    ``ConfigError``, ``DataError``, ``TransientDataError``, ``ResourceError``.
    """
    folder = open_folder(config.path or "", config.timeout_seconds)
    index, content = read_shard_index(folder, config.sha256)
    _check(index, folder)
    target = cache / "archives" / sha256_parts(FORMAT, sha256_bytes(content))

    def fill(files: Path) -> None:
        write_atomic(files / INDEX_FILE, content)
        write_index(files / "index.csv", _unpack(folder, index, files / "images", config))

    with disk_errors(str(cache)):
        files = sealed(target, fill)
    return RawDataset(
        kind=config.kind,
        root=files / "images",
        index=files / "index.csv",
        shards=files / INDEX_FILE,
        classes=index.classes,
        counts={name: sum(counts) for name, counts in sorted(index.counts.items())},
        ignored=(),
        ignored_count=0,
        digest=index.digest,
    )


def index_content_digest(config: DataConfig) -> str:
    """Return the digest of the index file, which that of every shard is in; raises ``DataError``.

    It is read for that; the shards are not.
    """
    folder = open_folder(config.path or "", config.timeout_seconds)
    _, content = read_shard_index(folder, config.sha256)
    return sha256_bytes(content)


def _check(index: ShardIndex, folder: Folder) -> None:
    absent = [name for name in SPLITS if name not in index.counts]
    if absent:
        raise DataError(
            f"{printable(folder.url)} has no shard of {listed(absent)}.\n"
            "graft shards CONFIG --output splits all three off; of your own tars name some so."
        )
    bare = [name for name, n in zip(index.classes, index.counts["train"], strict=True) if not n]
    if bare or len(index.classes) < 2:
        raise DataError(
            f"{printable(folder.url)} has classes without a training image, or one class only: "
            f"{listed(bare or index.classes)}."
        )


def _unpack(
    folder: Folder, index: ShardIndex, images: Path, config: DataConfig
) -> list[ImageRecord]:
    """Write every image of validation and test below ``images``, and return their records."""
    shards = [shard for shard in index.shards if shard.split != "train"]
    images.mkdir()
    free, size = shutil.disk_usage(images).free, sum(shard.size for shard in shards)
    if size > free:
        raise ResourceError(
            f"The validation and test images have {size:,} bytes, and {free:,} are left.\n"
            "Free some space, or name another folder in output.cache."
        )
    records: list[ImageRecord] = []
    taken: set[str] = set()
    for shard in shards:
        for sample in read_samples(folder.url, shard, index.classes, config.timeout_seconds):
            name = _name(shard, sample, taken)
            taken.add(name)
            _write(images / name, sample.image, folder.where(shard.name))
            sha256 = sha256_bytes(sample.image)
            records.append(ImageRecord(name, sample.label, shard.split, sample.group, sha256))
    _check_counts(records, index, folder)
    return sorted(records)


def _name(shard: Shard, sample: Sample, taken: set[str]) -> str:
    """Return where an image is put: by its own name where it has a usable one, else by its key."""
    path = PurePosixPath(sample.path.lstrip("/"))
    own = f"{shard.split}/{path}"
    return own if _is_usable(path) and own not in taken else _by_key(shard, sample)


def _is_usable(path: PurePosixPath) -> bool:
    fits = 0 < len(path.parts) <= DEEPEST and len(str(path)) <= LONGEST_PATH
    parts = (part.encode(errors="replace") for part in path.parts)
    return fits and all(part != b".." and b"\0" not in part and len(part) <= 255 for part in parts)


def _by_key(shard: Shard, sample: Sample) -> str:
    return f"{shard.split}/{shard.name}/{sample.key}.{sample.suffix}"


def _write(path: Path, image: bytes, shard: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(image)
    except (OSError, UnicodeEncodeError) as fault:
        if isinstance(fault, OSError) and fault.errno not in NO_NAME:
            raise
        raise DataError(
            f"{shard} has an image whose name no file beside the others can have: "
            f"{printable(path.name):.100}.\nGive every image of a split a name of its own."
        ) from fault


def _check_counts(records: list[ImageRecord], index: ShardIndex, folder: Folder) -> None:
    for split in SPLITS[1:]:
        found = count_labels(record for record in records if record.split == split)
        if tuple(found[label] for label in range(len(index.classes))) != index.counts[split]:
            raise DataError(
                f"{folder.where(INDEX_FILE)} counts other {split} images of a class than there "
                "are.\nIndex the folder again."
            )
