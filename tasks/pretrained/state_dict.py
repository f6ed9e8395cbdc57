"""Read a state dict from disk safely, and tell how it differs from what a network needs."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import WeightsError
from tasks.pretrained.architectures import AUXILIARY
from tasks.pretrained.timm_networks import is_timm
from tasks.words import listed

_WRAPPERS = ("state_dict", "model")  # keys under which checkpoints keep the state dict
_PARALLEL = "module."  # the prefix that DataParallel and DistributedDataParallel add
_SHOWN = 5  # keys in a message
_DEEPEST = 3  # wrappers in wrappers
_SHARED = 8  # times a file's bytes that tensors may have which share their numbers, as tied ones do

# Names in published files that torchvision itself renames on loading.
_RENAMED = (
    # DenseNet: denselayer1.norm.1.weight, from before dots were refused in names
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    # vision transformers: mlp.linear_1.weight, from before MLPBlock was a sequence
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


def read_state(path: Path, architecture: str) -> dict[str, Tensor]:
    """Read a .safetensors or .pth file, told apart by content, into float32 tensors on the CPU.

    A .pth is read with ``weights_only=True``. Taken off: a ``state_dict`` or ``model`` wrapper, a
    ``module.`` prefix, auxiliary classifiers (never built here), and names of older torchvision
    releases. Integer entries stay as they are. Raises ``WeightsError`` when the file is missing,
    damaged, holds code or anything but dense tensors, would fill far more memory than it has bytes,
    or has a NaN or an infinity.
    """
    content = _unwrap(_read(path))
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        found = f"entries that are no tensors: {_some(others)}" if others else "no tensor"
        raise WeightsError(f"{path} holds {found}.\nSave the network's state_dict() alone.")
    odd = [key for key, value in content.items() if not _is_plain(value)]
    if odd:
        raise WeightsError(
            f"{path} holds sparse, nested, quantized or empty tensors: {_some(odd)}.\n"
            "Save the network's state_dict() as dense tensors."
        )
    _check_size(content, path)
    auxiliary = AUXILIARY.get(architecture, ())
    rename = str if is_timm(architecture) else _rename  # the old names are torchvision's
    named = {rename(key): value for key, value in content.items()}
    state = {k: _as_float32(v) for k, v in named.items() if not k.startswith(auxiliary)}
    _check_finite(state, path)
    return state


def check_fit(state: dict[str, Tensor], outline: nn.Module, architecture: str, path: Path) -> None:
    """Raise ``WeightsError`` that shows the keys and shapes in which ``state`` does not fit.

    ``outline`` is the network that is to take it, on the meta device. Counters of batches
    (``num_batches_tracked``) may be missing.
    """
    wanted = outline.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted]
    shapes = [
        f"{key} is {_form(state[key])}, not {_form(value)}"
        for key, value in wanted.items()
        if key in state and _form(state[key]) != _form(value)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("different", shapes))
    found = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds if keys]
    if found:
        raise WeightsError(f"{path} does not fit {architecture}.\n{'; '.join(found)}")


def _form(value: Tensor) -> str:
    """Describe shape and, where values are no floating-point numbers, that."""
    kind = "" if value.is_floating_point() else " of integers"
    return f"({', '.join(map(str, value.shape))}){kind}"


def _some(keys: list[str]) -> str:
    return listed(keys, shown=_SHOWN)


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # a torch file is a zip or, before torch 1.6, a pickle; safetensors: length, then JSON
        if start.startswith((b"PK", b"\x80")) and start[8:] != b"{":
            return _read_torch(path)
        return _read_safetensors(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is no readable weights file: {error}.\n"
            "It must be .safetensors, or .pth as torch.save writes it; it may be cut off."
        ) from error


def _read_torch(path: Path) -> object:
    try:
        _refuse_packed(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"code ({found[1]})" if found else "more than tensors, or is damaged"
        raise WeightsError(
            f"{path} holds {what}, and was not run.\n"
            "Save the network's state_dict() alone, best as .safetensors."
        ) from error
    except (OSError, MemoryError, WeightsError):
        raise
    except Exception as error:  # torch raises anything on damaged bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is damaged: {reason}\nFetch it again.") from error


def _refuse_packed(path: Path) -> None:
    """Refuse a zip whose members unpack to more than it holds; torch.save packs nothing."""
    if not zipfile.is_zipfile(path):  # torch's format before 1.6
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > path.stat().st_size:
        raise WeightsError(
            f"{path} unpacks to {size:,} bytes, more than it has: a bomb?\n"
            "Save the network's state_dict() with torch.save, or best as .safetensors."
        )


def _check_size(content: dict[str, object], path: Path) -> None:
    """Refuse tensors that repeat a few numbers: a kilobyte can stand for any number of them."""
    size = sum(v.numel() * v.element_size() for v in content.values() if isinstance(v, Tensor))
    if size > _SHARED * path.stat().st_size:
        raise WeightsError(
            f"{path} holds tensors of {size:,} bytes, over {_SHARED} times its own size.\n"
            "Save every tensor with numbers of its own (tensor.clone())."
        )


def _unwrap(content: Any) -> dict[str, object]:  # noqa: ANN401 - a pickle holds anything
    if not isinstance(content, dict):
        return {}
    for _ in range(_DEEPEST):  # a hostile one may hold itself
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if content and all(str(key).startswith(_PARALLEL) for key in content):
        return {str(key).removeprefix(_PARALLEL): value for key, value in content.items()}
    return {str(key): value for key, value in content.items()}


def _rename(key: str) -> str:
    for pattern, new in _RENAMED:
        key = pattern.sub(new, key)
    return key


def _is_plain(value: object) -> bool:
    """Tell whether a tensor is an ordinary, dense one that holds its numbers."""
    assert isinstance(value, Tensor)  # read_state has refused anything else
    odd = value.layout is not torch.strided or value.is_nested or value.is_quantized
    return not odd and not value.is_meta


def _as_float32(value: object) -> Tensor:
    assert isinstance(value, Tensor)  # read_state has refused anything else
    return value.to(torch.float32) if value.is_floating_point() else value


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    bad = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise WeightsError(
            f"{path} has NaN or infinite values in {_some(bad)}.\nThe weights are of no use."
        )
