"""A nest of tensors and plain values on disk: whole or not there, checked when it is read.

The tensors lie in ``NAME-DIGEST.safetensors``, all else in ``NAME.json``, whose first line is the
digest of the rest. The JSON names the tensors' file by its digest, and is renamed into place last:
whoever is killed in between leaves the nest that was there before. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.artifacts import disk_errors, sha256_bytes, sha256_file, sync, write_atomic

Tree = Any  # tensors, None, bool, int, float, str, and lists, tuples and dictionaries of them

_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"


class DamagedError(Exception):
    """The files are not those that were written, or cannot be read."""


def write_tree(folder: Path, name: str, tree: Tree) -> None:
    """Write ``tree`` in the place of the one before; raises ``ResourceError``."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = _plain(tree, tensors, set())
    with disk_errors(str(folder / f"{name}.json")):
        handle, scratch = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        os.close(handle)
        try:
            with _system_errors():
                save_file(tensors, scratch)
            digest = sha256_file(Path(scratch))
            sync(Path(scratch))
            file = Path(scratch).replace(folder / f"{name}-{digest[:16]}.safetensors")
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    body = json.dumps({"tensors": digest, "tree": plain}).encode()
    write_atomic(folder / f"{name}.json", sha256_bytes(body).encode() + b"\n" + body)
    _remove_others(folder, name, file)


def tree_bytes(tree: Tree) -> int:
    """Return how many bytes the tensors of ``tree`` take."""
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, dict):
        return sum(map(tree_bytes, tree.values()))
    return sum(map(tree_bytes, tree)) if isinstance(tree, list | tuple) else 0


def read_tree(folder: Path, name: str) -> Tree | None:
    """Return what was written last, None where nothing was; raises ``DamagedError``."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise DamagedError(path) from error
    if sha256_bytes(body).encode() != digest:
        raise DamagedError(path)
    found = json.loads(body)
    file = folder / f"{name}-{found['tensors'][:16]}.safetensors"
    try:
        if sha256_file(file) != found["tensors"]:
            raise DamagedError(file)
        return _tree(found["tree"], load_file(file))
    except (OSError, SafetensorError) as error:
        raise DamagedError(file) from error


def remove_tree(folder: Path, name: str) -> None:
    """Remove what was written, if anything was."""
    (folder / f"{name}.json").unlink(missing_ok=True)
    _remove_others(folder, name, None)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise what the system said as ``OSError``: safetensors has its number in words alone."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _remove_others(folder: Path, name: str, kept: Path | None) -> None:
    for path in folder.glob(f"{name}-*.safetensors"):
        if path != kept:
            path.unlink(missing_ok=True)


def _plain(tree: Tree, tensors: dict[str, Tensor], stored: set[int]) -> Tree:
    """Return ``tree`` as JSON has it, its tensors put into ``tensors``."""
    if isinstance(tree, Tensor):
        return _put(tree.detach(), tensors, stored)
    if isinstance(tree, dict):
        # pairs, because JSON would make text of a number that is a key
        pairs = [[key, _plain(value, tensors, stored)] for key, value in tree.items()]
        return {_PAIRS: pairs}
    if isinstance(tree, tuple):
        return {_TUPLE: [_plain(value, tensors, stored) for value in tree]}
    if isinstance(tree, list):
        return [_plain(value, tensors, stored) for value in tree]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise AssertionError(f"{type(tree).__name__} is no plain value")


def _put(tensor: Tensor, tensors: dict[str, Tensor], stored: set[int]) -> Tree:
    whole = tensor.cpu().contiguous()
    if whole.untyped_storage().data_ptr() in stored:  # safetensors takes none that shares memory
        whole = whole.clone()
    stored.add(whole.untyped_storage().data_ptr())
    key = str(len(tensors))
    tensors[key] = whole
    return {_TENSOR: key, "stride": list(tensor.stride())}


def _tree(plain: Tree, tensors: dict[str, Tensor]) -> Tree:
    if isinstance(plain, list):
        return [_tree(value, tensors) for value in plain]
    if not isinstance(plain, dict):
        return plain
    if _TENSOR in plain:
        tensor = tensors[plain[_TENSOR]]
        # kernels that move all weights at once want an optimiser's state laid out as the weights
        laid = torch.empty_strided(tensor.shape, plain["stride"], dtype=tensor.dtype)
        return laid.copy_(tensor)
    if _TUPLE in plain:
        return tuple(_tree(value, tensors) for value in plain[_TUPLE])
    return {key: _tree(value, tensors) for key, value in plain[_PAIRS]}
