"""What decides a network's features, in one digest, and how much room they take."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from tasks.artifacts import sha256_parts
from tasks.finetune.cut import Cut
from tasks.finetune.feature_files import StoredFeatures
from tasks.finetune.machine import this_machine
from tasks.formats import fields_of, versions_of
from tasks.recipe import TrainingConfig
from tasks.values import PreparedDataset

FORMAT = "graft features 3"  # change it when the same key would give other numbers or files


@dataclass(frozen=True)
class FeatureRequest:
    """How features are computed."""

    recipe: TrainingConfig
    seed: int  # of augmented views
    device: torch.device
    precision: torch.dtype  # float32 or bfloat16
    backbone_digest: str  # of the weights file; the frozen weights themselves count as well
    evaluation_batch: int  # images a batch


def views_kept(recipe: TrainingConfig) -> int:
    """Return how many views of each training image are kept."""
    return (recipe.feature_views or 1) if recipe.augmented else 1


def origin_digest(cut: Cut, prepared: PreparedDataset) -> str:
    """Digest which features of which images these are, in whatever precision and views."""
    spec = prepared.input.model_dump_json()
    return sha256_parts(prefix_digest(cut.prefix), cut.description, prepared.digest, spec)


def prefix_digest(prefix: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers with their names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in chain(prefix.named_parameters(), prefix.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_key(origin: str, request: FeatureRequest) -> str:
    """Digest all that decides the numbers: ``origin`` and the form that ``request`` asks for."""
    recipe, views = request.recipe, views_kept(request.recipe)
    form = (str(request.precision), str(views), request.backbone_digest)
    # a cache that machines of two kinds share gives neither the other's rounding, which a batch of
    # another size may have as well
    machine = this_machine(request.device).model_dump_json(exclude={"processes"})
    parts = (_format(), machine, origin, *form, str(request.evaluation_batch))
    if not recipe.augmented:
        return sha256_parts(*parts)
    settings = (recipe.augment, recipe.policy, str(recipe.random_erasing))
    return sha256_parts(*parts, *settings, str(request.seed))


def _format() -> str:
    return ", ".join((FORMAT, fields_of(StoredFeatures), versions_of("torch", "torchvision")))


def bytes_needed(
    cut: Cut, prepared: PreparedDataset, recipe: TrainingConfig, precision: torch.dtype
) -> int:
    """Return how many bytes both splits' features take."""
    images = views_kept(recipe) * prepared.train.n + prepared.val.n
    return images * math.prod(cut.shape) * precision.itemsize
