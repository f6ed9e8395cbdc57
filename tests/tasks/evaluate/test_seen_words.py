"""What is said of test images that a model may have seen: never more than is known."""

from __future__ import annotations

import pytest

from tasks.evaluate.card import model_card
from tasks.evaluate.page import html_page
from tasks.evaluate.report import markdown
from tasks.evaluate.seen_words import near_words, seen_words
from tasks.measures import DataCheck, Seen
from tasks.values import RegisteredModel

NONE = "none of them is a file that the model learned from or was chosen by"
CASES = {
    None: "whether the model learned from any of them was not looked up",
    (0, True): NONE,
    (0, False): "whether the model learned from any of them is not known",
    (1234, True): "1,234 of them the model learned from or was chosen by",
    (7, False): "at least 7 of them the model learned from or was chosen by",
}


def seen_of(case) -> Seen | None:
    return None if case is None else Seen(images=case[0], complete=case[1])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("write", [html_page, model_card, markdown])
def test_every_form_says_what_is_known_and_no_more(case, write, make_sample):
    config, prepared, model, report = make_sample(whole=False).parts()
    text = write(config, prepared, model, report.model_copy(update={"seen": seen_of(case)}))
    assert CASES[case] in text
    assert seen_words(seen_of(case)) == CASES[case]
    assert "took no part" not in text
    assert (NONE in text) == (case == (0, True))


@pytest.mark.parametrize(
    ("status", "found", "words"),
    [
        (None, 0, "Near copies of training images were not looked for."),
        ("ok", 0, "No near copy of an image of this run's training and validation splits was found "
         "among them; of what its starting weights or a teacher learned from, none was looked "
         "for."),
        ("warned", 2, "Of training and validation 2 images with a near copy in a later split: "
         "left in."),
        ("dropped", 1, "Of training and validation 1 image with a near copy in a later split: "
         "left out."),
    ],
)  # fmt: skip
def test_near_copies_are_told_as_they_were_looked_for(status, found, words, make_sample):
    _, prepared, model, _ = make_sample(whole=False).parts()
    policy = "drop" if status == "dropped" else "warn"
    row = {"name": "near_duplicates", "policy": policy, "status": status, "found": found}
    checks = () if status is None else (DataCheck(unit="image", **row),)
    prepared = prepared.model_copy(update={"checks": checks})
    assert near_words(prepared, model) == words
    version = RegisteredModel(
        uri="models:/small/1", name="small", version=1, architecture="resnet18",
        classes=model.classes, input=model.input, weights=model.weights, sha256=model.sha256,
    )  # fmt: skip
    # the checks are of these splits; what the version learned from may be others
    assert near_words(prepared, version) == (
        "Near copies of what it learned from were not looked for."
    )
