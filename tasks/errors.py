"""Every error a user can meet: one or two lines that say what is wrong, where, and what to do.

The exit codes are the command line's contract; the flows raise these errors unchanged, so that a
Prefect worker, the command line and a test all see the same text.
"""

from __future__ import annotations

from typing import ClassVar

RESUME = "resume: "  # begins a note on a stop's exception that says how the run goes on


class GraftError(Exception):
    """Base of all errors meant for a user; ``str(error)`` is at most two lines."""

    exit_code: ClassVar[int] = 1


class ConfigError(GraftError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class DataError(GraftError):
    """The images, labels or archives are wrong."""

    exit_code = 3


class WeightsError(GraftError):
    """The pretrained weights are missing, damaged, unsafe or do not fit."""

    exit_code = 4


class TrainingError(GraftError):
    """Fine-tuning failed, for example because the loss became NaN."""

    exit_code = 5


class DivergedError(TrainingError):
    """The loss is no number any more: going on from what was trained before leads there again."""


class EvaluationError(GraftError):
    """The model could not be scored, or the gate could not decide."""

    exit_code = 6


class TrackingError(GraftError):
    """The MLflow tracking server or the model registry did not do what was asked."""

    exit_code = 7


class ResourceError(GraftError):
    """The machine ran out of disk, memory or GPU."""

    exit_code = 8


class TransientDataError(DataError):
    """A download failed in a way that another try may mend; Prefect retries it."""


class TransientWeightsError(WeightsError):
    """The same for a download of weights."""


class TransientTrackingError(TrackingError):
    """A tracking call failed in a way that another try may mend; Prefect retries it."""


class Terminated(BaseException):
    """SIGTERM arrived; like Ctrl-C it is no error, so that no ``except Exception`` holds it up."""
