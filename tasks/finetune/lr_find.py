"""Find good learning rates for a run: the range test with the run's own network and recipe."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from tasks.artifacts import write_atomic
from tasks.config import RunConfig
from tasks.errors import TrainingError
from tasks.evaluate.plots import new_figure, save_figure
from tasks.finetune.course import Course, open_course
from tasks.finetune.device import describe, memory_errors
from tasks.finetune.feed import Feed
from tasks.finetune.inputs import Share, make_inputs
from tasks.finetune.loop import Trainer
from tasks.finetune.lr_range import LrRange, steep, sweep, valley
from tasks.finetune.phases import Phase, plan_phases
from tasks.finetune.progress import Nobody
from tasks.finetune.start import Training, start_training
from tasks.finetune.training import build_motion, build_trainer, train_phases
from tasks.preprocess.batches import Batch
from tasks.recipe import TrainingConfig
from tasks.values import Backbone, PreparedDataset, RegisteredModel, Value

_FEWEST = 3  # steps that a suggestion needs

log = logging.getLogger(__name__)


class LrFinding(Value):
    """The losses of a range test, and the learning rates that they suggest.

    The rates are ``training.learning_rate``; those of the head and of lower stages, where they
    differ, were changed in proportion.
    """

    rates: tuple[float, ...]  # of each step
    losses: tuple[float, ...]  # before that step's move, nats an image
    smoothed: tuple[float, ...]
    stopped_at: float | None  # the rate at which the loss grew out of hand; None if it never did
    steep: float  # where the smoothed loss falls fastest
    valley: float  # half way down the longest valley; the usual choice
    head_learning_rate: float | None  # to go with ``valley``; None: the same, as in the config


def find_learning_rate(
    config: RunConfig,
    prepared: PreparedDataset,
    backbone: Backbone,
    folder: Path,
    teacher: RegisteredModel | None = None,
) -> LrFinding:
    """Train a step at each of 100 rates, and write lr_find.json, lr_find.png and lr_find.svg.

    ``lr_range.sweep`` says which rates, and when it stops before the last. All else is as
    ``config`` has it, in the last phase of its strategy, without a schedule, with an optimiser that
    begins there, and on one device. Phases before it (the head's own of ``lp_ft`` and ``wise_ft``,
    all but the last of ``gradual_unfreeze``) are trained first as the run would, with the rates of
    ``config``; they are in history.jsonl, and look at the validation split as well. Of the weights
    nothing is kept; the test split is not opened. The same seed gives the same losses. Raises
    ``TrainingError`` when the loss grows too soon to tell anything, and as ``finetune`` does.
    """
    run = _plain(config)
    course = open_course(run, prepared, backbone, folder, Nobody(), teacher)
    log.info("trying learning rates on %s", describe(course.device, course.precision))
    with memory_errors(config.training.batch_size, "training.batch_size"), course.pages_kept():
        found = _sweep(course, config.training)
    finding = _finding(config, found)
    plot_finding(finding, folder / "lr_find")
    write_atomic(folder / "lr_find.json", finding.model_dump_json(indent=2).encode())
    return finding


def _plain(config: RunConfig) -> RunConfig:
    """Return the config without what would hide what a rate does."""
    plain = {"schedule": "constant", "warmup_epochs": 0.0, "compile": "off"}
    strategy = config.strategy.model_copy(update={"ema_decay": None})  # of no use to a loss
    training = config.training.model_copy(update=plain)
    return config.model_copy(update={"training": training, "strategy": strategy})


def _at_the_last_phase(course: Course, recipe: TrainingConfig) -> tuple[Training, Phase]:
    """Train the phases before the last by ``recipe``; return how far that is, and the last one."""
    plain = course.config.training
    training = start_training(course, plain, course.config.seed)
    phases = plan_phases(course.config.strategy, course.backbone, recipe.epochs)
    *earlier, last = phases
    if earlier:
        epochs = sum(phase.epochs for phase in earlier)
        log.info(
            "rates are tried in the phase %r: the %d epoch(s) before it are trained first",
            *(last.name, epochs),
        )
        training.recipe = recipe.model_copy(update={"compile": plain.compile})
        train_phases(training, phases, len(earlier))
        training.recipe = plain
    return training, last


def _sweep(course: Course, own: TrainingConfig) -> LrRange:
    recipe = course.config.training
    training, phase = _at_the_last_phase(course, own)
    training.frozen.hold(phase.frozen)
    feed = Feed(course, training.network, None)
    inputs = make_inputs(feed.packed(0), recipe)
    motion = build_motion(training, inputs, phase)
    trainer = build_trainer(training, feed, motion, phase)
    ratios = [group["lr"] / recipe.learning_rate for group in trainer.optimizer.param_groups]
    trainer.frozen.train_mode()

    def endless() -> Generator[tuple[Batch, Share], None, None]:
        while True:
            yield from inputs.batches(inputs.order(training.orders), course.device)

    with closing(endless()) as batches:
        return sweep(partial(_step, trainer, batches, ratios))


def _step(
    trainer: Trainer, batches: Iterator[tuple[Batch, Share]], ratios: list[float], rate: float
) -> float:
    """Move the weights once at ``rate``; return the mean loss of the images of the step."""
    for group, ratio in zip(trainer.optimizer.param_groups, ratios, strict=True):
        group["lr"] = rate * ratio
    total, images = 0.0, 0
    for batch, share in batches:
        loss, _ = trainer.step(batch, share)
        total, images = total + loss.item(), images + len(batch[1])
        if share.last:
            break
    return total / images


def _finding(config: RunConfig, found: LrRange) -> LrFinding:
    rates, smoothed = found.telling
    if len(rates) < _FEWEST:
        raise TrainingError(
            f"The loss grows out of hand at a learning rate of {found.stopped_at:.1g} already, too "
            "soon to suggest one.\nSet training.gradient_clip=1, or check weights and images."
        )
    best, head = valley(rates, smoothed), config.training.head_learning_rate
    return LrFinding(
        rates=found.rates,
        losses=found.losses,
        smoothed=found.smoothed,
        stopped_at=found.stopped_at,
        steep=steep(rates, smoothed),
        valley=best,
        head_learning_rate=None if head is None else best * head / config.training.learning_rate,
    )


def plot_finding(finding: LrFinding, stem: Path) -> None:
    """Write ``stem``.png and .svg: the losses over the rates, both suggestions marked."""
    figure = new_figure(8.0, 4.5)
    axes = figure.add_subplot()
    axes.plot(finding.rates, finding.losses, color="lightgrey", label="loss of the step")
    axes.plot(finding.rates, finding.smoothed, color="tab:blue", label="smoothed")
    axes.axvline(finding.valley, color="tab:green", label=f"valley {finding.valley:.1e}")
    steepest = f"steep {finding.steep:.1e}"
    axes.axvline(finding.steep, color="tab:orange", linestyle="--", label=steepest)
    axes.set_xscale("log")
    low, high = min(finding.losses), max(finding.smoothed)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.25 * (high - low))  # the last may be huge
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (nats an image)")
    axes.set_title("Learning rate range test")
    axes.legend()
    save_figure(figure, stem)
