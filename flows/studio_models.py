"""The studio's last two steps: a registered model on a photograph, and who is champion."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import streamlit as st

from flows import verdicts
from flows.studio_told import as_text
from tasks.errors import TrackingError
from tasks.register import moves
from tasks.register.classifier import probability_column
from tasks.register.predict import predict
from tasks.register.registry import CHAMPION, VersionRow, list_versions

LISTED = 10  # classes in the chart


def try_step() -> None:
    """Classify a photograph with one of the registered versions."""
    st.header("Try a photograph")
    rows = _versions()
    if not rows:
        return
    titles = [_title(row) for row in rows]
    at = next((i for i, row in enumerate(rows) if CHAMPION in row.aliases), 0)
    row = rows[titles.index(st.selectbox("Model", titles, index=at))]
    sent = st.file_uploader("Photograph", type=["jpg", "jpeg", "png", "webp", "bmp"])
    if sent is None:
        return
    picture, words = st.columns(2)
    picture.image(sent)
    found = _classify(f"models:/{row.name}/{row.version}", sent)
    with words:
        label = as_text(found["label"]) or "(no label)"
        st.metric("Label", label, f"{found['confidence']:.1%}")
        if not found.get("answered", True):
            st.warning("The model is too unsure for an answer.")
        if found.get("novel", False):
            st.warning("The image is unlike those the model was trained on.")
        st.bar_chart(_probabilities(found), x="class", y="probability", horizontal=True)


def _classify(uri: str, sent: BinaryIO) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".image") as file:
        file.write(sent.read())
        file.flush()
        row = predict(uri, [Path(file.name)]).iloc[0]
    return {str(name): value for name, value in row.items()}


def _probabilities(found: dict[str, Any]) -> pd.DataFrame:
    """Return the likeliest classes; their columns are those of ``Classifier.predict``."""
    prefix = probability_column("")
    given = {key.removeprefix(prefix): p for key, p in found.items() if key.startswith(prefix)}
    pairs = pd.Series(given).astype(float).sort_values(ascending=False)[:LISTED]
    return pd.DataFrame({"class": pairs.index, "probability": pairs.to_numpy()})


def promote_step() -> None:
    """Show the versions of a model and let somebody make one champion."""
    st.header("Promote")
    rows = _versions()
    if not rows:
        return
    name = st.selectbox("Model", sorted({row.name for row in rows}))
    rows = [row for row in rows if row.name == name]
    st.table(pd.DataFrame([_cells(row) for row in rows]).set_index("version"))
    version = st.selectbox("Version", [row.version for row in rows])
    reason = st.text_input("Why (for the history)")
    row = next(row for row in rows if row.version == version)
    if row.decision == "waiting":
        yes, no = st.columns(2)
        _action(yes, "Approve", lambda: verdicts.settle(name, str(version), reason, approve=True))
        _action(no, "Reject", lambda: verdicts.settle(name, str(version), reason, approve=False))
    else:
        _action(st, "Make it champion", lambda: verdicts.promote(name, str(version), reason))
    _action(st, "Back to the champion before", lambda: verdicts.roll_back(name, reason))
    _history(name)


def _action(where: object, words: str, act: Callable[[], object]) -> None:
    """Show a button; what it did, or why not, is shown after it."""
    if where.button(words):  # type: ignore[attr-defined]  # the page, or a column of it
        act()
        st.toast(f"Done: {words}")
        st.rerun()


def _history(name: str) -> None:
    events = moves.story(name).events
    with st.expander("History"):
        rows = [(str(e.when or "")[:16], e.who, e.kind, str(e.version), e.why) for e in events]
        cells = [tuple(map(as_text, row)) for row in rows]
        st.table(pd.DataFrame(cells, columns=["when (UTC)", "who", "what", "version", "why"]))


def _versions() -> list[VersionRow]:
    try:
        rows = list_versions()
    except TrackingError as error:
        st.info(as_text(str(error)))
        return []
    if not rows:
        st.info("No model is registered yet: train one first.")
    return rows


def _title(row: VersionRow) -> str:
    return f"{row.name}, version {row.version}" + "".join(f", {alias}" for alias in row.aliases)


def _cells(row: VersionRow) -> dict[str, object]:
    return {
        "version": row.version,
        "aliases": ", ".join(row.aliases),
        "test accuracy": None if row.accuracy is None else f"{row.accuracy:.2%}",
        "decision": row.decision,
        "reason": as_text(row.reason),
    }
