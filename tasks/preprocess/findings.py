"""What a check of the data found, what becomes of it, and how it is said."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.measures import DataCheck, Policy
from tasks.values import SplitName
from tasks.words import SHOWN, listed, printable

Check = Literal[
    "exact_duplicates",
    "near_duplicates",
    "conflicting_labels",
    "group_leakage",
    "class_drift",
    "tiny_classes",
]
Status = Literal["ok", "failed", "warned", "dropped"]
DONE: dict[Policy, Status] = {"fail": "failed", "warn": "warned", "drop": "dropped"}
Splits = Mapping[SplitName, Sequence[ImageRecord]]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check under its policy; nothing was found where ``found`` is 0."""

    check: Check  # its policy is data.checks.<check>
    policy: Policy
    found: int
    unit: str
    text: str  # what was found, as a sentence without its full stop
    examples: tuple[str, ...] = ()  # at most ``SHOWN``
    gone: frozenset[str] = frozenset()  # paths of the images that drop leaves out, else empty
    statistic: float | None = None
    p_value: float | None = None
    lines: tuple[str, ...] = ()  # the warnings, where they are not the text with its examples

    @property
    def status(self) -> Status:
        """Say what was done about it."""
        return DONE[self.policy] if self.found else "ok"

    def said(self, shown: int = SHOWN) -> str:
        """Return the text and the first examples."""
        return f"{self.text}: {listed(self.examples, shown, '; ', self.found)}"

    def warnings(self) -> tuple[str, ...]:
        """Return what is to be told before training."""
        if self.status == "warned":
            return self.lines or (f"{self.said()}.",)
        if self.status == "dropped":
            left_out = f"data.checks.{self.check}=drop left out {len(self.gone):,} image(s)"
            return (f"{left_out}: {self.said()}.",)
        return ()

    def row(self) -> DataCheck:
        """Return the row of the report; raises ``ValueError`` for a failed check, an error."""
        return DataCheck.model_validate(self.facts())

    def facts(self) -> dict[str, object]:
        """Return what the row holds, of a failed check too."""
        return {
            "name": self.check,
            "policy": self.policy,
            "status": self.status,
            "found": self.found,
            "unit": self.unit,
            "dropped": len(self.gone),
            "statistic": self.statistic,
            "p_value": self.p_value,
            "examples": tuple(printable(example) for example in self.examples),
        }


def judged(
    check: Check,
    policy: Policy,
    unit: str,
    text: str,
    examples: Sequence[str],
    gone: Collection[str],
) -> Finding:
    """Return the finding that has one example of each thing found; ``gone`` counts under drop."""
    return Finding(
        check,
        policy,
        found=len(examples),
        unit=unit,
        text=text,
        examples=tuple(examples[:SHOWN]),
        gone=frozenset(gone if policy == "drop" else ()),
    )


def refuse(findings: Sequence[Finding]) -> None:
    """Raise one ``DataError`` for all checks that failed: what was found, then what to do.

    One check alone is told with examples; of several each is told without.
    """
    failed = [finding for finding in findings if finding.status == "failed"]
    if not failed:
        return
    settings = ", ".join(f"data.checks.{each.check}={_milder(each)}" for each in failed)
    if len(failed) == 1:
        (only,) = failed
        raise DataError(f"{only.check}: {only.said()}.\nMend the data, or set {settings}.")
    found = "; ".join(f"{each.check}: {each.text}" for each in failed)
    raise DataError(
        f"{found}.\ngraft check --json lists examples of each. Mend the data, or set {settings}."
    )


def said(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return what is to be told of all of them before training."""
    return tuple(warning for finding in findings for warning in finding.warnings())


def _milder(finding: Finding) -> str:
    return "warn" if finding.check == "class_drift" else "warn (or drop)"


def left(records: Iterable[ImageRecord], findings: Iterable[Finding]) -> list[ImageRecord]:
    """Return the records that no finding leaves out."""
    gone = frozenset[str]().union(*(finding.gone for finding in findings))
    return [record for record in records if record.path not in gone]
