"""How sure a model may be taken to be, in sentences for every form of the report."""

from __future__ import annotations

from tasks.evaluate.wording import percent
from tasks.measures import Calibration, Novelty, Rejection
from tasks.values import Certainty

_DECLINED = {
    "bound": "is at the bound of what is searched: how sure the network is has next to nothing to "
    "do with its errors on validation",
    "held_out": "does not lower the log loss of validation images that it was not fitted on",
}


def calibration_words(fit: Calibration) -> str:
    """Say which temperature was chosen on validation and what it changed, or why it is 1."""
    if fit.declined is not None and fit.fitted is not None:
        return (
            f"The temperature stays 1, and the outputs as they are: {fit.fitted:.3g}, fitted on "
            f"validation, {_DECLINED[fit.declined]}. The calibration error on validation is "
            f"{percent(fit.val_ece)}, the log loss {fit.val_log_loss:.4f}."
        )
    return (
        f"Temperature {fit.temperature:.3f}, chosen on validation images: the outputs are divided "
        "by it before they become probabilities, which leaves every prediction as it is. On "
        f"validation the calibration error went from {percent(fit.val_ece_before)} to "
        f"{percent(fit.val_ece)}, the log loss from {fit.val_log_loss_before:.4f} to "
        f"{fit.val_log_loss:.4f}.{_direction(fit.temperature)}"
    )


def _direction(temperature: float) -> str:
    if temperature == 1:
        return ""
    if temperature > 1:
        return " Above 1: the network was too sure of itself."
    return " Below 1: the network was surer than it said."


def rejection_words(found: Rejection) -> str:
    """Say from which confidence on the model answers, and how often it is wrong then."""
    chosen = (
        "the threshold of the version as it is served"
        if found.wanted_error is None
        else f"chosen on validation for an error rate of {percent(found.wanted_error)}"
    )
    if found.threshold > 1:
        return _nothing_answered(found.wanted_error)
    wrong = (
        "no test image reaches it"
        if found.test_error is None
        else f"{percent(found.test_coverage)} of the test images are answered and "
        f"{percent(found.test_error)} of those are wrong"
    )
    return f"Answering only from a confidence of {found.threshold:.4f} on, {chosen}, {wrong}."


def _nothing_answered(wanted_error: float | None) -> str:
    if wanted_error is None:
        return "The version is served with a threshold above every confidence: it answers no image."
    return (
        "No confidence was shown on validation to keep the error rate among answered images at "
        f"{percent(wanted_error)}, for want of validation images or of accuracy; no image would be "
        "answered."
    )


def novelty_words(found: Novelty) -> str:
    """Say which energy marks an image as unlike those of training, and how many it marks."""
    which = (
        "the threshold of the version as it is served"
        if found.kept is None
        else f"which {percent(found.kept)} of the validation images stay below"
    )
    return (
        f"An energy above {found.threshold:.3f}, {which}, marks {percent(found.test_flagged)} of "
        f"the test images and {percent(found.noise_flagged)} of noise images (AUROC "
        f"{found.noise_auroc:.4f})."
    )


def served_words(model: Certainty) -> str:
    """Say what a version's probabilities, silence and warnings are made by."""
    said = [f"temperature {model.temperature:.4g}"]
    if model.reject_below is not None:
        said.append(f"no answer below a confidence of {model.reject_below:.4f}")
    if model.novel_above is not None:
        said.append(f"unlike its training images above an energy of {model.novel_above:.3f}")
    return ", ".join(said)
