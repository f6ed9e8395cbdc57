"""Answers to bad inputs, held to their rows: exit code, words, and nothing left behind."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.bad_inputs.rows import Bad, changed, snapshot

Refuse = Callable[[Bad], str]


@pytest.fixture
def refuse(workspace: Path, tmp_path: Path, graft, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Return what gives a bad input to graft and holds the answer to its row."""
    given, temporary = tmp_path / "given", tmp_path / "temporary"
    given.mkdir()
    temporary.mkdir()
    (workspace / "cache" / "archives").mkdir(exist_ok=True)  # the cache's own place for them
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def hold(bad: Bad) -> str:
        arguments = bad.make(given)
        for name, value in bad.environment.items():
            monkeypatch.setenv(name, value.replace("{}", str(given)))
        before = snapshot(workspace, tmp_path)
        result = graft(*arguments)
        message = result.message
        assert result.code == bad.code, result.err
        assert re.search(bad.pattern, message, re.DOTALL), message
        assert len(message.splitlines()) <= 2, message
        assert "Traceback" not in result.err
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", message), ascii(message)
        assert changed(before, snapshot(workspace, tmp_path), bad.changes) == {}
        return message

    return hold
