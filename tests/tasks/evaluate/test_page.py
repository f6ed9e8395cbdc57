"""The page as a browser shows it: in both lights, on a phone, with names that would be markup."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tasks.evaluate.page import TITLES, html_page
from tasks.evaluate.page_parts import (
    FEW,
    MOST_IN_MATRIX,
    MOST_ROWS,
    class_rows,
    confused_pairs,
    matrix_rows,
    weakest_class,
)
from tasks.values import RegisteredModel

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac$",
    "w" * 255,
    "\u05e9\u05dc\u05d5\u05dd \u202etxt.exe",
    "{{ 7 * 7 }}",
    "caf\udce9\n\x1b[31m",
)
WORDS = "'\"><svg onload=alert(2)></style><a href=//evil.example>"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1200, "height": 900}
# what is shown of a section that a reader looks for
HEADINGS = "Array.from(document.querySelectorAll('h2'), h => [h.textContent, h.offsetHeight > 0])"
BROKEN = "Array.from(document.images).filter(i => !i.naturalWidth || !i.width).length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
DUPLICATES = """(() => {
  const ids = Array.from(document.querySelectorAll('[id]'), e => e.id);
  return ids.filter((id, k) => ids.indexOf(id) !== k);
})()"""
DANGLING = """Array.from(document.querySelectorAll('use'), u => u.getAttribute('href'))
  .filter(h => !document.getElementById(h.slice(1)))"""


class Resources(HTMLParser):
    """Collects what a page would load, and the tags that could run something."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
                self.addresses.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)


def resources(page: str) -> Resources:
    found = Resources()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


