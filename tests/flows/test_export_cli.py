"""graft export, as it is typed."""

from __future__ import annotations

import json
import sys

CHAMPION = "models:/small@champion"
QUICK = ("evaluation.latency_runs=0", "evaluation.novelty=false", "evaluation.bootstrap=0")


def test_help_has_an_example_and_json(graft):
    result = graft("export", "--help")
    assert result.code == 0
    assert "Example: graft export" in result.out
    for option in ("--format", "--output", "--register", "--json"):
        assert option in result.out


def test_a_file_is_let_out_or_refused(workspace, unchanged, graft, tmp_path):
    target = tmp_path / "out"
    typed = ("export", CHAMPION, "good.yaml", *QUICK)
    ending = ("--format", "torch_export", "--output", str(target))
    refused = graft(*typed, *ending)  # 8 test images cannot show a loss under 1%
    assert refused.code == 6
    assert refused.message.startswith(f"graft: torch_export of {CHAMPION[:-9]}/1 is refused: Not ")
    assert len(refused.message.splitlines()) == 2
    assert not list(tmp_path.iterdir())
    as_json = graft(*typed, *ending, "--json")
    assert as_json.code == 6
    assert "is refused" in json.loads(as_json.out)["error"]["message"]

    passed = graft(*typed, "promotion.margin=0.5", *ending, "--json")
    assert passed.code == 0, passed.err
    told = json.loads(passed.out)
    assert told["folder"] == str(target)
    assert told["spec"]["sha256"]
    assert (told["wins"], told["losses"], told["n"]) == (0, 0, 8)
    assert (target / "model.pt2").is_file()

    again = graft(*typed, "promotion.margin=0.5", *ending)
    assert again.code == 2
    assert (
        again.message == f"graft: {target} is there already.\nName a new folder for the export.\n"
    )


def test_what_it_says_to_people(workspace, unchanged, graft, tmp_path):
    result = graft(
        *("export", CHAMPION, "good.yaml", *QUICK, "promotion.margin=0.5"),
        *("--format", "onnx", "--output", str(tmp_path / "out")),
    )
    assert result.code == 0, result.err
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert list(lines) == ["exported", "accuracy", "gate", "agreement", "size"]
    assert lines["gate"].startswith("Not worse than version 1 by 50.00% or more: ")


def test_without_the_extra_nothing_is_begun(workspace, unchanged, graft, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = graft(
        *("export", CHAMPION, "good.yaml", "--format", "int8"), *("--output", str(tmp_path / "out"))
    )
    assert result.code == 2
    assert result.message == (
        "graft: ONNX files need the package onnxscript.\nInstall it: uv sync --extra export\n"
    )
