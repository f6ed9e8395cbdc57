"""The weights that come with this project: a safetensors file, and its facts in JSON beside it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from tasks.artifacts import sha256_file
from tasks.config import Sha256
from tasks.errors import WeightsError
from tasks.pretrained.architectures import nearest
from tasks.values import InputSpec

FOLDER = Path(__file__).parent / "shipped"
SCHEME = "graft:"


class ShippedCard(BaseModel):
    """What the JSON beside the weights must say; the model card in it may say more."""

    architecture: str
    sha256: Sha256
    input: InputSpec


def shipped_names() -> list[str]:
    """Return what may follow ``graft:``, for example tiny-cifar10."""
    return sorted(path.stem.removeprefix("graft_").replace("_", "-") for path in _cards())


def shipped_card(source: str, architecture: str) -> ShippedCard:
    """Return the facts of ``graft:NAME``.

    Raises ``WeightsError`` when there is no such file, or it is of another architecture.
    """
    name = source.removeprefix(SCHEME)
    if name not in shipped_names():
        raise WeightsError(f"No weights {source} are shipped.\n{nearest(name, shipped_names())}")
    try:
        card = ShippedCard.model_validate_json(_path(source, ".json").read_bytes())
    except (OSError, ValidationError) as error:
        raise WeightsError(
            f"{_path(source, '.json')} cannot be read.\nInstall graft again."
        ) from error
    if card.architecture != architecture:
        raise WeightsError(
            f"{source} is for {card.architecture}, not for {architecture}.\n"
            f"Set model.architecture={card.architecture}."
        )
    return card


def shipped_weights(source: str, architecture: str) -> Path:
    """Return the path of ``graft:NAME``, its digest checked; raises ``WeightsError``."""
    card, path = shipped_card(source, architecture), _path(source, ".safetensors")
    if not path.is_file() or sha256_file(path) != card.sha256:
        raise WeightsError(f"{path} is missing or was changed.\nInstall graft again.")
    return path


def _path(source: str, suffix: str) -> Path:
    return FOLDER / f"graft_{source.removeprefix(SCHEME).replace('-', '_')}{suffix}"


def _cards() -> list[Path]:
    return list(FOLDER.glob("graft_*.json"))
