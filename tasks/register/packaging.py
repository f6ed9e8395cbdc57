"""Put a fine-tuned model, with all it needs to predict, into MLflow's model format."""

from __future__ import annotations

import ast
import io
import logging
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import mlflow.pyfunc
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from PIL import Image

import tasks
from tasks.artifacts import sha256_file
from tasks.evaluate.reference import REFERENCE_FILE
from tasks.preprocess.batches import PackedImages
from tasks.pretrained.timm_networks import is_timm
from tasks.register.classifier import (
    ANSWERED,
    CONFIDENCE,
    ENERGY,
    LABEL,
    NOVEL,
    ModelSpec,
    probability_column,
)
from tasks.register.client import tracking_errors
from tasks.register.facts import graft_version
from tasks.register.files import list_files
from tasks.register.learned import LEARNED_FILE, Learned
from tasks.values import Certainty, EvaluationReport, FineTunedModel, PackedSplit

SCRIPT = Path(__file__).with_name("served_model.py")
ROOT = Path(tasks.__file__).parent.parent
NEEDED = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
    "torch",
    "torchvision",
)

KEPT_REFERENCE = f"artifacts/{REFERENCE_FILE}"
REFERENCE = "graft.reference_digest"  # version tag: digest of that file

log = logging.getLogger(__name__)


class Logged(NamedTuple):
    """A logged model: its id, its description, and digests of the lists of its files and images."""

    model_id: str
    spec: ModelSpec
    files_digest: str
    learned_digest: str | None  # None: it does not say what it learned from


def log_model(
    client: MlflowClient,
    run_id: str,
    model: FineTunedModel,
    report: EvaluationReport,
    examples: PackedSplit,
    label_separator: str,
    learned: Learned | None = None,
) -> Logged:
    """Store ``model`` as an MLflow logged model of the run; return what a version says of it.

    ``report`` gives the temperature and the thresholds that it is served with. Of a multi-label
    model ``label_separator`` joins the labels of an image. ``learned`` is what it learned from.
    A logged model is no version of a registered model yet. Raises ``TrackingError`` when MLflow
    refuses, and leaves no logged model behind then.
    """
    spec = ModelSpec(
        architecture=model.architecture,
        classes=model.classes,
        input=model.input,
        sha256=model.sha256,
        graft_version=graft_version(),
        multi_label=model.multi_label,
        label_separator=label_separator,
        **certainty(report).model_dump(),
    )
    with tracking_errors("storing the model"), tempfile.TemporaryDirectory() as scratch:
        experiment_id = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(
            experiment_id, name="model", source_run_id=run_id, model_type="image-classifier"
        )
        try:
            folder, listed = Path(scratch) / "model", None
            facts = Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id)
            save_model(folder, facts, model.weights, spec, example_image(examples))
            if learned is not None:
                learned.write(folder / LEARNED_FILE)
                listed = sha256_file(folder / LEARNED_FILE)
            if report.reference is not None:
                shutil.copyfile(report.folder / REFERENCE_FILE, folder / KEPT_REFERENCE)
            files_digest = list_files(folder)
            client.log_model_artifacts(logged.model_id, str(folder))
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        except BaseException:
            _forget(client, logged.model_id)
            raise
    return Logged(logged.model_id, spec, files_digest, listed)


def certainty(report: EvaluationReport) -> Certainty:
    """Return what ``report`` chose on validation, and of what it did not choose the default."""
    chosen: dict[str, float] = {}
    if report.calibration is not None:
        chosen["temperature"] = report.calibration.temperature
    if report.rejection is not None:
        chosen["reject_below"] = report.rejection.threshold
    if report.novelty is not None:
        chosen["novel_above"] = report.novelty.threshold
    return Certainty.model_validate(chosen)


def _forget(client: MlflowClient, model_id: str) -> None:
    try:
        client.delete_logged_model(model_id)
    except MlflowException as fault:  # must not hide what went wrong first
        log.warning("the logged model %s is left behind: %s", model_id, fault)


def save_model(folder: Path, facts: Model, weights: Path, spec: ModelSpec, example: bytes) -> None:
    """Write an MLflow model into ``folder``: weights, description, code, signature, example."""
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        (staged / "spec.json").write_bytes(spec.content())
        stage_code(staged / "code")
        mlflow.pyfunc.save_model(
            folder,
            python_model=SCRIPT,
            code_paths=[str(staged / "code" / "tasks")],
            artifacts={"weights": str(weights.absolute()), "spec": str(staged / "spec.json")},
            signature=signature(spec),
            input_example=pd.DataFrame({"image": [example]}),
            conda_env=_environment(spec.architecture),
            mlflow_model=facts,
        )


def signature(spec: ModelSpec) -> ModelSignature:
    """Return the schema: one unnamed binary column in, what ``Classifier.predict`` gives out.

    Unnamed, because MLflow drops a plain list's column when the schema has names.
    """
    kinds = {LABEL: DataType.string, CONFIDENCE: DataType.double}
    if spec.reject_below is not None:
        kinds[ANSWERED] = DataType.boolean
    if spec.novel_above is not None:
        kinds |= {ENERGY: DataType.double, NOVEL: DataType.boolean}
    kinds |= {probability_column(name): DataType.double for name in spec.classes}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary)]),
        outputs=Schema([ColSpec(kind, name) for name, kind in kinds.items()]),
    )


def example_image(split: PackedSplit) -> bytes:
    """Return the first image of ``split``, as the network sees it, as a PNG file's bytes."""
    file = io.BytesIO()
    Image.fromarray(PackedImages(split).images_nhwc[0]).save(file, format="PNG")
    return file.getvalue()


def stage_code(target: Path) -> None:
    """Copy every module of ``tasks`` that served_model.py needs, and no other, to ``target``."""
    for source in sorted(needed_modules(SCRIPT)):
        copy = target / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def needed_modules(script: Path) -> set[Path]:
    """Return the files of ``tasks`` that ``script`` imports, directly or through another."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for path in _imports(waiting.pop()):
            if path not in found:
                found.add(path)
                waiting.append(path)
    return found


def _imports(script: Path) -> set[Path]:
    names: list[str] = []
    for node in ast.walk(ast.parse(script.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    ours = (name.split(".") for name in names if name.split(".")[0] == "tasks")
    prefixes = {tuple(parts[:end]) for parts in ours for end in range(1, len(parts) + 1)}
    candidates = (ROOT.joinpath(*parts) for parts in prefixes)
    files = {c for p in candidates for c in (p.with_suffix(".py"), p / "__init__.py")}
    return {file for file in files if file.is_file()}


def _environment(architecture: str) -> dict[str, object]:
    # A dictionary, because MLflow starts pip to find its version when given requirements alone.
    needed = (*NEEDED, "timm") if is_timm(architecture) else NEEDED
    pinned = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in needed]
    return {
        "name": "graft",
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", "pip", {"pip": pinned}],
    }
