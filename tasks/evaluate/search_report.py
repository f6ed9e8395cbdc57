"""A search as files: a report in Markdown, JSON, a table of all trials, and a plot."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.artifacts import write_atomic
from tasks.evaluate.search import Search, Tried
from tasks.evaluate.search_plots import plot_search
from tasks.evaluate.tables import csv_for_people, escape_markdown, markdown_table
from tasks.searchconfig import Scalar

SHOWN = 10  # of the best trials


def write_search(search: Search, folder: Path) -> tuple[Path, ...]:
    """Write search.md, search.json, trials.csv and search.png and .svg; return what was written.

    Raises ``ResourceError`` when the disk is full.
    """
    _write_trials(search, folder / "trials.csv")
    write_atomic(folder / "search.md", search_markdown(search).encode())
    content = json.dumps(search.model_dump(mode="json"), indent=2)
    write_atomic(folder / "search.json", content.encode())
    names = ["search.md", "search.json", "trials.csv"]
    if search.best is not None:
        plot_search(search, folder / "search")
        names += ["search.png", "search.svg"]
    return tuple(folder / name for name in names)


def _write_trials(search: Search, path: Path) -> None:
    import pandas as pd

    rows = [_flat(trial) for trial in search.trials]
    write_atomic(path, csv_for_people(pd.DataFrame(rows)))


def _flat(trial: Tried) -> dict[str, Scalar]:
    facts = trial.model_dump(mode="json", exclude={"point"})
    reason = facts.pop("reason")
    facts["error"] = None if reason is None else " ".join(reason.split())
    return {"number": facts.pop("number"), "state": facts.pop("state"), **trial.point, **facts}


def search_markdown(search: Search) -> str:
    """Return the report for people: the best, how far to believe it, what mattered, what failed."""
    lines = [f"# {escape_markdown(search.name)}", "", _verdict(search), "", *_caution(search)]
    lines += ["## The best trials", "", *markdown_table(best_table(search)), ""]
    if search.importances:
        rows = [(i.key, f"{i.fanova:.2f}", f"{i.ped_anova:.2f}") for i in search.importances]
        lines += [
            "## What mattered",
            "",
            "The share of the metric's variation that each key explains over the whole trials: "
            "fANOVA over the whole space, PED-ANOVA within its better part. With few trials both "
            "are rough.",
            "",
            *markdown_table([("key", "fANOVA", "PED-ANOVA"), *rows]),
            "",
        ]
    return "\n".join([*lines, *_states(search), *_failures(search)])


def best_table(search: Search, shown: int = SHOWN) -> list[tuple[str, ...]]:
    """Return the head and a line of words for each of the best trials."""
    head = ("trial", "val accuracy", "val loss", "seconds", *search.searched)
    return [head, *(_words(trial, search.searched) for trial in search.ranked()[:shown])]


def _words(trial: Tried, keys: tuple[str, ...]) -> tuple[str, ...]:
    assert trial.val_accuracy is not None
    assert trial.val_loss is not None
    return (
        str(trial.number),
        f"{trial.val_accuracy:.2%}",
        f"{trial.val_loss:.4f}",
        f"{trial.seconds:.1f}",
        *(scalar_words(trial.point.get(key)) for key in keys),
    )


def scalar_words(value: Scalar) -> str:
    """Return one value as a config would hold it, floats to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _verdict(search: Search) -> str:
    best = search.best_trial
    if best is None:
        return "**No trial was trained whole yet.**"
    value = search.words(best.value)
    base = search.trials[0]
    beside = ""
    if base.number == 0 and base.state == "complete" and best.number:
        first = search.words(base.value)
        beside = f", where the config that was begun with (trial 0) has {first}"
    return f"**Trial {best.number} is the best: {search.metric} {value}{beside}.**"


def _caution(search: Search) -> list[str]:
    judged = sum(
        trial.state in ("complete", "pruned") and trial.same_as is None for trial in search.trials
    )  # a twin is no further chance of being lucky
    return [
        f"That figure is the best of {judged} on the same validation images, so it is too good: "
        "some of it is luck in those images. No test image was opened by any trial. `best.yaml` is "
        "a whole config: `graft run best.yaml` trains it, opens the test images once, and lets the "
        "gate decide.",
        "",
    ]


def _states(search: Search) -> list[str]:
    counts = {
        "trained whole": "complete",
        "pruned": "pruned",
        "failed": "failed",
        "lost with a killed process and tried again": "lost",
        "not over": "open",
    }
    words = [
        f"{len(search.of_state(s))} {name}" for name, s in counts.items() if search.of_state(s)
    ]
    again = sum(trial.same_as is not None for trial in search.trials)
    if again:
        words.append(f"{again} of them a point that was tried before, whose figures they have")
    seconds = sum(trial.seconds for trial in search.trials if trial.same_as is None)
    return [
        "## How it was searched",
        "",
        f"Sampler {search.sampler}, pruner {search.pruner}; {', '.join(words)}; {seconds:.0f} s of "
        "training in all.",
        "",
    ]


def _failures(search: Search) -> list[str]:
    failed = [
        f"- trial {trial.number}: {escape_markdown(trial.reason or '')}"
        for trial in search.of_state("failed")
    ]
    return ["## Failed", "", *failed, ""] if failed else []
