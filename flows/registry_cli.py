"""The commands on the model registry: who is champion, who was, and how two versions differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import verdicts
from flows.answer import Answer, Cells, Rows
from flows.arguments import Json
from flows.printing import answer
from tasks.words import printable

if TYPE_CHECKING:
    from tasks.register.aliases import Aliases
    from tasks.register.differences import Difference, Pair
    from tasks.register.history import Event
    from tasks.register.moves import Moved


def _text(value: str) -> str:
    """Return what was typed; raises ``typer.BadParameter`` where no registry could keep it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(f"{printable(value)} is no UTF-8.") from error
    return value


Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.", callback=_text)]
Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION", help="Its number, or an alias such as challenger.", callback=_text
    ),
]
Reason = Annotated[str, typer.Option(help="Why, for the history.", callback=_text)]
GATE = {  # what became of the gate's decision, in words
    "promoted": "promoted",
    "refused": "refused",
    "waiting": "passed, and waited for approval",
    "approved": "passed, and approved",
    "rejected": "passed, but rejected by a person",
}


def promote(name: Name, version: Version, reason: Reason = "", as_json: Json = False) -> None:
    """Make a version champion by hand, whatever the gate decided on it."""
    answer(as_json, lambda: _promote(name, version, reason))


def rollback(name: Name, reason: Reason = "", as_json: Json = False) -> None:
    """Make the version champion again that was it before; and again, the one before that."""
    answer(as_json, lambda: _rollback(name, reason))


def history(name: Name, as_json: Json = False) -> None:
    """List every decision and every move of the aliases: who, when, why, and the numbers."""
    answer(as_json, lambda: _history(name))


def diff(name: Name, first: Version, second: Version, as_json: Json = False) -> None:
    """Show what two versions differ in: config, data, figures, and images one by one."""
    answer(as_json, lambda: _diff(name, first, second))


def _promote(name: str, version: str, reason: str) -> Answer:
    return _moved(verdicts.promote(name, version, reason), reason)


def _rollback(name: str, reason: str) -> Answer:
    return _moved(verdicts.roll_back(name, reason), reason)


def _moved(moved: Moved, reason: str) -> Answer:
    decision = moved.decision
    data: dict[str, Any] = {
        "model": moved.name,
        "version": moved.version,
        "uri": f"models:/{moved.name}/{moved.version}",
        "before": moved.before,
        "aliases": _aliases(moved.aliases),
        "decision": None if decision is None else decision.model_dump(mode="json"),
        "verdict": moved.verdict,
        "reason": reason,
    }
    gate = "no decision of graft's stands on it"
    if decision is not None and moved.verdict is not None:
        gate = f"{GATE[moved.verdict]}: {decision.reason}"
    facts = [
        ("champion", f"version {moved.version} of {moved.name}"),
        ("before", "none" if moved.before is None else f"version {moved.before}"),
        ("previous", _number(moved.aliases.previous)),
        ("gate", gate),
    ]
    return Answer(data, facts)


def _history(name: str) -> Answer:
    from tasks.register.moves import story

    told = story(name)
    table = Cells("when (UTC)", "who", "what", "version", "aliases", "numbers", "why")
    for event in told.events:
        table.add(*_event_cells(event))
    data = {
        "model": told.name,
        "aliases": _aliases(told.aliases),
        "history": [event.model_dump(mode="json") for event in told.events],
    }
    facts = [(alias, _number(version)) for alias, version in _aliases(told.aliases).items()]
    return Answer(data, facts, table)


def _event_cells(event: Event) -> tuple[str, ...]:
    moves = (f"{alias} {_number(a)} → {_number(b)}" for alias, (a, b) in event.moves.items())
    notes = ["as typed"] if event.typed else []
    notes += [f"flow run {event.flow_run}"] if event.flow_run else []
    return (
        "not recorded" if event.when is None else f"{event.when:%Y-%m-%d %H:%M:%S}",
        f"{event.who} ({', '.join(notes)})" if notes else event.who,
        event.kind,
        _number(event.version),
        ", ".join(moves),
        ", ".join(f"{key} {value:.6g}" for key, value in event.numbers.items()),
        event.why,
    )


def _diff(name: str, first: str, second: str) -> Answer:
    from dataclasses import asdict

    from tasks.register.differences import compare_versions

    found = compare_versions(name, first, second)
    return Answer(asdict(found), _diff_facts(found), _diff_table(found))


def _diff_table(found: Difference) -> Cells:
    table = Cells("part", "what", f"version {found.first}", f"version {found.second}")
    for part, pairs in (("config", found.config), ("data", found.data), ("figure", found.metrics)):
        for key, (first, second) in pairs.items():
            if first != second:
                table.add(part, key, _value(first), _value(second))
    for flip in found.flips.images if found.flips else ():
        table.add("image", f"{flip.path} ({flip.label})", flip.first, flip.second)
    return table


def _diff_facts(found: Difference) -> Rows:
    facts: Rows = [("note", note) for note in found.notes]
    for part, pairs in (("config", found.config), ("data", found.data)):
        if not pairs:
            facts.append((part, "no difference"))
    if found.flips is not None:
        flips, names = found.flips, (f"version {found.first}", f"version {found.second}")
        changed = flips.only_first + flips.only_second
        facts += [
            (
                "images",
                f"both right {flips.both_right:,}, only {names[0]} {flips.only_first:,}, "
                f"only {names[1]} {flips.only_second:,}, both wrong {flips.both_wrong:,}; "
                f"exact McNemar p = {flips.p_value:.4g}",
            ),
            ("listed", f"{len(flips.images):,} of {changed:,} images that only one gets right"),
        ]
    return facts


def _aliases(aliases: Aliases) -> dict[str, int | None]:
    from dataclasses import asdict

    return asdict(aliases)


def _number(version: int | None) -> str:
    return "none" if version is None else str(version)


def _value(value: Pair | object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
