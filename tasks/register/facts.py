"""What a run writes down about itself before it starts: config, code, machine and data."""

from __future__ import annotations

import getpass
import json
import math
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)
from mlflow.utils.validation import (
    MAX_DATASET_DIGEST_SIZE,
    MAX_PARAM_VAL_LENGTH,
    MAX_TAG_VAL_LENGTH,
)

from tasks.config import DataConfig, RunConfig
from tasks.public import HIDDEN, public_config, without_secrets
from tasks.recipe import Section
from tasks.register.processes import process_tags
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    PackedSplit,
    PreparedDataset,
    StreamedSplit,
)

GIT_SECONDS = 10
TIMES = ("seconds", "images_per_second")  # of an epoch: never twice the same
CONTEXTS = {"train": "training", "val": "validation", "test": "test"}


def graft_version() -> str:
    """Return the installed version of graft, or ``source`` where it is not installed."""
    try:
        return metadata.version("graft")
    except metadata.PackageNotFoundError:
        return "source"


def flat_params(config: RunConfig) -> dict[str, str]:
    """Return the values of ``public_config`` as text under dotted keys, as long as MLflow allows.

    The keys are those of the config file.
    """
    return {
        key: value
        if len(value) <= MAX_PARAM_VAL_LENGTH
        else value[: MAX_PARAM_VAL_LENGTH - 1] + "…"
        for key, value in _flat("", public_config(config))
    }


def _flat(prefix: str, section: Section) -> Iterator[tuple[str, str]]:
    for key, value in section.model_dump(mode="json").items():
        inner = getattr(section, key)
        if isinstance(inner, Section):
            yield from _flat(f"{prefix}{key}.", inner)
        else:  # a mapping as well: its keys, such as recall[cat], are none that MLflow takes
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def run_tags() -> dict[str, str]:
    """Return who runs which code: user, program, graft's version, process, git commit if any."""
    return {
        MLFLOW_USER: user_name(),
        MLFLOW_SOURCE_NAME: Path(sys.argv[0]).name or "python",
        MLFLOW_SOURCE_TYPE: "LOCAL",
        "graft.version": graft_version(),
        **process_tags(),
        **_git_tags(Path.cwd()),
    }


def user_name() -> str:
    """Return who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return "unknown"


def _git_tags(folder: Path) -> dict[str, str]:
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, cwd=folder, capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no repository here
        return {}
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if commit in ("", "(initial)"):
        return {}
    dirty = any(not line.startswith("#") for line in lines)
    return {MLFLOW_GIT_COMMIT: commit, "graft.git_dirty": str(dirty).lower()}


def environment_text() -> str:
    """Return Python, platform and every installed package with its version, a line each."""
    head = [f"python {platform.python_version()}", f"platform {platform.platform()}"]
    return "\n".join([*head, *_packages()]) + "\n"


@cache
def _packages() -> list[str]:
    """Return what is installed, read once a process: a tenth of a second."""
    described = (one.metadata for one in metadata.distributions())
    found = {f"{facts['Name']}=={facts['Version']}" for facts in described}
    return sorted(found, key=str.lower)


def finite_metrics(
    values: Mapping[str, float], timestamp: int, step: int
) -> tuple[list[Metric], list[str]]:
    """Return the finite values as metrics, and the others in words.

    MLflow gives infinity back as 1.8e308, a number that was never measured.
    """
    metrics = [Metric(k, v, timestamp, step) for k, v in values.items() if math.isfinite(v)]
    odd = [f"{k} is {v} at step {step}" for k, v in values.items() if not math.isfinite(v)]
    return metrics, odd


def is_another(metric: Metric, before: Mapping[tuple[str, int], float]) -> bool:
    """Say whether the value ``before``, by name and step, was another, but for what is timed."""
    value = before.get((metric.key, metric.step), metric.value)
    return metric.key not in TIMES and not math.isclose(value, metric.value)


def final_values(model: FineTunedModel, report: EvaluationReport) -> dict[str, float]:
    """Return what a run came to, as metrics."""
    values = {
        "test_accuracy": report.accuracy,
        "test_accuracy_low": report.accuracy_low,
        "test_accuracy_high": report.accuracy_high,
        "test_balanced_accuracy": report.balanced_accuracy,
        "test_macro_f1": report.macro_f1,
        "test_log_loss": report.log_loss,
        "test_images_per_second": report.images_per_second,
        **training_values(model),
    }
    for name in ("top5_accuracy", "mean_average_precision", "micro_f1", "hamming_loss"):
        value = getattr(report, name)
        if value is not None:
            values[f"test_{name}"] = value
    return values


def training_values(model: FineTunedModel) -> dict[str, float]:
    """Return what training came to, as metrics; nothing of it is of the test images."""
    return {
        "chosen_epoch": model.chosen_epoch,
        "chosen_val_accuracy": model.val_accuracy,
        "chosen_val_loss": model.val_loss,
        "training_seconds": model.seconds,
        "training_images_per_second": model.images_per_second,
        "parameters": model.parameters,
        "trainable_parameters": model.trainable_parameters,
    }


def repeat_tags(model: FineTunedModel) -> list[RunTag]:
    """Return what decides whether the run would give the same weights once more."""
    found = model.repeatable
    if found is None:
        return []
    words = "yes" if found.exact else f"no: {'; '.join(found.reasons)}"
    machine = found.machine.model_dump_json()
    return [
        RunTag(key, value[:MAX_TAG_VAL_LENGTH])
        for key, value in (("graft.repeatable", words), ("graft.machine", machine))
    ]


def dataset_inputs(config: RunConfig, prepared: PreparedDataset) -> list[DatasetInput]:
    """Return train, validation and test as MLflow dataset inputs, each with its own digest.

    MLflow keeps 36 characters of a digest; the whole one is in the profile.
    """
    return [
        DatasetInput(
            dataset=_dataset(config.data, prepared, split),
            tags=[InputTag(MLFLOW_DATASET_CONTEXT, CONTEXTS[split.name])],
        )
        for split in (prepared.train, prepared.val, prepared.test)
    ]


def _dataset(
    data: DataConfig, prepared: PreparedDataset, split: PackedSplit | StreamedSplit
) -> Dataset:
    source = without_secrets(data.path) if data.path else f"{data.kind} (built in)"
    remote = source.startswith("https://")
    store = source.partition("://")[0] if data.kind == "shards" and "://" in source else "local"
    profile = {
        "images": split.n,
        "classes": dict(zip(prepared.classes, split.counts, strict=True)),
        "digest": split.digest,
        "prepared_digest": prepared.digest,
        "raw_digest": prepared.raw_digest,
    }
    schema = {"image": f"uint8 ({split.height}, {split.width}, 3)"}
    schema |= (
        {"labels": f"uint8 ({len(split.counts)},)"} if split.multi_label else {"label": "int64"}
    )
    return Dataset(
        name=f"{Path(source.removesuffix(HIDDEN)).stem if data.path else data.kind}-{split.name}",
        digest=split.digest[:MAX_DATASET_DIGEST_SIZE],
        source_type="http" if remote else store.replace("file", "local"),  # as MLflow has them
        source=json.dumps({"url" if remote else "uri": source}),
        schema=json.dumps(schema),
        profile=json.dumps(profile),
    )
