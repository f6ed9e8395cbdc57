"""``graft shards``: images packed into shards, or an index made of shards that are there."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.answer import Answer, Cells, Rows
from flows.arguments import Config, Json, Overrides
from flows.printing import answer
from tasks.artifacts import cache_folder, user_folder
from tasks.config import DataConfig, RunConfig
from tasks.configfile import load_config
from tasks.errors import ConfigError
from tasks.public import without_secrets
from tasks.secrets import MARK
from tasks.words import printable

if TYPE_CHECKING:
    from tasks.splitvalues import ShardIndex

Output = Annotated[
    str, typer.Option(metavar="FOLDER", help="Where shards are written: a folder, s3://BUCKET/….")
]
Index = Annotated[
    bool, typer.Option("--index", help="Index the tars that data.path names, of data.kind=shards.")
]
ImagesAShard = Annotated[
    int, typer.Option(min=1, help="Images in a shard, at most; of 256 MiB together, at most.")
]


def shards(
    config: Config,
    overrides: Overrides = None,
    output: Output = "",
    index: Index = False,
    images_a_shard: ImagesAShard = 2_000,
    as_json: Json = False,
) -> None:
    """Pack a config's images into shards, checked and split as a run would; or index shards."""
    answer(as_json, lambda: _shards(config, overrides or (), output, index, images_a_shard))


def _shards(
    path: Path, overrides: Sequence[str], output: str, index: bool, images_a_shard: int
) -> Answer:
    config = load_config(path, overrides)
    if bool(output) == index:
        raise ConfigError(
            "graft shards takes either --output FOLDER or --index.\n"
            "--output packs the config's images; --index reads shards that are there."
        )
    made = _index(config) if index else _write(config, output, images_a_shard)
    settled = _settled(config, made.data["url"], made.data["index_sha256"])
    words = _next_command(path, overrides, settled)
    return replace(made, facts=[*made.facts, ("train", words)])


def _next_command(path: Path, overrides: Sequence[str], settled: Sequence[str]) -> str:
    """Return the command that trains from the shards, with all else that was overridden here.

    Of an address the query is left out, as wherever one is printed, unless it is a named secret.
    """
    named = {_parts(each)[0] for each in settled}
    given = [_parts(each) for each in overrides]  # in their order: one may be a part of another
    kept = [f"{key}={_shown(value)}" for key, value in given if key not in named]
    return shlex.join(["graft", "run", str(path), *kept, *settled])


def _parts(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.strip(), value


def _shown(value: str) -> str:
    return value if MARK in value else without_secrets(value)


def _settled(config: RunConfig, url: str, sha256: str) -> list[str]:
    """Return the overrides that name the shards, whatever ``config`` says of the images.

    What shards have settled goes back to its default, and a digest of the images to the index's.
    """
    from tasks.download.shard_source import SETTLED

    given = ["data.kind=shards", f"data.path={url}"]
    given += [f"data.sha256={sha256}"] if config.data.sha256 else []
    for name in SETTLED:
        usual = DataConfig.model_fields[name].default
        if getattr(config.data, name) != usual:
            given.append(f"data.{name}={json.dumps(usual)}")
    return given


def _index(config: RunConfig) -> Answer:
    from tasks.download.shard_index import index_shards

    made = index_shards(config.data)
    return _answer("indexed", made.url, made.index, made.sha256, made.warnings, {})


def _write(config: RunConfig, output: str, images_a_shard: int) -> Answer:
    from tasks.download.shard_pack import Packing
    from tasks.download.shard_write import write_shards

    _refuse_the_images_own(config, output)
    cache = cache_folder(config.output.cache)
    made = write_shards(config.data, config.seed, cache, output, Packing(images_a_shard))
    word = "written" if made.new else "there"
    return _answer(word, made.url, made.index, made.sha256, made.warnings, {"new": made.new})


def _refuse_the_images_own(config: RunConfig, output: str) -> None:
    """Refuse to write among the images: the folder would be another one when it is read again."""
    from tasks.download.shard_address import folder_here

    images = _images_folder(config.data.path) if config.data.path else None
    target = folder_here(output)
    # os.path: of a name that no disk can hold, Path.is_dir raises
    if images is None or target is None or not os.path.isdir(images):  # noqa: PTH112
        return
    if target.is_relative_to(images):
        raise ConfigError(
            f"--output {printable(output)} lies in data.path, among the images.\n"
            "Name a folder apart from them."
        )


def _images_folder(path: str) -> Path | None:
    """Return the folder of this machine that images are in: any path, of which shards take fewer.

    A colon in it, as in ``photos:2020``, makes no address of it here.
    """
    from tasks.download.fetch import SCHEME, local_path
    from tasks.download.shard_address import folder_here

    named = None if SCHEME.match(path) else local_path(path, ConfigError)
    return folder_here(path) if named is None else user_folder(named)


def _answer(
    word: str,
    url: str,
    index: ShardIndex,
    sha256: str,
    warnings: Sequence[str],
    more: dict[str, bool],
) -> Answer:
    sizes = [shard.size for shard in index.shards]
    splits = {name: sum(counts) for name, counts in index.counts.items()}
    table = Cells("split", "shards", "images")
    for name, images in splits.items():
        table.add(name, f"{sum(s.split == name for s in index.shards):,}", f"{images:,}")
    facts: Rows = [
        (word, f"{len(sizes):,} shards, {sum(sizes) / 1e6:,.1f} MB, in {url}"),
        ("digest", index.digest),
        ("index", f"data.sha256={sha256}"),
        *(("warning", warning) for warning in warnings),
    ]
    data = {
        "url": url,
        "shards": len(sizes),
        "bytes": sum(sizes),
        "images": splits,
        "classes": index.classes,
        "height": index.height,
        "width": index.width,
        "digest": index.digest,
        "index_sha256": sha256,
        "warnings": list(warnings),
    }
    return Answer(data | more, facts, table)
