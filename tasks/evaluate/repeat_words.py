"""Whether the same run would give the same weights once more, in words."""

from __future__ import annotations

from tasks.measures import Machine, Repeatability


def repeat_words(found: Repeatability | None) -> str:
    """Say whether the weights would be the same, bit for bit, and if not, what was in the way."""
    if found is None:
        return "not known"
    if found.exact:
        return "bit for bit, by the same config, data and code on the same kind of machine"
    return f"not bit for bit: {'; '.join(found.reasons)}"


def machine_words(machine: Machine) -> str:
    """Say what kind of machine trained."""
    parts = [machine.device]
    if machine.threads is not None:
        parts.append(f"{machine.threads} thread{'' if machine.threads == 1 else 's'}")
    if machine.processes > 1:
        parts.append(f"{machine.processes} processes")
    return ", ".join((*parts, machine.libraries))
