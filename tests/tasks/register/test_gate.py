"""Every case that the gate knows, a row each: what it decides, and every reason that it gives."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tasks.evaluate.score import Scores
from tasks.evaluationconfig import PromotionConfig
from tasks.register.gate import Contender, Unscorable, Verdict, class_obstacle, decide, obstacle
from tasks.register.paired import enough_draws
from tasks.register.reasons import LONGEST_TAG, fitting

CLASSES = ("cat", "dog")
N = 40


def scored(right: np.ndarray, sure: float = 0.9) -> Scores:
    """Return scores of two classes by turns, right where ``right`` is."""
    labels = np.arange(len(right)) % 2
    predictions = np.where(right, labels, 1 - labels)
    probabilities = np.full((len(right), 2), 1 - sure, dtype=np.float32)
    probabilities[np.arange(len(right)), predictions] = sure
    return Scores(probabilities, labels, predictions, 1.0, np.zeros(len(right)))


def labelled(right: np.ndarray) -> Scores:
    """Return scores of one label that an image has or has not."""
    predictions = np.asarray(right, dtype=np.int64)[:, None]
    probabilities = np.where(predictions, 0.9, 0.1).astype(np.float32)
    energies = np.zeros(len(right))
    return Scores(probabilities, np.ones_like(predictions), predictions, 1.0, energies, True)


def right(first: int, last: int, n: int = N) -> np.ndarray:
    """Return which of ``n`` images are right: those from ``first`` up to ``last``."""
    return (np.arange(n) >= first) & (np.arange(n) < last)


def contender(version: int, right: np.ndarray, **facts: object) -> Contender:
    images = tuple(f"image {i}" for i in range(len(right)))
    given = {"images": images, "scores": scored(right), "test_digest": "today"} | facts
    return Contender(version, **({"classes": CLASSES} | given))


GOOD = contender(2, right(2, 34), figures={"accuracy": 0.8, "recall[cat]": 0.7, "ece": np.nan})
CHAMPION = contender(1, right(0, 20), registered_digest="today")  # 14 wins and 2 losses for GOOD
EQUAL = replace(GOOD, version=1)
BETTER = replace(CHAMPION, scores=scored(right(0, 40)))


@dataclass(frozen=True)
class Case:
    """A meeting of two models, and what must come of it."""

    name: str
    promoted: bool
    refusals: tuple[str, ...] = ()  # a part of each, in order; all there are
    remarks: tuple[str, ...] = ()
    challenger: Contender = GOOD
    champion: Contender | Unscorable | None = CHAMPION
    settings: dict[str, object] = field(default_factory=dict)
    compared: bool = True


TABLE = [
    Case("no champion", True, remarks=("no champion yet",), champion=None, compared=False),
    Case("better", True, remarks=("Better than the champion (version 1): accuracy 80.00%",)),
    Case("equal", False, ("Not shown to be better",), champion=EQUAL),
    Case("worse", False, ("Not shown to be better",), champion=BETTER),
    Case(
        "better by too few",  # 5 wins, 0 losses: p = 2/32
        False,
        ("p = 0.0625 >= 0.05",),
        challenger=contender(2, right(0, 25)),
    ),
    Case(
        "better by one more",
        True,
        remarks=("p = 0.03125 < 0.05",),
        challenger=contender(2, right(0, 26)),
    ),
    Case(
        "other classes",
        False,
        ("only here dog; only there fox",),
        champion=Contender(1, ("cat", "fox")),
        compared=False,
    ),
    Case(
        "classes in another order",
        False,
        ("the same ones in another order",),
        champion=replace(CHAMPION, classes=CLASSES[::-1]),
        compared=False,
    ),
    Case(
        "several labels against one",
        False,
        ("The champion gives an image any number of labels, this model one label",),
        champion=Contender(1, CLASSES, multi_label=True),
        compared=False,
    ),
    Case(
        "one label against several",
        False,
        ("The champion gives an image one label, this model any number of labels",),
        challenger=replace(GOOD, multi_label=True),
        compared=False,
    ),
    Case(
        "several labels each",
        True,
        remarks=("test images with all labels right",),
        challenger=replace(GOOD, multi_label=True, scores=labelled(right(2, 34))),
        champion=replace(CHAMPION, multi_label=True, scores=labelled(right(0, 20))),
    ),
    Case(
        "another test set than the champion was registered with",
        True,
        remarks=(
            "Better",
            "The champion (version 1) was registered with another test set: it was scored ",
        ),
        champion=replace(CHAMPION, registered_digest="yesterday"),
    ),
    Case(
        "another test set, and not better",
        False,
        ("Not shown",),
        ("registered with another test set",),
        champion=replace(EQUAL, registered_digest="yesterday"),
    ),
    Case(
        "scored on other images",
        False,
        ("not scored on the same test images",),
        champion=replace(CHAMPION, images=(*CHAMPION.images[1:], "another")),
        compared=False,
    ),
    *(
        Case(
            f"no scores of {name}",
            False,
            ("not scored on the same test images",),
            compared=False,
            **{name: replace(one, scores=None)},
        )
        for name, one in (("challenger", GOOD), ("champion", CHAMPION))
    ),
    Case(
        "a champion that cannot be scored",
        False,
        ("The champion (version 7) cannot be scored: its file is gone. Register under another",),
        champion=Unscorable(7, "its file is gone."),
        compared=False,
    ),
    Case(
        "too few test images",
        False,
        ("has 40 images, fewer than promotion.minimum_test_images=41",),
        ("Better",),
        settings={"minimum_test_images": 41},
    ),
    Case(
        "too few for the first",
        False,
        ("fewer than promotion.minimum_test_images=1,000",),
        ("no champion yet",),
        champion=None,
        settings={"minimum_test_images": 1000},
        compared=False,
    ),
    Case(
        "just enough, all bounds held",
        True,
        remarks=("Better",),
        settings={
            "minimum_test_images": 40,
            "floors": {"accuracy": 0.8},
            "limits": {"recall[cat]": 0.7},
        },
    ),
    Case(
        "a floor",
        False,
        ("recall[cat] is 0.7, below its floor of 0.75",),
        ("Better",),
        settings={"floors": {"accuracy": 0.8, "recall[cat]": 0.75}},
    ),
    Case(
        "a limit for the first",
        False,
        ("accuracy is 0.8, above its limit of 0.75",),
        ("no champion yet",),
        champion=None,
        settings={"limits": {"accuracy": 0.75}},
        compared=False,
    ),
    Case(
        "bounds on what is not there, and on no number",
        False,
        ("recall[cow], which has a floor", "ece is not a number"),
        ("Better",),
        settings={"floors": {"recall[cow]": 0.5}, "limits": {"ece": 0.5}},
    ),
    Case(
        "a champion that learned from test images, and loses",
        True,
        remarks=(
            "Better",
            "The champion (version 1) learned from 3 of the 40 test images, which flatters it:",
        ),
        champion=replace(CHAMPION, seen=3),
    ),
    Case(
        "a champion that learned from test images, and stays",
        False,
        ("Not shown",),
        ("this refusal says little. Keep the seed",),
        champion=replace(EQUAL, seen=3),
    ),
    Case(
        "a champion that does not say what it learned from",
        True,
        remarks=("Better", "The champion (version 1) does not say which images it learned from"),
        champion=replace(CHAMPION, seen=None),
    ),
    Case(
        "a start that learned from test images",
        False,
        ("This model started from a version that learned from 5 of the 40 test images",),
        ("Better",),
        challenger=replace(GOOD, seen=5),
    ),
    Case(
        "the first, whose start learned from test images",
        False,
        ("learned from 5",),
        ("no champion yet",),
        challenger=replace(GOOD, seen=5),
        champion=None,
        compared=False,
    ),
    Case(
        "a start that does not say",
        True,
        remarks=("or its teacher, had learned from is not known", "Better"),
        challenger=replace(GOOD, seen=None),
    ),
    Case(
        "what learned from test images itself",
        False,
        ("learned from 3 of the 40 test images itself, so its figures are flattered. Set data.ch",),
        ("Better",),
        challenger=replace(GOOD, own=3),
    ),
    Case(
        "the first, which learned from test images itself",
        False,
        ("learned from 3 of the 40 test images itself",),
        ("no champion yet",),
        challenger=replace(GOOD, own=3, scores=None),
        champion=None,
        compared=False,
    ),
    Case(
        "the first, unscored, whose probabilities are no numbers",
        False,
        ("Some of its probabilities are not numbers",),
        ("no champion yet",),
        challenger=replace(
            GOOD, scores=None, figures={"log_loss": scored(right(2, 34), np.nan).log_loss}
        ),
        champion=None,
        compared=False,
    ),
    Case(
        "probabilities that are no numbers",
        False,
        ("Some of its probabilities are not numbers", "log_loss is not a number: nan here"),
        challenger=replace(GOOD, scores=scored(right(2, 34), np.nan)),
        settings={"metric": "log_loss"},
    ),
    Case(
        "a champion's figure that is no number",
        False,
        ("log_loss is not a number: ",),
        champion=replace(CHAMPION, scores=scored(right(0, 20), np.nan)),
        settings={"metric": "log_loss"},
    ),
    Case(
        "not worse",
        True,
        remarks=("Not worse than the champion (version 1) by 10.00% or more",),
        champion=EQUAL,
        settings={"rule": "non_inferiority", "margin": 0.1},
    ),
    Case(
        "perhaps worse",
        False,
        ("Not shown not to be worse than the champion (version 1) by 10.00% or more",),
        champion=contender(1, right(0, 32), registered_digest="today"),  # 2 wins, 2 losses
        settings={"rule": "non_inferiority", "margin": 0.1},
    ),
    Case(
        "everything at once",
        False,
        (
            "fewer than promotion.minimum_test_images",
            "learned from 2 of the 40 test images itself",
            "started from a version",
            "below its floor",
            "above its limit",
            "Not shown to be better",
        ),
        ("registered with another test set", "which flatters it"),
        challenger=replace(GOOD, seen=1, own=2),
        champion=replace(BETTER, seen=2, registered_digest="yesterday"),
        settings={
            "minimum_test_images": 50,
            "floors": {"accuracy": 0.9},
            "limits": {"recall[cat]": 0.5},
        },
    ),
    *(
        Case(
            f"better by {metric}",
            True,
            remarks=(f"Better than the champion (version 1): {metric} ",),
            settings={"metric": metric},
        )
        for metric in ("balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "brier")
    ),
    *(
        Case(
            f"worse by {metric}",
            False,
            (f"Not shown to be better than the champion (version 1): {metric} ",),
            champion=BETTER,
            settings={"metric": metric},
        )
        for metric in ("balanced_accuracy", "macro_f1", "micro_f1", "log_loss", "brier")
    ),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_every_case_is_decided_and_says_why(case: Case):
    settings = PromotionConfig.model_validate(case.settings)
    draws = enough_draws(settings.alpha, 1000, 0)
    verdict = decide(case.challenger, case.champion, settings, draws)
    assert verdict.promoted is case.promoted
    wanted = (*case.refusals, *case.remarks)
    assert len(verdict.reasons) == len(wanted), verdict.reasons
    for part, reason in zip(wanted, verdict.reasons, strict=True):
        assert part in reason
    assert (verdict.comparison is not None) is case.compared
    assert len(verdict.checks) == len(settings.floors) + len(settings.limits)
    if verdict.comparison is not None and verdict.comparison.finite:
        assert any("would be shown in 80% of cases" in reason for reason in verdict.reasons)


def test_the_reason_has_all_numbers():
    settings = PromotionConfig()
    verdict = decide(GOOD, CHAMPION, settings, enough_draws(0.05, 0, 0))
    for part in (
        "accuracy 80.00% against 50.00% of 40 test images",
        "a gain of +30.00 points (95% interval ",
        "14 right only here, 2 right only there",
        "exact McNemar p = 0.004181 < 0.05",
        "with 40.00% of the images told apart",
    ):
        assert part in verdict.reasons[0]


def test_models_that_never_differ_can_show_nothing_by_a_bootstrap():
    settings = PromotionConfig(metric="macro_f1")
    verdict = decide(GOOD, EQUAL, settings, enough_draws(0.05, 0, 0))
    assert "Too few images tell the two apart" in verdict.reasons[0]


def test_checks_are_told_held_or_not():
    settings = PromotionConfig(floors={"accuracy": 0.5, "recall[cat]": 0.9})
    verdict = decide(GOOD, None, settings, enough_draws(0.05, 0, 0))
    assert verdict.checks == (
        "accuracy is 0.8, within its floor of 0.5.",
        "recall[cat] is 0.7, below its floor of 0.9.",
    )


def test_reasons_are_as_many_as_a_tag_holds():
    lines = tuple(f"recall[{i}] is 0.1, below its floor of 0.5." for i in range(1000))
    found = fitting(lines)
    assert 4900 < len(json.dumps(found)) <= LONGEST_TAG
    assert found[-1] == f"And {1001 - len(found)} more."
    assert found[:-1] == lines[: len(found) - 1]
    assert fitting(lines[:9]) == lines[:9]


def test_of_a_contender_nothing_is_taken_for_granted():
    everything = (False, (), None, {}, "", None, 0, 0, True)
    assert Contender(1, CLASSES) == Contender(1, CLASSES, *everything)
    assert Verdict(True, ()) == Verdict(True, (), (), None)
    assert CHAMPION.title == "the champion (version 1)"
    assert replace(CHAMPION, is_champion=False).title == "version 1"


def test_what_differs_between_label_sets_is_named():
    assert "another order" in str(class_obstacle(CLASSES, CLASSES[::-1]))
    assert class_obstacle(CLASSES, CLASSES) is None
    assert obstacle(GOOD, CHAMPION) is None
    many = class_obstacle(tuple("abcdefgh"), ("z",))
    assert "only here a, b, c, d, e; only there z" in str(many)
