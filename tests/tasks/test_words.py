"""Names in messages: the first ones, how many more, and nothing that a terminal would obey."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.words import as_cell, listed, printable, printable_lines


@pytest.mark.parametrize(
    ("names", "more", "text"),
    [
        ([], {}, "none"),
        (["a", "b"], {}, "a, b"),
        (["a", "b", "c"], {"shown": 2}, "a, b and 1 more"),
        (["a", "b"], {"between": "; "}, "a; b"),
        (["a", "b"], {"total": 2}, "a, b"),
        (["a", "b"], {"total": 1234}, "a, b and 1,232 more"),
        (["a\nb"], {}, r"a\nb"),
    ],
)
def test_names_are_listed(names: list[str], more: dict[str, object], text: str):
    assert listed(names, **more) == text


def test_what_is_long_loses_its_middle():
    path = "a" * 255 + "/" + "b" * 255
    text = listed([f"{path} (no image)", "short"])
    assert text == "a" * 50 + "…" + "b" * 49 + " (no image), short"
    assert listed(["x" * 100]) == "x" * 100
    many = listed([" ".join(f"word{number:04}" for number in range(200))])
    assert (len(many), many[:17], many[-9:]) == (300, "word0000 word0001", " word0199")
    assert len(listed(["\x1b" * 255] * 25)) < 25 * 102


def test_twenty_are_shown():
    text = listed([str(number) for number in range(1025)])
    assert text.endswith("18, 19 and 1,005 more")


@pytest.mark.parametrize("name", ["a\n", "\x1b[31m", "\r", "\x9b", os.fsdecode(b"\xff"), "\0"])
def test_what_a_terminal_would_obey_or_refuse_is_escaped(name: str):
    for kind in (str, Path):
        text = printable(kind(name))
        assert text.isprintable()
        assert text.encode()
        assert printable(text) == text


def test_words_of_any_script_stay():
    words = "Käse 例 نمی\u200cشود"  # Persian, with a joiner
    assert printable(words) == words


@pytest.mark.parametrize("character", "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
def test_what_turns_a_name_around_is_escaped(character: str):
    name = f"cat{character}gnp.exe"
    assert printable(name) == f"cat{ascii(character)[1:-1]}gnp.exe"


def test_lines_stay_lines():
    assert printable_lines("a\x1b[31m\nb\r") == "a\\x1b[31m\nb\\r"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-1.5", "-1.5"),
        ("+1e-3", "+1e-3"),
        ("-inf", "-inf"),
        ("cats = dogs", "cats = dogs"),
        ("", ""),
    ],
)
def test_a_cell_is_no_formula(text: str, cell: str):
    assert as_cell(text) == cell
