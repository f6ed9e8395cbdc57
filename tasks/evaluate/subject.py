"""What was trained and scored, as rows of name and value."""

from __future__ import annotations

from tasks.config import RunConfig
from tasks.evaluate.repeat_words import machine_words, repeat_words
from tasks.evaluate.trust_words import served_words
from tasks.public import public_config
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    InputSpec,
    PreparedDataset,
    RegisteredModel,
)

Model = FineTunedModel | RegisteredModel
Facts = list[tuple[str, str]]


def subject_facts(
    config: RunConfig, prepared: PreparedDataset, model: Model, report: EvaluationReport
) -> Facts:
    """Return the rows; what only training knows is left out of a model from the registry."""
    own = (
        _trained(config, prepared, model)
        if isinstance(model, FineTunedModel)
        else _registered(prepared, model)
    )
    return [
        *own,
        ("input", input_words(model.input)),
        ("seed", str(config.seed)),
        ("model digest", model.sha256),
        ("test digest", report.test_digest),
    ]


def _trained(config: RunConfig, prepared: PreparedDataset, model: FineTunedModel) -> Facts:
    splits = (prepared.train, prepared.val, prepared.test)
    chosen = ", by validation accuracy" if config.training.choose == "best" else ", the last"
    return [
        ("backbone", f"{model.architecture}, weights {public_config(config).model.weights}"),
        ("strategy", _strategy(config, model)),
        ("images", ", ".join(f"{split.name} {split.n:,}" for split in splits)),
        ("chosen epoch", f"{model.chosen_epoch} of {model.epochs}{chosen}"),
        ("validation accuracy", f"{model.val_accuracy:.2%}"),
        ("training", f"{model.seconds:.1f} s, {model.images_per_second:,.0f} images/s"),
        ("device", f"{model.device}, {model.precision}"),
        *_repeated(model),
        ("data digest", model.data_digest),
        ("backbone digest", model.backbone_sha256 or "none: random weights"),
    ]


def _repeated(model: FineTunedModel) -> Facts:
    found = model.repeatable
    machine = [] if found is None else [("machine", machine_words(found.machine))]
    return [*machine, ("repeatable", repeat_words(found))]


def _registered(prepared: PreparedDataset, model: RegisteredModel) -> Facts:
    return [
        ("model", model.uri),
        ("backbone", model.architecture),
        ("served with", served_words(model)),
        ("images", f"test {prepared.test.n:,}"),
    ]


def _strategy(config: RunConfig, model: FineTunedModel) -> str:
    frozen = config.strategy.frozen_stages
    stages = f", first {frozen} stages frozen" if frozen else ""
    share = f"{model.trainable_parameters:,} of {model.parameters:,} parameters train"
    return f"{config.strategy.kind}{stages}: {share}"


def input_words(spec: InputSpec) -> str:
    """Say how images are put before the network."""
    return (
        f"short side to {spec.resize} px ({spec.interpolation}), centre {spec.crop} x {spec.crop} "
        f"px, mean {_numbers(spec.mean)}, std {_numbers(spec.std)}"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
