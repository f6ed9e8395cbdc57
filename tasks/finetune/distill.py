"""Knowledge distillation: a small student learns what a bigger registered model answers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from tasks.errors import ConfigError
from tasks.finetune.at_once import AtOnce
from tasks.finetune.device import on_device
from tasks.pretrained.network import restore_network
from tasks.values import InputSpec, RegisteredModel

_NAMED = 3  # classes that a message names


class Teacher:
    """A trained network whose answers are learnt (Hinton, Vinyals & Dean 2015, arXiv 1503.02531).

    It sees the student's own augmented images, what is erased of them erased for it as well: the
    same view for both is what makes its answers worth learning (Beyer et al. 2022, "A good teacher
    is patient and consistent"). It does not train: evaluation mode, no gradients.
    """

    def __init__(
        self, network: nn.Module, spec: InputSpec, device: torch.device, precision: torch.dtype
    ) -> None:
        self.network = on_device(network.requires_grad_(False).eval(), device)
        self._spec, self._device, self._precision = spec, device, precision
        self._at_once = AtOnce()

    @torch.no_grad()  # not inference_mode, whose tensors a later loss could not keep
    def logits(self, views_bchw: Tensor, spec: InputSpec) -> Tensor:
        """Return float32 logits (b, k) for a student's input (b, 3, h, w), on the teacher's device.

        ``spec`` is the student's, whose normalisation the views have. A teacher of the same input
        gets these numbers; for another they are normalised as it was trained and, the whole view,
        resized to its size.
        """
        own_bchw = _as_for(self._spec, views_bchw, spec)
        return self._at_once.through(self._answer, own_bchw, self._device)

    def _answer(self, images_bchw: Tensor) -> Tensor:
        enabled = self._precision != torch.float32
        with torch.autocast(self._device.type, dtype=self._precision, enabled=enabled):
            logits_bk: Tensor = self.network(images_bchw)
        return logits_bk.float()


def _as_for(own: InputSpec, views_bchw: Tensor, spec: InputSpec) -> Tensor:
    """Return views that are normalised and sized by ``spec`` as ``own`` has them."""
    if (own.crop, own.mean, own.std) == (spec.crop, spec.mean, spec.std):
        return views_bchw
    mean, std = _of_channels(spec, views_bchw)
    pixels_bchw = views_bchw * std + mean  # 0 to 1
    if own.crop != spec.crop:  # bicubic may overshoot
        mode = InterpolationMode(own.interpolation)
        pixels_bchw = tv.resize(pixels_bchw, [own.crop], interpolation=mode, antialias=True)
        pixels_bchw = pixels_bchw.clamp_(0, 1)
    mean, std = _of_channels(own, views_bchw)
    return (pixels_bchw - mean) / std


def _of_channels(spec: InputSpec, like: Tensor) -> Iterable[Tensor]:
    """Return mean and standard deviation (3, 1, 1)."""
    return (
        torch.tensor(values).to(like.device, non_blocking=True).view(3, 1, 1)
        for values in (spec.mean, spec.std)
    )


def load_teacher(
    registered: RegisteredModel,
    classes: tuple[str, ...],
    device: torch.device,
    precision: torch.dtype,
    multi_label: bool,
) -> Teacher:
    """Return the registered model as a teacher of data with ``classes``.

    Raises ``ConfigError`` unless its classes are these, in this order (position is the label), and
    it gives an image one label or several as the data does, and ``WeightsError`` when its file
    cannot be read or does not fit.
    """
    check_teacher(registered, classes, multi_label)
    network = restore_network(registered.architecture, len(classes), registered.weights)
    return Teacher(network, registered.input, device, precision)


def check_teacher(registered: RegisteredModel, classes: tuple[str, ...], multi_label: bool) -> None:
    """Raise ``ConfigError`` unless the teacher's classes and kind of labels are the data's."""
    if registered.classes != classes:
        raise ConfigError(
            f"strategy.teacher={registered.uri} does not know the classes of the data: "
            f"{_difference(registered.classes, classes)}.\n"
            "Name a teacher that was trained on the same classes."
        )
    if registered.multi_label != multi_label:
        kinds = {True: "any number of labels", False: "one label"}
        raise ConfigError(
            f"strategy.teacher={registered.uri} gives an image {kinds[registered.multi_label]}, "
            f"and the data {kinds[multi_label]}.\nName a teacher that was trained on such data."
        )


def _difference(teachers: tuple[str, ...], datas: tuple[str, ...]) -> str:
    lacking, extra = (
        [name for name in ones if name not in others]
        for ones, others in ((datas, teachers), (teachers, datas))
    )
    parts = [f"it lacks {_some(lacking)}"] if lacking else []
    parts += [f"the data has no {_some(extra)}"] if extra else []
    return " and ".join(parts) or "they are the same names in another order"


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(repr, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


class DistillationLoss(nn.Module):
    """(1 - weight)·plain + weight·T²·KL(teacher ‖ student), both softened by T.

    Hinton et al. 2015, section 2: p = softmax(teacher / T), q = softmax(student / T), and T² keeps
    the soft part's gradients on one scale whatever T is. KL(p ‖ q) = Σ p·log(p / q), in nats, is
    the mean over images. With ``multi_label`` every label is a yes or no of its own, p =
    sigmoid(teacher / T), and the mean goes over images and labels, as that of
    ``BCEWithLogitsLoss`` does.
    """

    def __init__(
        self, weight: float, temperature: float, plain: nn.Module, multi_label: bool
    ) -> None:
        super().__init__()
        self._weight, self._temperature = weight, temperature
        self._plain = plain
        self._log_share = _log_sigmoid if multi_label else _log_softmax

    def forward(self, student_bk: Tensor, teacher_bk: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; logits are (b, k), ``targets`` are what ``plain`` takes."""
        student, teacher = (
            self._log_share(logits_bk.float() / self._temperature)
            for logits_bk in (student_bk, teacher_bk)
        )
        soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        plain: Tensor = self._plain(student_bk, targets)
        return (1 - self._weight) * plain + self._weight * self._temperature**2 * soft


def _log_softmax(logits_bk: Tensor) -> Tensor:
    """Return log-probabilities (b, k)."""
    return F.log_softmax(logits_bk, dim=1)


def _log_sigmoid(logits_bk: Tensor) -> Tensor:
    """Return log-probabilities (b · k, 2) of yes and no."""
    logits_n = logits_bk.flatten()
    return torch.stack((F.logsigmoid(logits_n), F.logsigmoid(-logits_n)), dim=1)
