"""One trial of a search, in whichever process; this file imports without Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flows.cells import quiet
from flows.failures import describe
from flows.search_storage import open_storage, storage_errors
from tasks.artifacts import new_folder, write_atomic
from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.errors import ResourceError, TrackingError
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.public import public_config
from tasks.register.searches import trial_tags
from tasks.register.tracking import RunTracker, open_run
from tasks.retry import with_retries
from tasks.values import Backbone, FineTunedModel, PreparedDataset, RegisteredModel, Value

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

Pruner = Literal["none", "median", "hyperband"]


class Trial(Value):
    """All that a trial needs, so that any process can do it."""

    title: str
    number: int
    trial_id: int
    is_base: bool  # the point is the base's own, whichever number it has
    config: RunConfig
    prepared: PreparedDataset
    backbone: Backbone
    teacher: RegisteredModel | None
    root: Path  # the search's folder
    parent_run: str
    keep_weights: bool
    study: str
    storage: str | None  # as the config names it: a secret stays a name
    metric: Literal["val_accuracy", "val_loss"]
    pruner: Pruner

    @property
    def folders(self) -> Path:
        """Return where the trials' folders are."""
        return self.root / "trials"


class Came(Value):
    """What came of a trial; accuracy 0 to 1, loss in nats an image, of the chosen epoch.

    A trial that was pruned has those of its last epoch.
    """

    state: Literal["complete", "pruned", "failed"]
    value: float | None = None  # by the study's metric
    val_accuracy: float | None = None
    val_loss: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    reason: str | None = None  # why it failed
    exit_code: int | None = None
    fatal: bool = False  # no other trial would do better
    same_as: int | None = None  # the trial that was trained, where the point is that one's


class Pruned(Exception):  # noqa: N818 - no error
    """Ends a training that is not worth going on with."""

    def __init__(self, record: EpochRecord, seconds: float) -> None:
        super().__init__(f"after epoch {record.epoch}")
        self.record = record
        self.seconds = seconds


def carry_out(given: Trial) -> Came:
    """Train one trial on the training images and judge it on validation; no test image is opened.

    What goes wrong is a result; ``fatal`` where the base itself fails, or the machine.
    Raises ``TrackingError`` alone, for MLflow and the study's storage.
    """
    try:
        with quiet(), open_run(given.config, trial_tags(given.parent_run, given.number)) as tracker:
            with_retries(tracker.datasets, given.prepared)
            with_retries(tracker.backbone, given.backbone)
            return _tried(given, tracker)
    except TrackingError:
        raise
    except Exception as error:
        failure = describe(error)
        return Came(
            state="failed",
            reason=failure.message,
            exit_code=failure.exit_code,
            fatal=given.is_base or _is_of_the_machine(error),
        )


def _is_of_the_machine(error: Exception) -> bool:
    """Say whether a trial failed for a full disk or a missing GPU; memory is its batch size's."""
    memory = isinstance(error.__cause__, MemoryError | RuntimeError)
    return isinstance(error, ResourceError) and not memory


def _tried(given: Trial, tracker: RunTracker) -> Came:
    try:
        model = _trained(given, tracker)
    except Pruned as stop:
        with_retries(tracker.tag, "graft.pruned", str(stop))
        record = stop.record
        return Came(
            state="pruned",
            value=getattr(record, given.metric),
            val_accuracy=record.val_accuracy,
            val_loss=record.val_loss,
            epochs=record.epoch,
            seconds=stop.seconds,
        )
    return Came(
        state="complete",
        value=getattr(model, given.metric),
        val_accuracy=model.val_accuracy,
        val_loss=model.val_loss,
        epochs=model.epochs,
        seconds=model.seconds,
    )


def _trained(given: Trial, tracker: RunTracker) -> FineTunedModel:
    """Train; the folder goes with an error, and when the trial is pruned."""
    config, judge = given.config, Judge(given, tracker)
    with new_folder(given.folders, f"{given.number:05}") as folder:
        write_atomic(folder / "config.yaml", dump_config(public_config(config)).encode())
        model = finetune(config, given.prepared, given.backbone, folder, judge, given.teacher)
        if not given.keep_weights:
            model.weights.unlink()
        with_retries(tracker.trained, model)
    return model


def make_pruner(kind: Pruner, config: RunConfig) -> BasePruner:
    """Return Optuna's pruner, for trainings as long as ``config``'s."""
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if kind == "hyperband":  # Li et al. 2018
        epochs = config.training.epochs * (config.strategy.soup or 1)
        return HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return MedianPruner(n_startup_trials=5) if kind == "median" else NopPruner()


class Judge:
    """Watches a training: passes its epochs on to MLflow and the study, and may end it."""

    def __init__(self, given: Trial, tracker: RunTracker) -> None:
        import optuna

        self._given, self._tracker = given, tracker
        self._seconds = 0.0
        self._storage = open_storage(given.storage, given.root)
        self._pruner = make_pruner(given.pruner, given.config)
        with storage_errors("opening the study"):
            self._study = optuna.load_study(
                study_name=given.study,
                storage=self._storage,
                sampler=optuna.samplers.RandomSampler(),
                pruner=self._pruner,
            )

    def step(self, progress: StepProgress) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Report an epoch; raises ``Pruned`` where the study's pruner says so."""
        self._tracker.epoch(record)
        self._seconds += record.seconds
        storage, trial_id = self._storage, self._given.trial_id
        with storage_errors("reporting an epoch"):
            value = getattr(record, self._given.metric)
            storage.set_trial_intermediate_value(trial_id, record.epoch, value)
            trial = storage.get_trial(trial_id)
            bad = record.epoch < record.epochs and self._pruner.prune(self._study, trial)
        if bad:
            raise Pruned(record, self._seconds)
