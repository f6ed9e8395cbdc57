"""Which content a source names, as far as that is known before it is downloaded."""

from __future__ import annotations

from pathlib import Path

from tasks.artifacts import sha256_file, sha256_parts
from tasks.config import DataConfig
from tasks.download.builtin import CIFAR10_SHA256
from tasks.download.fetch import local_path
from tasks.download.manifest import SUFFIXES
from tasks.download.shard_source import index_content_digest
from tasks.download.source import raw_format
from tasks.errors import DataError, GraftError
from tasks.formats import versions_of


def content_digest(config: DataConfig) -> str | None:
    """Return a string that names the content of ``config``'s images, to cache a download by.

    None where only reading the images tells: a folder, or a manifest beside its images, whose
    files may change under the same name. None also where the source is not there: the download
    itself says what is wrong.
    """
    if config.kind == "digits":
        return versions_of("scikit-learn", "pillow")  # which writes the files
    if config.path is None:
        return config.sha256 or CIFAR10_SHA256
    if config.kind == "shards":
        return _shards_digest(config)
    try:
        local = local_path(config.path, DataError)
    except DataError:
        return None
    if local is None:
        return config.sha256
    if not local.is_file() or (config.kind == "manifest" and local.suffix.lower() in SUFFIXES):
        return None
    return config.sha256 or sha256_file(local)


def _shards_digest(config: DataConfig) -> str | None:
    try:
        return index_content_digest(config)
    except GraftError:
        return None


def download_key(config: DataConfig, cache: Path) -> str | None:
    """Return the key that a finished download is kept under; None: not to be kept."""
    digest = content_digest(config)
    return digest and sha256_parts(raw_format(), digest, repr(config), str(cache))
