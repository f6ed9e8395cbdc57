"""What the studio says of an error: a user's own in its one or two lines, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from flows.failures import describe
from tasks.errors import GraftError


@contextmanager
def told() -> Iterator[None]:
    """Show a user's error as its one or two lines, and anything else as a fault of graft's."""
    try:
        yield
    except GraftError as error:
        st.error(str(error))
    except Exception as error:
        st.error(describe(error).message)
