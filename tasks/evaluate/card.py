"""A model card: README.md in the Hugging Face format, with the sections of their template."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from tasks.config import RunConfig
from tasks.configfile import dump_config
from tasks.evaluate import report_parts as parts
from tasks.evaluate.card_data import base_model, card_data, dataset_name
from tasks.evaluate.page_parts import mean_corrupted, weakest_class
from tasks.evaluate.seen_words import near_words, seen_words
from tasks.evaluate.subject import Model, input_words, subject_facts
from tasks.evaluate.tables import escape_markdown, markdown_table
from tasks.evaluate.wording import counted, percent, whole_figures, wording
from tasks.public import public_config
from tasks.values import EvaluationReport, FineTunedModel, PreparedDataset
from tasks.words import listed

_UNFOLDED = 2**31  # columns
_TICKS = re.compile("`+")


def model_card(
    config: RunConfig, prepared: PreparedDataset, model: Model, report: EvaluationReport
) -> str:
    """Return the card: YAML front matter, then Markdown in which a user's words are escaped.

    The model-index holds the figures of the test set with their intervals. What nobody told is
    left out, the licence above all. Raises ``WeightsError`` where timm no longer knows the
    weights that training began from.
    """
    import yaml

    data = yaml.safe_dump(
        card_data(config, model, report), sort_keys=False, allow_unicode=True, width=_UNFOLDED
    )
    lines = [
        *("---", data.rstrip("\n"), "---", ""),
        f"# Model Card for {config.name}",
        "",
        f"{escape_markdown(model.architecture)} that {_task(prepared)}. On {report.n:,} test "
        f"images its accuracy is **{report.accuracy:.2%}** (95% interval "
        f"{report.accuracy_low:.2%} to {report.accuracy_high:.2%}). Of these images: "
        f"{seen_words(report.seen)}. {near_words(prepared, model)}",
        "",
        *_details(config, prepared, model, report),
        *_uses(prepared, report),
        *_limits(prepared, report),
        *_get_started(config, model),
        *_training(config, prepared, model),
        *_evaluation(config, prepared, report),
    ]
    return "\n".join(lines)


def _task(prepared: PreparedDataset) -> str:
    n = len(prepared.classes)
    if prepared.multi_label:
        return f"says of an image which of {n:,} labels it has, if any"
    return f"puts an image into one of {n:,} classes"


def _details(
    config: RunConfig, prepared: PreparedDataset, model: Model, report: EvaluationReport
) -> list[str]:
    base = base_model(config, model)
    origin = [] if base is None else ["", f"- **Finetuned from model:** {escape_markdown(base)}"]
    return [
        *("## Model Details", "", "### Model Description", ""),
        *markdown_table([("what", "value"), *subject_facts(config, prepared, model, report)]),
        *origin,
        "",
    ]


def _uses(prepared: PreparedDataset, report: EvaluationReport) -> list[str]:
    novelty = report.novelty
    noticed = (
        ""
        if novelty is None
        else f" An energy above {novelty.threshold:.3f} is a sign of such an image, no more: "
        f"it marked {percent(novelty.noise_flagged)} of images of noise."
    )
    return [
        *("## Uses", "", "### Direct Use", ""),
        f"Images like those it was trained on and tested on. It {_task(prepared)}: "
        f"{escape_markdown(listed(prepared.classes))}.",
        "",
        *("### Out-of-Scope Use", ""),
        "Images of anything else, or taken in another way: the network answers all the same, with "
        f"one of the classes it knows.{noticed} Decisions about people or their health that nobody "
        "checks.",
        "",
    ]


def _limits(prepared: PreparedDataset, report: EvaluationReport) -> list[str]:
    return [
        *("## Bias, Risks, and Limitations", ""),
        *(f"- {line}" for line in _known_limits(prepared, report)),
        "",
        *_recommendations(report),
    ]


def _known_limits(prepared: PreparedDataset, report: EvaluationReport) -> Iterator[str]:
    """Yield in a sentence each what the evaluation found wanting."""
    yield (
        f"All figures are of {report.n:,} images from the same source as those of training; "
        "elsewhere they may be lower."
    )
    weakest = weakest_class(report)
    if weakest is not None:
        yield (
            f"Of {escape_markdown(weakest.name)}, the weakest class, {percent(weakest.recall)} of "
            f"{weakest.n:,} images are found."
        )
    for one in report.slices:
        if one.high is not None and one.high < report.accuracy:
            name = escape_markdown(f"{one.column} = {one.value}")
            yield (
                f"Where {name} ({one.n:,} images) accuracy is {percent(one.accuracy)}, and the "
                "whole interval lies below that of all test images."
            )
    damaged = mean_corrupted(report.corruptions)
    if damaged is not None:
        yield f"On images damaged by noise, blur and the like mean accuracy is {percent(damaged)}."
    for check in prepared.checks:
        if check.status != "ok":
            found = counted(check.found, check.unit)
            yield f"The data had {check.name.replace('_', ' ')} ({found}): {check.status}."


def _recommendations(report: EvaluationReport) -> list[str]:
    found = report.rejection
    if found is None or found.threshold > 1:
        return []
    return [
        *("### Recommendations", ""),
        f"Take no answer below a confidence of {found.threshold:.4f}: of the test images "
        f"{percent(found.test_coverage)} reach it, and {percent(found.test_error)} of those are "
        "wrong.",
        "",
    ]


def _get_started(config: RunConfig, model: Model) -> list[str]:
    registered = f"models:/{config.promotion.model}@champion"
    uri = registered if isinstance(model, FineTunedModel) else model.uri
    return [
        *("## How to Get Started with the Model", ""),
        "From the registry that it stands in, on the command line or in Python; a version that is "
        "not the champion goes by its number, as in models:/NAME/3:",
        *("", "```sh", f"graft predict IMAGE --model {uri}", "```", ""),
        *("```python", "import mlflow", ""),
        f'model = mlflow.pyfunc.load_model("{uri}")',
        'table = model.predict(["IMAGE"])  # label, confidence and the probability of each class',
        *("```", ""),
    ]


def _training(config: RunConfig, prepared: PreparedDataset, model: Model) -> list[str]:
    if not isinstance(model, FineTunedModel):
        return []
    settings = public_config(config)
    text = dump_config(settings.strategy) + dump_config(settings.training)
    splits = (prepared.train, prepared.val)
    images = ", ".join(f"{split.n:,} for {_SPLITS[split.name]}" for split in splits)
    return [
        *("## Training Details", "", "### Training Data", ""),
        f"{escape_markdown(dataset_name(config.data))}: images {images}.",
        "",
        *parts.data_lines(prepared),
        *("### Training Procedure", "", "#### Preprocessing", ""),
        f"{input_words(model.input)}.",
        *("", "#### Training Hyperparameters", "", f"- **Training regime:** {model.precision}", ""),
        *_fenced(text, "yaml"),
        "",
        *parts.bullets(model.notes),
        *("#### Speeds, Sizes, Times", ""),
        f"{model.seconds:.1f} s for {model.epochs} epochs, {model.images_per_second:,.0f} images/s "
        f"on {escape_markdown(model.device)}, PyTorch {torch.__version__}.",
        "",
    ]


_SPLITS = {"train": "training", "val": "validation", "test": "the test"}


def _fenced(text: str, language: str) -> list[str]:
    """Return a block of code that nothing in ``text`` can end."""
    longest = max((len(run) for run in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence]


def _evaluation(
    config: RunConfig, prepared: PreparedDataset, report: EvaluationReport
) -> list[str]:
    slices = parts.slice_lines(report)
    columns = ", ".join(escape_markdown(one) for one in config.data.slice_columns)
    factors = ["#### Factors", "", f"Parts of the test set by {columns}.", ""] if slices else []
    examples = [
        *("## Model Examination", ""),
        "The surest errors, and what the network looked at:",
        *("", "![the surest errors](explained/grid.png)", ""),
    ]
    return [
        *("## Evaluation", "", "### Testing Data, Factors & Metrics", "", "#### Testing Data", ""),
        f"{report.n:,} images of {escape_markdown(dataset_name(config.data))}, digest "
        f"{report.test_digest}.",
        "",
        *factors,
        *("#### Metrics", ""),
        *(f"- **{wording(one.name).label}:** {wording(one.name).meaning}"
          for one in whole_figures(report)),
        *("", "### Results", ""),
        *parts.figure_lines(report),
        *parts.class_lines(report),
        *slices,
        *parts.robustness_lines(report),
        *parts.trust_lines(report),
        *parts.speed_lines(report),
        *(examples if report.explained else ()),
    ]  # fmt: skip
