"""One MLflow run around one graft run, always addressed by its id: no global active run.

So any thread or Prefect task that holds the tracker can write to the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException

from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.errors import GraftError, TrackingError
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.public import public_config, without_secrets
from tasks.register.client import artifact_root, connect, tracking_errors, tracking_uri
from tasks.register.delivery import Delivery
from tasks.register.facts import (
    dataset_inputs,
    environment_text,
    final_values,
    flat_params,
    repeat_tags,
    run_tags,
    training_values,
)
from tasks.register.machine import system_metrics
from tasks.register.moments import end_run
from tasks.register.wire import wait_for_server
from tasks.retry import with_retries
from tasks.values import Backbone, EvaluationReport, FineTunedModel, PreparedDataset

__all__ = ["RunTracker", "closing", "find_experiment", "open_run", "tracking_uri"]

LONGEST_ERROR = 1000  # characters

log = logging.getLogger(__name__)


class RunTracker:
    """Writes one run's facts to MLflow.

    Every method raises ``TransientTrackingError`` when the server does not answer just now and
    ``TrackingError`` when it refuses.
    """

    def __init__(
        self, client: MlflowClient, config: RunConfig, run_id: str, experiment_id: str
    ) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._client = client
        self._config = config
        self._delivery = Delivery(client, run_id)

    def keep_in(self, spool: Path) -> None:
        """Keep metrics that MLflow does not take in a file, and take up those that are in it."""
        self._delivery.keep_in(spool)

    @contextmanager
    def all_sent(self) -> Iterator[None]:
        """Send what waits when the block ends, however it does, or say that it is not tracked."""
        try:
            yield
        finally:
            self._delivery.finish()

    def step(self, progress: StepProgress) -> None:
        """Log nothing: a line a step is too much."""

    def epoch(self, record: EpochRecord) -> None:
        """Log one epoch's figures at step ``record.epoch``, in one call.

        Hours of training must neither end nor wait because the server is away or refuses: what it
        does not take now waits, and ``finished`` fails if it still does not take it then.
        """
        values = {
            "train_loss": record.train_loss,
            "train_accuracy": record.train_accuracy,
            "val_loss": record.val_loss,
            "val_accuracy": record.val_accuracy,
            "learning_rate": record.learning_rate,
            "images_per_second": record.images_per_second,
            "seconds": record.seconds,
        }
        self._delivery.add(values, record.epoch)
        self._delivery.attempt(record.epoch)

    def datasets(self, prepared: PreparedDataset) -> None:
        """Log the three splits as dataset inputs with their digests."""
        wait_for_server()
        with tracking_errors("logging the datasets"):
            inputs = dataset_inputs(self._config, prepared)
            self._client.log_inputs(self.run_id, datasets=inputs)

    def backbone(self, backbone: Backbone) -> None:
        """Log which pretrained network the run starts from, under ``backbone.``."""
        facts = {
            "architecture": backbone.architecture,
            "source": without_secrets(backbone.source),
            "sha256": backbone.sha256 or "none: random weights",
            "parameters": backbone.parameters,
            "head": backbone.head,
            "keep_head": backbone.keep_head,
            "input": backbone.input.model_dump_json(),
        }
        params = [Param(f"backbone.{key}", str(value)) for key, value in facts.items()]
        wait_for_server()
        with tracking_errors("logging the backbone"):
            self._client.log_batch(self.run_id, params=params)

    def finished(self, model: FineTunedModel, report: EvaluationReport) -> None:
        """Log the final figures, and every file of the run folder as an artifact.

        Safe to call again after a fault: nothing is logged twice. A server that went away is waited
        for.
        """
        self._last(final_values(model, report), model)

    def trained(self, model: FineTunedModel) -> None:
        """Log what training came to, and its files: all there is where no test image is scored."""
        self._last(training_values(model), model)

    def tag(self, key: str, value: str) -> None:
        """Set a tag."""
        with tracking_errors("tagging the run"):
            self._client.set_tag(self.run_id, key, value)

    def look(self, names: Iterable[str]) -> None:
        """Take what MLflow has of these metrics for logged: what is the same is not, again."""
        self._delivery.look(names)

    def _last(self, values: Mapping[str, float], model: FineTunedModel) -> None:
        wait_for_server()
        tags = {tag.key: tag.value for tag in repeat_tags(model)}
        self._delivery.add(values, model.chosen_epoch, tags)
        self._delivery.deliver()
        self._files(model.folder)

    def _files(self, folder: Path) -> None:
        """Store what is in a run folder, but for what only a run that is not done needs."""
        with tracking_errors("storing the run's files"):
            for path in sorted(folder.iterdir()):
                if path.name.startswith("."):
                    continue
                if path.is_dir():
                    self._client.log_artifacts(self.run_id, str(path), path.name)
                else:
                    self._client.log_artifact(self.run_id, str(path))


@contextmanager
def open_run(
    config: RunConfig, tags: Mapping[str, str] = MappingProxyType({})
) -> Iterator[RunTracker]:
    """Open an MLflow run for ``config``, with ``tags`` on top, and close it with the right status.

    FINISHED when the block ends well, FAILED on an error, KILLED on Ctrl-C and the like (every
    ``BaseException`` that is no ``Exception``, Prefect's termination signal included). Raises
    ``TrackingError`` within ten seconds when the server is not there; one that goes away later is
    waited for, and never undoes a block that ended well.
    """
    client = connect()
    tracker = with_retries(_open, client, config, tags)
    with closing(client, tracker.run_id), system_metrics(tracker.run_id):
        with_retries(write_opening_facts, client, tracker.run_id, config)
        with tracker.all_sent():
            yield tracker


@contextmanager
def closing(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Close an open run with the status that tells how the block ended."""
    try:
        yield
    except BaseException as error:
        _abandon(client, run_id, error)
        raise
    _finish(client, run_id)


def _open(client: MlflowClient, config: RunConfig, tags: Mapping[str, str]) -> RunTracker:
    with tracking_errors("opening the run"):
        experiment_id = find_experiment(client, config.tracking.experiment)
        run = client.create_run(experiment_id, tags={**run_tags(), **tags}, run_name=config.name)
    return RunTracker(client, config, run.info.run_id, experiment_id)


def find_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment ``name``, made if need be; raises ``TrackingError``."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root()))
        except MlflowException:  # another run may have made it since
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"The MLflow experiment {name} is deleted.\n"
            "Restore it with `mlflow experiments restore`, or set tracking.experiment."
        )
    return str(found.experiment_id)


