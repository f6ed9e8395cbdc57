"""promote, rollback, history and diff, on a registry whose first version a real run made."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient


@pytest.fixture
def registry(registry_copy: MlflowClient, once_more) -> MlflowClient:
    """Return a client of a registry with version 1, champion, and a newer one, refused."""
    once_more(registry_copy, reason="Not better.", wins=3)
    return registry_copy


def champion(client: MlflowClient) -> int:
    return int(client.get_model_version_by_alias("small", "champion").version)


@pytest.mark.parametrize("command", ["promote", "rollback", "history", "diff"])
def test_help_has_an_example_and_json(graft, command: str):
    result = graft(command, "--help")
    assert result.code == 0
    assert f"Example: graft {command}" in result.out
    assert "--json" in result.out


def test_a_person_promotes_and_rolls_back_and_the_history_tells_it(registry, graft):
    newest = max(int(v.version) for v in registry.search_model_versions("name='small'"))
    result = graft("promote", "small", "challenger", "--reason", "smaller [sic]")
    assert result.code == 0, result.err
    assert f"champion    version {newest} of small" in result.out
    assert "gate        refused: Not better." in result.out
    assert champion(registry) == newest

    result = graft("rollback", "small", "--json")
    assert result.code == 0
    assert json.loads(result.out) == {
        "model": "small",
        "version": 1,
        "uri": "models:/small/1",
        "before": newest,
        "aliases": {"champion": 1, "previous": None, "challenger": None},
        "decision": json.loads(result.out)["decision"],
        "verdict": "promoted",
        "reason": "",
    }
    assert json.loads(result.out)["decision"]["promoted"] is True

    registry.set_registered_model_alias("small", "champion", str(newest))  # as in MLflow's UI
    result = graft("history", "small", "--json")
    told = json.loads(result.out)
    events = [event for event in told["history"] if event["version"] in (1, newest)]
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "promoted"
    assert kinds[-4:] == ["refused", "promoted by hand", "rolled back", "moved outside graft"]
    assert events[0]["moves"] == {"champion": [None, 1]}
    assert events[0]["numbers"]["n"] > 0
    assert events[-4]["numbers"]["wins"] == 3
    assert events[-3]["why"] == "smaller [sic]"
    assert all(event["who"] and event["when"].endswith("Z") for event in events[:-1])
    assert told["aliases"]["champion"] == newest

    result = graft("history", "small")
    assert result.code == 0
    for words in ("smaller [sic]", "not recorded", f"champion {newest} → 1", "wins 3", "UTC"):
        assert words in result.out


def test_what_cannot_be_done_ends_with_seven_and_two_lines(registry, graft):
    before = registry.get_registered_model("small")
    models = registry.search_registered_models(max_results=1_000)  # other tests' too
    names = sorted(model.name for model in models)
    there = f"There is: {', '.join(names)}."
    assert "small" in names
    for arguments, words in (
        (("promote", "small", "1"), "Version 1 of small is champion already."),
        (("promote", "small", "99"), "Versions of small: "),
        (("promote", "big", "1"), there),
        (("rollback", "small"), "There is no version of small to go back to."),
        (("history", "big"), there),
        (("diff", "small", "1", "prod"), "There is no models:/small@prod."),
    ):
        result = graft(*arguments)
        assert result.code == 7
        assert words in result.message
        assert len(result.message.splitlines()) == 2
    after = registry.get_registered_model("small")
    assert (after.aliases, after.tags) == (before.aliases, before.tags)
    assert graft("promote", "small").code == 2


def test_two_versions_of_one_run_do_not_differ(registry, graft):
    result = graft("diff", "small", "champion", "challenger")
    assert result.code == 0, result.err
    for words in ("config      no difference", "data        no difference", "both wrong"):
        assert words in result.out
    data = json.loads(graft("diff", "small", "1", "challenger", "--json").out)
    flips = data["flips"]
    assert flips["both_right"] + flips["both_wrong"] == data["metrics"]["n"][0] > 0
    assert (flips["only_first"], flips["only_second"], flips["p_value"]) == (0, 0, 1.0)
    assert data["notes"] == []


@pytest.mark.parametrize(
    "typed",
    [
        ("promote", "small", "challenger", "--reason", "caf\udce9"),
        ("approve", "small", "challenger", "--reason", "caf\udce9"),
        ("rollback", "caf\udce9"),
        ("history", "caf\udce9"),
        ("promote", "small", "caf\udce9"),
    ],
)
def test_what_is_no_utf_8_is_refused_before_anything_moves(registry, graft, typed):
    before = registry.get_registered_model("small")
    result = graft(*typed)
    assert (result.code, len(result.message.splitlines())) == (2, 2)
    assert "caf\\udce9 is no UTF-8" in result.message
    after = registry.get_registered_model("small")
    assert (after.aliases, after.tags) == (before.aliases, before.tags)
