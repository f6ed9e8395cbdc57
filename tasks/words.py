"""Words for messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unicodedata import category

SHOWN = 20  # names in a message or a report


def listed(names: Sequence[str], shown: int = SHOWN, between: str = ", ", total: int = 0) -> str:
    """Return the first ``shown`` names fit to print, and how many more there are.

    ``total`` counts the names where more are known of than are given.
    """
    text = between.join(printable(name) for name in names[:shown]) or "none"
    more = max(total, len(names)) - min(shown, len(names))
    return f"{text} and {more:,} more" if more else text


def printable(name: str | Path) -> str:
    """Return ``name`` with bytes that are no UTF-8 and control characters escaped."""
    # Cs: what Python makes of bytes that are no UTF-8; joiners (Cf) belong to words of many scripts
    return "".join(ascii(c)[1:-1] if category(c) in ("Cc", "Cs") else c for c in str(name))
