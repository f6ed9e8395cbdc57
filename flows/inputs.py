"""What every flow begins with: images fetched and packed, or those of an earlier run used again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from prefect import State, Task

from tasks.config import RunConfig
from tasks.download.task import download_images
from tasks.preprocess.task import preprocess_images
from tasks.presence import is_present
from tasks.use import entry_of, in_use
from tasks.values import InputSpec, PreparedDataset, RawDataset

log = logging.getLogger(__name__)

Cached = TypeVar("Cached", RawDataset, PreparedDataset)

_held: ContextVar[ExitStack | None] = ContextVar("held", default=None)


@contextmanager
def images_held() -> Iterator[None]:
    """Keep whatever cleans the cache up off the images that the block reads, until it ends."""
    with ExitStack() as stack:
        token = _held.set(stack)
        try:
            yield
        finally:
            _held.reset(token)


def read_images(
    config: RunConfig, spec: InputSpec, cache: Path
) -> tuple[RawDataset, PreparedDataset]:
    """Download and preprocess, say what came of it, and pass the warnings on."""
    raw = read_raw(config, cache)
    return raw, pack_images(config, raw, spec, cache)


def read_raw(config: RunConfig, cache: Path) -> RawDataset:
    """Download, and say what came of it."""
    raw, how = _used_again(download_images, config.data, cache)
    hold(cache, raw.index, raw.root / "images")  # whatever is in the root
    images, classes = sum(raw.counts.values()), len(raw.classes)
    say("download", f"{images:,} images", f"{classes} classes", _digest(raw), how)
    return raw


def pack_images(
    config: RunConfig, raw: RawDataset, spec: InputSpec, cache: Path
) -> PreparedDataset:
    """Preprocess, say what came of it, and pass the warnings on."""
    prepared, how = _used_again(preprocess_images, config.data, config.seed, raw, spec, cache)
    hold(cache, prepared.val.index)  # the other splits' files lie beside it
    sizes = (f"{split.name} {split.n:,}" for split in (prepared.train, prepared.val, prepared.test))
    say("preprocess", *sizes, f"{spec.crop} px", _digest(prepared), how)
    for warning in prepared.warnings:
        log.warning(warning, extra={"room": "preprocess"})
    return prepared


def say(room: str, *facts: str) -> None:
    """Log what a room found."""
    log.info(", ".join(facts), extra={"room": room})


def hold(cache: Path, *paths: Path) -> None:
    """Note that the cache's entries with ``paths`` in them are in use; see ``images_held``."""
    stack = _held.get()
    entries = {entry_of(path, cache) for path in paths} - {None}
    if stack is not None:
        stack.enter_context(in_use(entry for entry in entries if entry is not None))


def _used_again(task: Task[..., Cached], *given: object) -> tuple[Cached, str]:
    """Run a cached task, afresh when the files of its cached value are gone; say which it was."""
    state: State[Cached] = task(*given, return_state=True)  # type: ignore[assignment] # *given hides the overload
    value = state.result()
    if is_present(value):
        return value, "cached" if state.name == "Cached" else "new"
    log.warning("the files of a cached result are gone; making them again")
    return task.with_options(refresh_cache=True)(*given), "made again"


def _digest(value: RawDataset | PreparedDataset) -> str:
    return f"digest {value.digest[:12]}"
