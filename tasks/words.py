"""Words for messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from unicodedata import category

SHOWN = 20  # names in a message or a report
LONGEST = 100  # characters of a word of a listed name
LONGEST_NAME = 300  # characters of all of its words, as of a path with a reason
# what turns the order of the characters around it, so that a name reads as another (CVE-2021-42574)
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def listed(names: Sequence[str], shown: int = SHOWN, between: str = ", ", total: int = 0) -> str:
    """Return the first ``shown`` names fit to print, and how many more there are.

    ``total`` counts the names where more are known of than are given. A long name has an ellipsis
    in its middle: a path may be of thousands of characters.
    """
    text = between.join(_short(name) for name in names[:shown]) or "none"
    more = max(total, len(names)) - min(shown, len(names))
    return f"{text} and {more:,} more" if more else text


def _short(name: str) -> str:
    words = re.sub(r"\S+", lambda word: _without_middle(word[0], LONGEST), printable(name))
    return _without_middle(words, LONGEST_NAME)


def _without_middle(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - 1 - end]}…{text[-end:]}"


def printable(name: str | Path) -> str:
    """Return ``name`` with bytes that are no UTF-8 and control characters escaped."""
    # Cs: what Python makes of bytes that are no UTF-8; joiners (Cf) belong to words of many scripts
    odd = (c for c in str(name) if category(c) in ("Cc", "Cs") or c in TURNING)
    return str(name).translate({ord(c): ascii(c)[1:-1] for c in odd})


def printable_lines(text: str) -> str:
    """Return ``text`` with its own line ends and the rest as ``printable`` has it."""
    return "\n".join(printable(line) for line in text.split("\n"))


def as_cell(text: str) -> str:
    """Return ``text`` as a spreadsheet shows it, where it would else compute it as a formula.

    An apostrophe before what begins with a character of OWASP's "CSV injection", in full width as
    well; a number stays one.
    """
    if not text.startswith(FORMULA) or _is_number(text):
        return text
    return f"'{text}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
