"""The main job again, where there is reason to: on a schedule, or when the data changed."""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from typing import NamedTuple

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.approval import ask
from flows.artifacts import publish
from flows.candidate import Beginning, Candidate, begin, challenge, trained
from flows.console import ready_logs, screen
from flows.inputs import images_held, pack_images, read_raw, say
from flows.notify import tell_promotion
from flows.outcome import note_failure
from tasks.artifacts import cache_folder, gone_on_error
from tasks.config import RunConfig
from tasks.register.sameness import aim, find_precedent
from tasks.register.starts import (
    Champion,
    choice_words,
    choose_start,
    find_start,
    set_aside,
    start_obstacle,
    warm_config,
)
from tasks.register.tracking import open_run
from tasks.retry import with_retries
from tasks.values import PromotionDecision, RawDataset
from tasks.work import Choice, Precedent, RetrainResult, Start, Starts, Work

ROOM = "retrain"
START = "graft.start"  # MLflow run tag: original or champion
UNCOMPARED = (
    "No validation image is left that the champion was not trained on: the original start goes on."
)

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """Where the candidates start from, and why that is not all that was asked for."""

    beginnings: dict[Start, Beginning]
    champion: Champion | None
    notes: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What the candidates came to."""

    start: Start
    choice: Choice | None
    decision: PromotionDecision


@flow(
    name="retrain",
    flow_run_name="retrain {config.name}",
    validate_parameters=True,
    on_failure=[note_failure],
)
def retrain(config: RunConfig, start: Starts = "both", force: bool = False) -> RetrainResult:
    """Do nothing where the same work would come to what a registered version did; else train.

    ``start`` says from which weights: those that ``config`` names, the champion's, or one candidate
    from each, of which validation chooses the one that is evaluated, registered and put before the
    gate. Where the champion is no start, the config's weights are, and that is said. ``force``
    trains whether anything changed or not. Raises as the flow ``transfer`` does.
    """
    ready_logs()
    with images_held():
        original = begin(config)
        raw = read_raw(config, cache_folder(config.output.cache))
        name = config.promotion.model
        work = with_retries(aim, name, original.work(raw), start)
        precedent = with_retries(find_precedent, name, work)
        idle = precedent.same and not force
        result = RetrainResult(
            model=name,
            trained=not idle,
            reason=_reason(name, precedent, idle),
            work=work,
            precedent=precedent,
        )
        say(ROOM, result.reason)
        if idle:
            return result
        plan = _plan(original, raw, start)
        notes = plan.notes
        outcome = _carry_out(plan, raw, work)
    if len(plan.beginnings) > 1 and outcome.choice is None:
        notes = (*notes, UNCOMPARED)
    return result.model_copy(update={**outcome._asdict(), "notes": notes})


def _reason(name: str, found: Precedent, idle: bool) -> str:
    """Return in a line what changed, and what follows."""
    if found.version is None:
        return f"no version of {name} says what it was made from: training"
    version = f"version {found.version} of {name}"
    if found.same:
        unchanged = f"data, config and code are unchanged since {version}"
        return f"{unchanged}: nothing to do" if idle else f"{unchanged}: training, as forced"
    return f"{' and '.join(found.changed)} changed since {version}: training"


def _plan(original: Beginning, raw: RawDataset, start: Starts) -> Plan:
    """Find out whether the champion can be started from, where that is wanted."""
    if start == "original":
        return Plan({"original": original}, None)
    config = original.config
    champion = with_retries(find_start, config)
    prepared = pack_images(config, raw, original.input, cache_folder(config.output.cache))
    obstacle = start_obstacle(config, champion, prepared)
    if champion is None or obstacle is not None:
        note = f"{obstacle} Starting from the original weights."
        say(ROOM, note)
        return Plan({"original": original}, None, (note,))
    warm = begin(warm_config(config, champion))
    if start == "champion":
        return Plan({"champion": warm}, champion)
    return Plan({"champion": warm, "original": original}, champion)


def _carry_out(plan: Plan, raw: RawDataset, work: Work) -> Outcome:
    """Train each candidate, choose one by validation, and let it challenge the champion."""
    with ExitStack() as runs:
        with ExitStack() as folders:
            candidates: dict[Start, Candidate] = {}
            for name, beginning in plan.beginnings.items():
                if len(plan.beginnings) > 1:
                    say(ROOM, f"from the {name if name == 'champion' else 'original weights'}")
                tracker = runs.enter_context(open_run(beginning.config, {START: name}))
                own = work.model_copy(update={"start": name})
                candidate = runs.enter_context(trained(beginning, raw, own, tracker))
                folders.enter_context(gone_on_error(candidate.model.folder))
                candidates[name] = candidate
            start, choice = _choose(candidates, plan.champion)
        chosen = candidates[start]
        report, decision = challenge(chosen)
    screen.get().scored(report)
    publish(report, decision, chosen.tracker)
    tell_promotion(decision)
    ask(decision)
    return Outcome(start, choice, decision)


def _choose(
    candidates: dict[Start, Candidate], champion: Champion | None
) -> tuple[Start, Choice | None]:
    """Return which candidate goes on; the other one's folder is removed."""
    if champion is None or len(candidates) == 1:
        return next(iter(candidates)), None
    choice = choose_candidate(candidates["champion"], candidates["original"], champion)
    start: Start = "original" if choice is None else choice.start
    why = UNCOMPARED if choice is None else choice_words(choice)
    say(ROOM, why)
    for name, candidate in candidates.items():
        if name != start:
            with_retries(set_aside, candidate.tracker.run_id, why)
            shutil.rmtree(candidate.model.folder, ignore_errors=True)
    return start, choice


@task(task_run_name="choose the start", timeout_seconds=6 * 3600, cache_policy=NO_CACHE)
def choose_candidate(warm: Candidate, original: Candidate, champion: Champion) -> Choice | None:
    """Score both on the validation images, and compare."""
    return choose_start(
        original.config,
        champion,
        (warm.model, warm.prepared),
        (original.model, original.prepared),
    )
