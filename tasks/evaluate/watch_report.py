"""What the reports of both kinds of check say in the same words."""

from __future__ import annotations

import json

from tasks.artifacts import write_atomic
from tasks.evaluate.tables import escape_markdown, markdown_table
from tasks.monitorvalues import ReevaluationReport, WatchReport

EXPLAINED = """The accuracy now and the accuracy at registration are of different images; their \
difference has Newcombe's interval (1998, method 10), each end of which errs with about the chance \
alpha. There is an alert where all of the interval is below minus the margin. Another mix of \
classes changes the accuracy too: the balanced accuracy, which weighs every class alike, does not \
move with the mix alone."""


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{share:.2%}"


def p_words(p_value: float) -> str:
    """Return a p-value for people, its sign first: below 1e-9 its size says no more."""
    return "< 1e-9" if p_value < 1e-9 else f"= {p_value:.2g}"


def alarms_words(report: WatchReport) -> str:
    """Say how often there is an alert without cause; the schedule multiplies the chance of one."""
    most = "at most about " if isinstance(report, ReevaluationReport) else ""
    return (
        f"Where nothing changes, {most}{100 * report.alpha:g}% of the checks alert all the same: "
        f"at {report.checks_a_day:g} a day, {most}{report.false_alarms_a_year:.1f} false alarms a "
        "year."
    )


def common_rows(report: WatchReport) -> list[tuple[str, str]]:
    """Return what was looked at, as rows of name and value."""
    rest = [
        f"{count:,} {what}"
        for count, what in ((report.copies, "copies left out"), (report.bad, "unreadable"))
        if count
    ]
    left_out = ", left out" if isinstance(report, ReevaluationReport) else ""
    seen = "not known" if report.seen is None else f"{report.seen:,}"
    return [
        ("model", f"{report.model} (asked for: {report.asked_for})"),
        ("images", ", ".join([f"{report.n:,} of {report.found:,}", *rest])),
        (f"learned from by the model{left_out}", seen),
        ("images digest", report.images_digest),
    ]


def accuracy_rows(report: ReevaluationReport) -> list[tuple[str, str]]:
    """Return the accuracies and their difference, as rows of name and value."""
    now = f"{percent(report.accuracy)} of {report.n:,} images"
    interval = f"95% interval {percent(report.accuracy_low)} to {percent(report.accuracy_high)}"
    far = f"{points(report.difference_low)} to {points(report.difference_high)}"
    return [
        ("accuracy now", f"{now} ({interval})"),
        (
            "at registration",
            f"{percent(report.registered_accuracy)} of {report.registered_n:,} test images",
        ),
        (
            "difference",
            f"{points(report.difference)} points ({1 - 2 * report.alpha:.0%} interval {far})",
        ),
        ("margin", f"{100 * report.margin:g} points"),
        ("would be seen in 80% of cases", f"a loss of {100 * report.detectable:.1f} points"),
        ("balanced accuracy", percent(report.balanced_accuracy)),
        ("macro F1", f"{report.macro_f1:.4f}"),
        ("log loss", f"{report.log_loss:.4f} nats"),
    ]


def points(difference: float) -> str:
    """Return a difference of shares in percentage points, signed."""
    return f"{100 * difference:+.2f}"


def opening(report: WatchReport) -> list[str]:
    """Return the lines that a check's page begins with: what was found, and why."""
    verdict = "alert" if report.alert else "no alert"
    head = f"# {escape_markdown(report.name)}: {verdict}"
    return [head, "", escape_markdown(report.reason), "", alarms_words(report), ""]


def reevaluation_markdown(report: ReevaluationReport) -> str:
    """Return the check as Markdown."""
    classes: list[tuple[str, ...]] = [("class", "images", "precision", "recall", "F1")]
    classes += [
        (one.name, f"{one.n:,}", f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}")
        for one in report.classes
    ]
    lines = [
        *opening(report),
        *markdown_table([("fact", "value"), *accuracy_rows(report), *common_rows(report)]),
        "",
        EXPLAINED,
        "",
        "## Classes",
        "",
        *markdown_table(classes),
    ]
    return "\n".join(lines) + "\n"


def write_reevaluation(report: ReevaluationReport) -> None:
    """Write reevaluation.json and reevaluation.md; raises ``ResourceError`` for a full disk."""
    write_watch(report, "reevaluation", reevaluation_markdown(report))


def write_watch(report: WatchReport, stem: str, markdown: str) -> None:
    """Write ``stem``.md and, with all of the report, ``stem``.json into the report's folder."""
    write_atomic(report.folder / f"{stem}.md", markdown.encode())
    content = json.dumps(report.model_dump(mode="json"), indent=2)
    write_atomic(report.folder / f"{stem}.json", content.encode())
