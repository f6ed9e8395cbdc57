"""The weights that timm publishes, ``timm:TAG``, and the preprocessing they were trained with."""

from __future__ import annotations

import logging
import math
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.artifacts import disk_errors, sha256_bytes, sha256_file, write_atomic
from tasks.errors import GraftError, TransientWeightsError, WeightsError
from tasks.pretrained.architectures import check_name, nearest
from tasks.pretrained.timm_networks import TIMM, is_timm, timm_library
from tasks.values import InputSpec

DEFAULT = "DEFAULT"

log = logging.getLogger(__name__)


def timm_input(architecture: str, source: str | None) -> InputSpec:
    """Return the preprocessing of ``timm:TAG``; of the default tag where ``source`` is another.

    timm resizes the short side to the crop over ``crop_pct``, rounded down, and cuts the centre.
    Raises ``WeightsError`` for an unknown name or tag, and for images that are not square.
    """
    tag = source if source is not None and source.startswith(TIMM) else f"{TIMM}{DEFAULT}"
    facts = _published(architecture, tag)
    data = timm_library().data.resolve_data_config(pretrained_cfg=facts.to_dict())
    _, height, width = data["input_size"]
    if height != width:
        raise WeightsError(
            f"{architecture} takes images of {height} x {width} px, and graft cuts squares.\n"
            "Set model.architecture to another network."
        )
    if data["crop_mode"] != "center":
        log.warning(
            "%s was trained on whole images (%s); here their centre is cut",
            *(architecture, data["crop_mode"]),
        )
    return InputSpec(
        resize=math.floor(height / data["crop_pct"]),
        crop=height,
        mean=data["mean"],
        std=data["std"],
        interpolation=data["interpolation"],
    )


def timm_weights(architecture: str, source: str, cache: Path) -> Path:
    """Return the file of ``timm:TAG`` or ``timm:DEFAULT``, fetched through timm if not at hand.

    timm loads them from the Hugging Face hub, or that one's own cache, and renames their entries as
    the network needs. What it then holds is kept in ``cache/downloads``, under a name with the
    version of timm, which may rename otherwise, and the first digits of its SHA-256. Raises
    ``WeightsError`` for a tag or a repository that is not there, ``TransientWeightsError`` for a
    fault that may pass, ``ResourceError`` on a full disk.
    """
    name = architecture.removeprefix(TIMM)
    facts = _published(architecture, source)
    if not facts.has_weights:
        raise WeightsError(
            f"timm publishes no weights for {architecture}.\n"
            "Set model.weights to a file, or to null with strategy.kind=scratch."
        )
    tagged, folder = f"{name}.{facts.tag}", cache / "downloads"
    stem = f"timm-{tagged}-{metadata.version('timm')}"
    for path in sorted(folder.glob(f"{stem}-*.safetensors")):
        if sha256_file(path).startswith(path.stem.rpartition("-")[2]):
            return path
    content = _fetch(tagged)
    path = folder / f"{stem}-{sha256_bytes(content)[:16]}.safetensors"
    write_atomic(path, content)
    log.info("fetched %s, licence %s", tagged, facts.license or "not stated")
    return path


def hub_repository(architecture: str, source: str) -> str | None:
    """Return the Hugging Face repository of ``timm:TAG``, such as timm/resnet18.a1_in1k.

    None where timm keeps the weights elsewhere. Raises ``WeightsError`` as ``timm_weights`` does.
    """
    found: str | None = _published(architecture, source).hf_hub_id
    return found


def _published(architecture: str, source: str) -> Any:  # noqa: ANN401 - timm's PretrainedCfg
    """Return what timm says of the weights that ``source`` names."""
    check_name(architecture)
    if not is_timm(architecture):
        raise WeightsError(
            f"{source} is of timm, and {architecture} is not.\n"
            f"Set model.architecture={TIMM}NAME, or other weights."
        )
    name, tag = architecture.removeprefix(TIMM), source.removeprefix(TIMM)
    timm = timm_library()
    if tag == DEFAULT:
        return timm.get_pretrained_cfg(name)
    prefix = f"{name}."
    known = [one.removeprefix(prefix) for one in timm.list_pretrained(f"{prefix}*")]
    if tag not in known:
        advice = nearest(tag, known) if known else "It publishes none for it."
        raise WeightsError(f"timm has no weights {tag!r} for {architecture}.\n{advice}")
    return timm.get_pretrained_cfg(f"{prefix}{tag}")


def _fetch(tagged: str) -> bytes:
    """Let timm load NAME.TAG, and return the network's entries as a safetensors file."""
    from safetensors.torch import save

    try:
        with disk_errors(f"timm's {tagged}"):
            network = timm_library().create_model(tagged, pretrained=True)
    except GraftError:
        raise
    except Exception as error:  # the hub, its http client and torch each raise their own
        raise _hub_error(tagged, error) from error
    return save({key: value.contiguous() for key, value in network.state_dict().items()})


def _hub_error(tagged: str, error: Exception) -> WeightsError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    missing = isinstance(error, RepositoryNotFoundError | EntryNotFoundError)
    if missing and not isinstance(error, LocalEntryNotFoundError):
        return WeightsError(
            f"The Hugging Face hub does not give out timm/{tagged}: {reason}\n"
            "Where its publisher asks for a login, set HF_TOKEN."
        )
    if isinstance(error, RuntimeError | ValueError | KeyError):
        return WeightsError(f"timm could not load {tagged}: {reason}\nSet model.weights to a file.")
    return TransientWeightsError(
        f"timm/{tagged} cannot be read from the Hugging Face hub: {reason}\n"
        "Check the network, or try again later."
    )
