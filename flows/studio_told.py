"""What the studio says of an error: a user's own in its one or two lines, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from flows.failures import describe
from tasks.errors import GraftError
from tasks.evaluate.tables import escape_markdown


def as_text(words: str) -> str:
    """Return words of a file, a class or an error for a page that would read them as Markdown.

    Of a class called ``![](https://…)`` it would make an image that the browser asks for.
    """
    return "  \n".join(escape_markdown(line) for line in words.split("\n"))


@contextmanager
def told() -> Iterator[None]:
    """Show a user's error as its one or two lines, and anything else as a fault of graft's."""
    try:
        yield
    except GraftError as error:
        st.error(as_text(str(error)))
    except Exception as error:
        st.error(as_text(describe(error).message))
