"""Words for messages."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

SHOWN = 20  # names in a message or a report


def listed(names: Sequence[str]) -> str:
    """Return the first 20 names with commas, and how many more there are."""
    text = ", ".join(printable(name) for name in names[:SHOWN]) or "none"
    return text if len(names) <= SHOWN else f"{text} and {len(names) - SHOWN:,} more"


def printable(name: str) -> str:
    """Return ``name`` with bytes that are no UTF-8 and control characters escaped."""
    # Cs: what Python makes of bytes that are no UTF-8; joiners (Cf) belong to words of many scripts
    return "".join(ascii(c)[1:-1] if category(c) in ("Cc", "Cs") else c for c in name)
