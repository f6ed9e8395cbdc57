"""What every form of the report says of whether the weights would be the same once more."""

from __future__ import annotations

import pytest

from tasks.evaluate.card import model_card
from tasks.evaluate.page import html_page
from tasks.evaluate.repeat_words import machine_words
from tasks.evaluate.report import markdown
from tasks.measures import Machine, Repeatability

CPU = Machine(device="Some CPU, AVX2", threads=1, processes=1, libraries="torch 9.9")
GPU = Machine(device="Some GPU", threads=None, processes=3, libraries="torch 9.9, CUDA 9")
ONCE_MORE = "bit for bit, by the same config, data and code on the same kind of machine"
CASES = {
    ONCE_MORE: Repeatability(machine=CPU),
    "not bit for bit: the one thing; the other thing": Repeatability(
        machine=GPU, reasons=("the one thing", "the other thing")
    ),
    "not known": None,
}


@pytest.mark.parametrize("words", CASES)
@pytest.mark.parametrize("write", [html_page, model_card, markdown])
def test_every_form_says_it_and_names_the_machine(words, write, make_sample):
    config, prepared, model, report = make_sample(whole=False).parts()
    found = CASES[words]
    text = write(config, prepared, model.model_copy(update={"repeatable": found}), report)
    assert words in text
    assert (ONCE_MORE in text) == (words == ONCE_MORE)
    assert found is None or machine_words(found.machine) in text


def test_a_machine_in_words():
    assert machine_words(CPU) == "Some CPU, AVX2, 1 thread, torch 9.9"
    assert machine_words(GPU) == "Some GPU, 3 processes, torch 9.9, CUDA 9"
