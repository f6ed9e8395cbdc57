"""Whether the machines of a training see the same: code, packages, kind of device, files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import BaseModel

from tasks.codedigest import code_digest
from tasks.errors import ResourceError
from tasks.finetune.device import pick_device, pick_precision
from tasks.recipe import TrainingConfig

_BLOCK = 1 << 20  # bytes
_BLOCKS = 16


class Sight(BaseModel):
    """What a machine has."""

    torch: str
    device: str
    precision: str
    code: str
    files: dict[str, str]  # path: size and digest; what is no file has none


def sight(files: list[Path], recipe: TrainingConfig) -> Sight:
    """Return what this machine has; raises ``ResourceError`` for a device that is not there."""
    device = pick_device(recipe.device)
    return Sight(
        torch=_torch_version(),
        device=device.type,
        precision=str(pick_precision(recipe.precision, device)).removeprefix("torch."),
        code=code_digest(),
        files={str(path): fingerprint(path) for path in files},
    )


def _torch_version() -> str:
    return torch.__version__.partition("+")[0]


def check_code(first: Sight) -> None:
    """Raise ``ResourceError`` when the first node has other code than this one."""
    here = _torch_version()
    if here != first.torch:
        raise ResourceError(
            f"torch is {here}, and {first.torch} on the first node.\n"
            "Install the same version of graft, from the same uv.lock."
        )
    if code_digest() != first.code:
        raise other_code()


def other_code() -> ResourceError:
    """Return what is said of another version of graft."""
    return ResourceError(
        "graft's code, or a package that it computes with, is another than on the first node.\n"
        "Install the same version of graft, from the same uv.lock."
    )


def check_alike(own: Sight, first: Sight) -> None:
    """Raise ``ResourceError`` for what is another here than on the first node, but for code."""
    for what in ("device", "precision"):
        here, there = getattr(own, what), getattr(first, what)
        if here != there:
            raise ResourceError(
                f"{what} is {here}, and {there} on the first node.\n"
                "Train on equal machines, or set training.device and training.precision."
            )
    for path, found in own.files.items():
        if found != first.files[path]:
            raise ResourceError(
                f"{path} is {found or 'not there'}, on the first node {first.files[path]}.\n"
                "Let all nodes see the cache, and weights outside it, on a shared disk by one path."
            )


def files_in(*values: BaseModel | None) -> list[Path]:
    """Return every file that ``values`` name."""
    paths = {path for value in values if value is not None for path in _paths(value.model_dump())}
    return sorted(path for path in paths if path.is_file())


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)


def fingerprint(path: Path) -> str:
    """Return size and digest of a file, "" where there is none.

    Of a file above 16 MiB 16 blocks of 1 MiB count, from its start to its end: packed images may
    be larger than a machine reads in an hour.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            whole = size <= _BLOCK * _BLOCKS
            last = _BLOCK * (_BLOCKS - 1) if whole else size - _BLOCK
            for number in range(_BLOCKS):
                file.seek(number * last // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    except OSError:
        return ""
    return f"{size} bytes of {digest.hexdigest()[:16]}"
