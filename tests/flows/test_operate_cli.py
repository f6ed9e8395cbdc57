"""The commands of a team where there is no server, or they are wrongly typed."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy",),
        ("schedule", "0 3 * * 1", "good.yaml"),
        ("schedule", "good.yaml", "--remove"),
        ("submit", "good.yaml"),
        ("status",),
    ],
    ids=" ".join,
)
def test_a_server_must_be_named(arguments, workspace, graft, monkeypatch, tmp_path):
    (tmp_path / "prefect.yaml").write_text("deployments: []")
    (tmp_path / "good.yaml").write_text((workspace / "good.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    result = graft(*arguments)
    assert result.code == 7
    assert result.message.count("\n") == 2
    assert "prefect server start" in result.message
    assert "PREFECT_API_URL" in result.message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("schedule", "x 3 * * 1", "good.yaml"), "'x' is no minute"),
        (("schedule", "0 3 * * 1"), "takes a cron line and a config"),
        (("schedule", "0 3 * * 1", "--remove"), "takes a cron line and a config"),
        (("schedule", "0 3 * * 1", "good.yaml", "--flow", "pretrain"), "'pretrain' is no flow"),
        (("schedule", "0 3 * * 1", "good.yaml", "training.epochs=0"), "training.epochs"),
        (("submit", "absent.yaml"), "cannot be read"),
        (("deploy",), "prefect.yaml cannot be read"),
    ],
)
def test_what_is_wrongly_typed_is_told_before_a_server_is_asked(arguments, words, workspace, graft):
    result = graft(*arguments)
    assert result.code == 2
    assert words in result.message
