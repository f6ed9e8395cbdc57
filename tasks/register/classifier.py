"""A fine-tuned model with its preprocessing and labels: image files in, probabilities out.

This file and what it imports of ``tasks`` travel inside every registered model, so it may need
torch, torchvision, numpy, pandas, PIL, pydantic and safetensors only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tasks.artifacts import sha256_bytes, sha256_file
from tasks.config import Sha256
from tasks.errors import DataError, WeightsError
from tasks.finetune.device import pick_device
from tasks.outputs import chosen, confidence, energy, named, probabilities
from tasks.preprocess.decode import UnreadableImage, decode_rgb
from tasks.preprocess.views import eval_view, shrink
from tasks.pretrained.network import restore_network
from tasks.values import Certainty, InputSpec

if TYPE_CHECKING:
    import pandas as pd

BATCH_SIZE = 64
LISTED = 10  # bad images named in an error
LABEL, CONFIDENCE = "label", "confidence"
ANSWERED, ENERGY, NOVEL = "answered", "energy", "novel"
AS_IT_IS = Certainty()  # no temperature, no threshold


def probability_column(name: str) -> str:
    """Return the column that holds the probability of the class ``name``."""
    return f"p_{name}"


class ModelSpec(Certainty):
    """What weights alone do not say: spec.json beside model.safetensors."""

    architecture: str
    classes: tuple[str, ...]
    input: InputSpec
    sha256: Sha256  # of the weights file
    graft_version: str
    multi_label: bool = False
    label_separator: str = "|"  # multi-label only

    def content(self) -> bytes:
        """Return spec.json as it is written; what a model does not have is not worth a word."""
        fields = Certainty.model_fields.items()
        unsaid = {name for name, field in fields if getattr(self, name) == field.default}
        if not self.multi_label:
            unsaid |= {"multi_label", "label_separator"}
        return self.model_dump_json(indent=2, exclude=unsaid).encode()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of spec.json."""
        return sha256_bytes(self.content())


def read_spec(path: Path) -> ModelSpec:
    """Read spec.json; raises ``WeightsError`` when it is missing or says something else."""
    try:
        return ModelSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise WeightsError(
            f"{path} is no model description of this version of graft.\n"
            "Register the model again, or read it with the version that made it."
        ) from error


class Classifier:
    """Decodes, preprocesses and classifies images as in training; safe to use from threads."""

    def __init__(
        self,
        network: nn.Module,
        classes: tuple[str, ...],
        spec: InputSpec,
        label_separator: str | None = None,
        certainty: Certainty = AS_IT_IS,
    ) -> None:
        """Take a network; a ``label_separator`` says that an image may have several labels."""
        self.classes = classes
        self.spec = spec
        self.label_separator = label_separator
        self.certainty = certainty
        self._device = pick_device("auto")
        self._network = network.to(device=self._device).to(memory_format=torch.channels_last).eval()

    @classmethod
    def load(cls, spec_file: Path, weights: Path) -> Classifier:
        """Build the network from its two files; raises ``WeightsError`` when they do not agree."""
        spec = read_spec(spec_file)
        if not weights.is_file() or sha256_file(weights) != spec.sha256:
            raise WeightsError(
                f"{weights} is missing or damaged: its digest is not the one in {spec_file.name}.\n"
                "Fetch the model again, or register it again."
            )
        network = restore_network(spec.architecture, len(spec.classes), weights)
        separator = spec.label_separator if spec.multi_label else None
        return cls(network, spec.classes, spec.input, separator, spec)

    def predict(self, images: Sequence[bytes | Path]) -> pd.DataFrame:
        """Return one row an image: label, confidence and ``p_<class>`` for every class.

        ``images`` are files' bytes or their paths, in any number; 64 go through the network at
        once. Of several labels those above ``tasks.outputs.THRESHOLD`` are given, joined by the
        separator, and confidence is that in the whole of them. Probabilities are those of logits
        divided by the temperature. With a threshold for it there are ``answered``, whether the
        confidence suffices (the label is given all the same), and ``energy`` (nats, of undivided
        logits) and ``novel``, whether it is too high. Raises ``DataError`` as ``decoded``.
        """
        return self.classify(self.decoded(images))

    def classify(self, batches: Iterable[Tensor]) -> pd.DataFrame:
        """Return what ``predict`` does for images of ``decoded``: uint8 (b, crop, crop, 3) each."""
        import pandas as pd

        names = [probability_column(name) for name in self.classes]
        parts = [self._logits(images_bhwc) for images_bhwc in batches]
        logits_nc = torch.cat([torch.empty((0, len(names)), dtype=torch.float64), *parts])
        several = self.label_separator is not None
        probabilities_nc = probabilities(logits_nc / self.certainty.temperature, several).numpy()
        labels = named(chosen(probabilities_nc, several), self.classes, self.label_separator)
        given = pd.Series(labels, dtype=object)
        sure = self._certain(confidence(probabilities_nc, several), energy(logits_nc, several))
        each = dict(zip(names, probabilities_nc.T, strict=True))
        return pd.DataFrame({LABEL: given, **sure, **each})

    def _certain(
        self, confidence_n: npt.NDArray[np.floating], energy_n: Tensor
    ) -> dict[str, npt.NDArray[Any]]:
        columns: dict[str, npt.NDArray[Any]] = {CONFIDENCE: confidence_n}
        if self.certainty.reject_below is not None:
            columns[ANSWERED] = confidence_n >= self.certainty.reject_below
        if self.certainty.novel_above is not None:
            columns[ENERGY] = energy_n.numpy()
            columns[NOVEL] = columns[ENERGY] > self.certainty.novel_above
        return columns

    def _logits(self, images_bhwc: Tensor) -> Tensor:
        with torch.inference_mode():
            view_bchw = eval_view(images_bhwc.to(self._device), self.spec)
            logits_bc: Tensor = self._network(view_bchw)
            return logits_bc.cpu().double()

    def decoded(self, images: Sequence[bytes | Path]) -> Iterator[Tensor]:
        """Yield uint8 batches (b, crop, crop, 3); after a bad image only look for further ones.

        Raises ``DataError`` at the end, which names every unreadable image by its row, from 0.
        """
        bad: list[str] = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = []
            for row, image in enumerate(images[start : start + BATCH_SIZE], start):
                try:
                    batch.append(self._pixels(image))
                except UnreadableImage as reason:
                    where = f" ({image})" if isinstance(image, Path) else ""
                    bad.append(f"row {row}{where}: {reason}")
            if not bad:
                yield torch.stack(batch)
        if bad:
            more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
            raise DataError(
                f"{len(bad)} of {len(images)} images cannot be read: "
                f"{'; '.join(bad[:LISTED])}{more}."
            )

    def _pixels(self, image: bytes | Path) -> Tensor:
        image_chw = torch.from_numpy(decode_rgb(image)).permute(2, 0, 1)
        return shrink(image_chw, self.spec, self.spec.crop).permute(1, 2, 0)