class Seen:
    """A page in a browser, with all that it complained about or asked for."""

    def __init__(self, browser, path: Path, viewport: dict[str, int], scheme: str, script: bool):
        self.troubles: list[str] = []
        self.context = browser.new_context(
            viewport=viewport, color_scheme=scheme, java_script_enabled=script
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.address = path.as_uri()
        self.page.goto(self.address)

    def _dialog(self, dialog) -> None:
        self.troubles.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _request(self, request) -> None:
        if request.url != self.address and not request.url.startswith("data:"):
            self.troubles.append(f"request {request.url}")


@pytest.fixture
def look(browser, tmp_path: Path):
    """Return a function that opens a page's text in the browser."""
    opened: list[Seen] = []

    def show(text: str, viewport=DESK, scheme="light", script=True) -> Seen:
        path = tmp_path / "report.html"
        path.write_bytes(text.encode())
        opened.append(Seen(browser, path, viewport, scheme, script))
        return opened[-1]

    yield show
    for seen in opened:
        seen.context.close()


def test_a_whole_page_on_desk_and_phone_in_light_and_dark(make_sample, look):
    text = html_page(*make_sample().parts())
    grounds = set()
    for viewport, scheme in ((DESK, "light"), (PHONE, "dark")):
        seen = look(text, viewport, scheme)
        assert seen.page.evaluate(HEADINGS) == [[title, True] for title in TITLES.values()]
        assert seen.page.evaluate(BROKEN) == 0
        assert seen.page.evaluate(OVERFLOW) <= 0
        assert seen.page.evaluate(DUPLICATES) == seen.page.evaluate(DANGLING) == []
        assert seen.page.locator("svg").count() == 5
        assert seen.page.locator("img").count() == 12
        grounds.add(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert seen.troubles == []
    assert len(grounds) == 2


def test_names_are_shown_and_nothing_of_them_runs(make_sample, look):
    text = html_page(*make_sample(names=HOSTILE, words=WORDS).parts())
    seen = look(text, PHONE)
    assert seen.page.evaluate(OVERFLOW) <= 0
    assert seen.troubles == []
    shown = seen.page.locator("body").inner_text()
    for name in HOSTILE[:3]:
        assert name in shown
    assert "{{ 7 * 7 }}" in shown
    assert "caf\\udce9\\n\\x1b[31m" in shown  # no byte that is no UTF-8, nothing for a terminal
    assert "w" * 57 + "…" in shown
    assert f"warning of {WORDS}" in shown
    assert f"note of {WORDS}" in shown
    assert seen.page.locator("script, [onerror], [onload], a[href*=evil]").count() == 0
    assert seen.page.locator("section").count() == len(TITLES)


def test_it_is_readable_without_javascript_and_on_paper(make_sample, look):
    seen = look(html_page(*make_sample().parts()), script=False)
    assert seen.page.locator("h2").count() == len(TITLES)
    assert seen.page.locator("summary").is_visible()
    assert seen.page.pdf(format="A4").startswith(b"%PDF")
    assert seen.troubles == []


def test_it_loads_nothing_and_holds_no_script(make_sample):
    found = resources(html_page(*make_sample(names=HOSTILE, words=WORDS).parts()))
    assert len(found.addresses) > len(TITLES)
    assert [a for a in found.addresses if not a.startswith(("#", "data:"))] == []
    assert found.handlers == []
    assert not found.tags & {"script", "iframe", "object", "embed", "form", "base"}


def test_a_secret_in_an_address_is_not_shown(make_sample):
    text = html_page(*make_sample().parts())
    assert "https://host/a.zip?…" in text
    assert "secret" not in text


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_is_missing_has_no_section(make_sample, multi_label: bool):
    sample = make_sample(whole=False, multi_label=multi_label)
    text = html_page(*sample.parts())
    wanted = {"figures", "classes", "data", "subject"} | (set() if multi_label else {"confusion"})
    for key in TITLES:
        assert (f'<section id="{key}">' in text) == (key in wanted), key
    assert ("TN" in text) == multi_label
    assert "Warnings" not in text
    assert "What training decided" not in text


def test_several_labels_have_a_whole_page_too(make_sample):
    text = html_page(*make_sample(multi_label=True).parts())
    assert "mean average precision" in text
    assert '<section id="confusion">' not in text
    assert text.count("<svg") == 5
    assert "share that is there" in text
    assert "All labels of the test images" in text


def test_a_model_from_the_registry_has_no_training_to_show(make_sample):
    sample = make_sample()
    model = RegisteredModel(
        uri="models:/wings/3",
        name="wings",
        version=3,
        architecture="resnet18",
        classes=sample.model.classes,
        input=sample.model.input,
        weights=sample.model.weights,
        sha256=sample.model.sha256,
    )
    text = html_page(sample.config, sample.prepared, model, sample.report)
    assert "models:/wings/3" in text
    assert "chosen epoch" not in text
    assert text.count("<svg") == 3


def test_the_same_report_gives_the_same_bytes(make_sample):
    sample = make_sample()
    assert html_page(*sample.parts()) == html_page(*sample.parts())


def test_the_page_keeps_to_a_sensible_size_with_many_classes(make_sample):
    ten = make_sample(names=tuple(f"class {k}" for k in range(10)))
    assert len(html_page(*ten.parts()).encode()) < 3e6
    many = make_sample(names=tuple(f"class {k}" for k in range(1000)), n=3000)
    text = html_page(*many.parts())
    assert len(text.encode()) < 3e6
    assert 'class="scroll matrix"' not in text
    assert f"{1000 - MOST_ROWS} more" in text


def test_a_matrix_without_its_zeros_shows_the_same_pairs(make_sample):
    sample = make_sample(names=tuple(f"class {k}" for k in range(60)), n=400)
    whole = np.array(sample.report.confusion)
    places = np.argwhere(whole)
    triples = tuple((int(i), int(j), int(whole[i, j])) for i, j in places)
    update = {"confusion": (), "confused": triples}
    sparse = sample.report.model_copy(update=update)
    assert confused_pairs(sparse) == confused_pairs(sample.report)
    parts = sample.parts()
    assert html_page(*parts[:-1], sparse) == html_page(*parts)


def test_the_most_confused_pairs_are_those_of_the_matrix(make_sample):
    report = make_sample(names=tuple("abcdefgh"), n=400).report
    pairs = confused_pairs(report)
    names = [one.name for one in report.classes]
    wrong = {
        (names[i], names[j]): n
        for i, row in enumerate(report.confusion)
        for j, n in enumerate(row)
        if i != j and n
    }
    assert [pair.n for pair in pairs] == sorted(wrong.values(), reverse=True)[: len(pairs)]
    for pair in pairs:
        assert wrong[pair.truth, pair.prediction] == pair.n
        assert pair.share == pytest.approx(pair.n / 50)


def test_a_matrix_is_shown_up_to_a_size_and_long_tables_begin_with_the_worst(make_sample):
    for c, shown in ((MOST_IN_MATRIX, True), (MOST_IN_MATRIX + 1, False)):
        report = make_sample(names=tuple(f"{k}" for k in range(c)), whole=False).report
        assert bool(matrix_rows(report)) == shown
    f1 = [row.report.f1 for row in class_rows(report)]
    assert f1 == sorted(f1)


def test_the_weakest_class_is_not_one_of_a_handful_of_images(make_sample):
    report = make_sample(whole=False).report
    few, *others = report.classes
    rows = (few.model_copy(update={"n": FEW - 1, "recall": 0.0}), *others)
    weakest = weakest_class(report.model_copy(update={"classes": rows}))
    assert weakest == min(others, key=lambda one: one.recall)
