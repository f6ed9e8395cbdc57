"""Promotions that wait for a person, on a registry whose first version a real run made."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from tasks import retry
from tasks.errors import TrackingError, TransientTrackingError
from tasks.register import approval
from tasks.register.facts import user_name
from tasks.register.locks import locked
from tasks.register.moves import promote, story
from tasks.register.versions import decision_on, read_decision
from tasks.retry import with_retries
from tasks.values import PromotionDecision

WAITS = {"waiting": True, "reason": "Better."}


@pytest.fixture
def registry(registry_copy: MlflowClient, once_more) -> MlflowClient:
    """Return a client of a registry with version 1, champion, and a newer one that waits."""
    once_more(registry_copy, **WAITS)
    return registry_copy


def aliases(client: MlflowClient) -> dict[str, str]:
    found = client.get_registered_model("small").aliases
    return {alias: str(version) for alias, version in found.items()}


def newest(client: MlflowClient) -> str:
    return str(max(int(v.version) for v in client.search_model_versions("name='small'")))


def test_what_waits_is_challenger_and_not_champion(registry):
    assert aliases(registry) == {"champion": "1", "challenger": newest(registry)}
    decision = approval.standing("small", "challenger")
    assert (decision.waiting, decision.promoted) == (True, False)
    assert story("small").events[-1].kind == "waiting"


def test_approved_it_is_champion_and_the_history_says_by_whom_and_why(registry, graft):
    version = newest(registry)
    listed = graft("models", "small", "--json")
    rows = json.loads(listed.out)["versions"]
    assert [row["decision"] for row in rows if str(row["version"]) == version] == ["waiting"]
    result = graft("approve", "small", version, "--reason", "looked at the errors", "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert (told["decision"]["promoted"], told["decision"]["waiting"]) == (True, False)
    assert told["resumed"] == 0
    assert aliases(registry) == {"champion": version, "previous": "1"}
    last = story("small").events[-1]
    assert (last.kind, last.why, last.version) == (
        "approved",
        "looked at the errors",
        int(version),
    )
    assert (last.who, last.typed) == (user_name(), False)
    assert decision_on(registry.get_model_version("small", version)).promoted
    again = graft("approve", "small", version)
    assert (again.code, len(again.message.splitlines())) == (7, 2)
    assert f"it was promoted (approved by {user_name()}, " in again.message


def test_rejected_it_stays_challenger(registry, graft):
    version = newest(registry)
    result = graft("approve", "small", "challenger", "--reject", "--reason", "odd errors")
    assert result.code == 0, result.err
    assert aliases(registry) == {"champion": "1", "challenger": version}
    last = story("small").events[-1]
    assert (last.kind, last.why) == ("rejected", "odd errors")
    again = graft("approve", "small", version)
    assert again.code == 7
    assert "it was not promoted (rejected by " in again.message
    assert aliases(registry) == {"champion": "1", "challenger": version}


def test_of_answers_at_once_the_first_counts_and_the_others_say_so(registry):
    version = newest(registry)
    kinds = {"approved": approval.approve, "rejected": approval.reject}

    def say(kind: str, who: str) -> TrackingError | tuple[str, str]:
        try:
            kinds[kind]("small", version, "why", who)
        except TrackingError as error:
            return error
        return kind, who

    with ThreadPoolExecutor(4) as pool:
        with locked(registry, "small"):  # all have looked, and wait, or have asked for no lock
            said = [pool.submit(say, kind, who) for kind in kinds for who in ("Ada", "Bo")]
            time.sleep(1.5)
            assert not [one for one in said if one.done()]
        told = [one.result() for one in said]
    (first,) = [one for one in told if isinstance(one, tuple)]
    state = "was promoted" if first[0] == "approved" else "was not promoted"
    words = f"does not wait for approval: it {state} ({first[0]} by {first[1]}, "
    assert sum(words in str(one) for one in told) == 3
    (answer,) = [event for event in story("small").events if event.kind in kinds]
    assert ((answer.kind, answer.who), answer.typed) == (first, True)
    decision = approval.standing("small", version)
    assert (decision.promoted, decision.waiting) == (first[0] == "approved", False)
    champion = version if decision.promoted else "1"
    assert aliases(registry)["champion"] == champion


def test_what_waited_and_is_promoted_by_hand_was_not_refused(registry, graft, once_more):
    version = newest(registry)
    result = graft("promote", "small", version, "--json")
    told = json.loads(result.out)
    assert told["verdict"] == "waiting"
    assert (told["decision"]["promoted"], told["decision"]["waiting"]) == (True, False)
    assert graft("rollback", "small").code == 0
    for said, words in (([], "passed, and waited for approval"), (["--reject"], "passed, but re")):
        version = str(once_more(registry, **WAITS))
        if said:
            assert graft("approve", "small", version, *said).code == 0
        result = graft("promote", "small", version)
        assert f"gate        {words}" in result.out, result.err
        assert graft("rollback", "small").code == 0


def test_a_version_that_somebody_made_champion_in_mlflow_cannot_be_rejected(registry, graft):
    version = newest(registry)
    registry.set_registered_model_alias("small", "champion", version)
    result = graft("approve", "small", version, "--reject")
    assert (result.code, len(result.message.splitlines())) == (7, 2)
    assert "graft rollback small" in result.message
    assert approval.standing("small", version).waiting


def test_the_flow_run_that_asks_is_resumed_with_who_answered(registry, home):
    from prefect.client.orchestration import get_client
    from prefect.input.run_input import keyset_from_paused_state
    from prefect.states import Paused

    from flows import approval as flow
    from flows.server import start_server, using

    decision = approval.approve("small", newest(registry))
    given = {"model": decision.model, "version": decision.version}
    with using(start_server()), get_client(sync_client=True) as client:
        name = flow.RUN_NAME.format(**given)
        run = client.create_flow_run(flow.approval, name=name, parameters=given)
        state = Paused(name="Suspended", timeout_seconds=600, pause_key="1")
        state.state_details.run_input_keyset = keys = keyset_from_paused_state(state)
        flow.Verdict.save(keys, run.id)
        assert client.set_flow_run_state(run.id, state, force=True).status == "ACCEPT"
        assert flow.answer(decision, "looked at the errors") == 1
        told = flow.Verdict.load(keys, run.id)
    assert (told.approve, told.name, told.reason) == (True, user_name(), "looked at the errors")


def test_a_champion_that_came_between_stops_the_approval(registry, once_more, graft):
    first, second = newest(registry), str(once_more(registry, **WAITS))
    promote("small", first, "by hand")
    before = aliases(registry)
    result = graft("approve", "small", second)
    assert (result.code, len(result.message.splitlines())) == (7, 2)
    assert "with version 1" in result.message
    assert f"champion is version {first} by now" in result.message
    assert aliases(registry) == before
    assert approval.standing("small", second).waiting
    assert not approval.standing("small", first).waiting


def test_an_approval_that_was_cut_off_after_the_alias_is_brought_to_its_end(registry):
    version = newest(registry)
    registry.set_registered_model_alias("small", "champion", version)
    assert approval.approve("small", version).promoted
    assert aliases(registry)["champion"] == version


def test_a_verdict_whose_reply_was_lost_is_found_in_effect(registry, monkeypatch):
    from flows import approval as flow

    write = approval.settle

    def lose(*args: object, **kwargs: object):
        monkeypatch.setattr(approval, "settle", write)
        write(*args, **kwargs)
        raise TransientTrackingError("the reply was lost")

    monkeypatch.setattr(retry, "RETRY_DELAYS", [0.0])
    monkeypatch.setattr(approval, "settle", lose)
    version, yes = newest(registry), flow.Verdict(approve=True, name=" Ada ", reason="")
    assert with_retries(flow._settle, "small", version, yes).promoted
    assert aliases(registry) == {"champion": version, "previous": "1"}
    others = {"name": "Bo"}, {"approve": False}
    for other in others:  # an answer that was not this one still stops
        with pytest.raises(TrackingError, match=r"does not wait for approval: .*approved by Ada"):
            flow._settle("small", version, yes.model_copy(update=other))


def test_damaged_files_are_not_approved(registry, monkeypatch: pytest.MonkeyPatch):
    version = newest(registry)
    registry.set_model_version_tag("small", version, "graft.sha256", "0" * 64)
    with pytest.raises(TrackingError, match="not the file that was registered"):
        approval.approve("small", version)
    assert aliases(registry)["champion"] == "1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("nothing", "1"), "no registered model nothing"), (("small", "99"), "There is no")],
)
def test_what_is_not_there_is_said(registry, graft, arguments: tuple[str, str], words: str):
    result = graft("approve", *arguments)
    assert result.code == 7
    assert words in result.message


def test_a_run_whose_promotion_needs_approval_only_waits(workspace, graft, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    result = graft(
        *("run", "good.yaml", "promotion.approval=true", f"output.folder={tmp_path}/runs"),
        *("evaluation.explained_images=0", "evaluation.latency_runs=0"),
    )
    assert result.code == 0, result.err
    assert "waits for approval (" in result.out
    assert "approve small 1)" in result.out
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert aliases(client) == {"challenger": "1"}
    run_id = client.get_model_version("small", "1").run_id
    assert read_decision(client, "small", run_id).waiting
    assert "waits for graft approve small 1" in result.err + result.out
    assert approval.approve("small", "1", "the first").promoted
    assert aliases(client) == {"champion": "1"}


def test_who_is_asked_reads_no_markup_of_a_class():
    from flows.approval import _question

    decision = PromotionDecision(
        model="small",
        version=2,
        uri="models:/small/2",
        run_id="1",
        promoted=False,
        waiting=True,
        reason="recall[![](https://example.org/p.png)] is 0.9. **Approved by the boss.**",
        n=9,
        accuracy=0.9,
        alpha=0.05,
    )
    head, _, reason = _question(decision).partition("\n\n")
    assert head == "Make `models:/small/2` champion (there is no champion)?"
    assert not set("[]*") & set(reason)
