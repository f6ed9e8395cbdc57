"""A search's report: the best by hand, words of users shown as they are, files of every state."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tasks.evaluate.search import Importance, Search, Tried
from tasks.evaluate.search_report import best_table, search_markdown, write_search

ODD = "a|b <i> $x$ ![](http://evil)"


def tried(number: int, state: str = "complete", loss: float | None = 1.0, **facts) -> Tried:
    accuracy = None if loss is None else 1 / (1 + loss)
    given = {
        "number": number,
        "state": state,
        "point": {"training.learning_rate": 0.1 / (number + 1), "model.weights": ODD},
        "value": loss,
        "val_accuracy": accuracy,
        "val_loss": loss,
        "epochs": 2,
        "seconds": 1.5,
        "reason": None,
        "same_as": None,
    }
    return Tried.model_validate(given | facts)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    trials = (
        tried(0, loss=0.5),
        tried(1, loss=0.7),
        tried(2, "pruned", 0.9),
        tried(3, "failed", None, reason="It is no valid run: |x| <b>\nnot so"),
        tried(4, "lost", None),
        tried(5, loss=0.25),
        tried(6, loss=0.25, same_as=5),
    )
    return Search(
        name="odd_*name*",
        folder=tmp_path,
        run_id="r",
        metric="val_loss",
        sampler="tpe",
        pruner="median",
        wanted=6,
        searched=("training.learning_rate", "model.weights"),
        trials=trials,
        best=5,
        importances=(Importance(key="training.learning_rate", fanova=0.75, ped_anova=0.5),),
    )


def test_the_best_are_first_and_the_course_only_gets_better(search: Search):
    assert [trial.number for trial in search.ranked()] == [5, 6, 0, 1]
    assert search.so_far() == [(0, 0.5), (1, 0.5), (5, 0.25), (6, 0.25)]
    by_accuracy = search.model_copy(
        update={
            "metric": "val_accuracy",
            "trials": tuple(t.model_copy(update={"value": t.val_accuracy}) for t in search.trials),
        }
    )
    assert [trial.number for trial in by_accuracy.ranked()] == [5, 6, 0, 1]
    assert by_accuracy.so_far()[-1] == (6, pytest.approx(0.8))
    assert best_table(search, 2)[1] == ("5", "80.00%", "0.2500", "1.5", "0.01667", ODD)


def test_the_report_says_how_far_to_believe_it_and_escapes_words(search: Search):
    text = search_markdown(search)
    assert "Trial 5 is the best: val_loss 0.2500, where the config that was begun with" in text
    assert "the best of 4 on the same validation images" in text
    assert "4 trained whole, 1 pruned, 1 failed, 1 lost with a killed process" in text
    assert "1 of them a point that was tried before" in text
    assert "9 s of training" in text
    assert "| training.learning_rate | 0.75 | 0.50 |" in text
    assert "&#124;x&#124; &lt;b&gt; not so" in text
    for markup in ("<i>", "<b>", "![](", "*name*"):
        assert markup not in text


def test_every_trial_is_in_the_files(search: Search, tmp_path: Path):
    files = write_search(search, tmp_path)
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}
    table = pd.read_csv(tmp_path / "trials.csv")
    assert list(table.number) == list(range(7))
    assert list(table["model.weights"]) == [ODD] * 7
    assert table.error[3] == "It is no valid run: |x| <b> not so"
    assert Search.model_validate(json.loads((tmp_path / "search.json").read_text())) == search
    assert (tmp_path / "search.png").stat().st_size > 10_000


def test_without_a_whole_trial_there_is_a_report_and_no_plot(search: Search, tmp_path: Path):
    nothing = search.model_copy(
        update={"trials": search.trials[3:5], "best": None, "importances": ()}
    )
    files = write_search(nothing, tmp_path)
    assert {path.name for path in files} == {"search.md", "search.json", "trials.csv"}
    assert "No trial was trained whole yet" in (tmp_path / "search.md").read_text()