def write_opening_facts(
    client: MlflowClient, run_id: str, config: RunConfig, there: Collection[str] = ()
) -> None:
    """Log config and environment; safe to call again.

    Parameters that are ``there`` stay: MLflow changes none, and ``output`` may be another by now.
    """
    params = [Param(key, text) for key, text in flat_params(config).items() if key not in there]
    with tracking_errors("logging the config"):
        client.log_batch(run_id, params=params)
        client.log_text(run_id, dump_config(public_config(config)), "config.yaml")
        client.log_text(run_id, environment_text(), "environment.txt")


def _finish(client: MlflowClient, run_id: str) -> None:
    try:
        wait_for_server()
        with_retries(_close, client, run_id, "FINISHED")
    except GraftError as fault:  # what the run has made stands all the same
        log.warning("the run stays open in MLflow: %s", fault)


def _abandon(client: MlflowClient, run_id: str, error: BaseException) -> None:
    status = "FAILED" if isinstance(error, Exception) else "KILLED"
    words = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
    try:
        connect(create=False)  # MLflow would knock at a server that is away for half a minute
        with tracking_errors("closing the run"):
            client.set_tag(run_id, "graft.error", words)
        _close(client, run_id, status)
    except GraftError as fault:  # must not hide what went wrong first
        log.warning("the run stays open in MLflow: %s", fault)


def _close(client: MlflowClient, run_id: str, status: str) -> None:
    with tracking_errors("closing the run"):
        end_run(client, run_id, status)
