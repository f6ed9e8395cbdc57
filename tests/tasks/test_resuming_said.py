"""What a run's place is made of, and what is said where a run stops, stays or is not found."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path

import pytest

from tasks import resuming
from tasks.artifacts import sha256_bytes
from tasks.config import OutputConfig, RunConfig
from tasks.configfile import dump_config
from tasks.errors import ConfigError, DataError
from tasks.public import public_config
from tasks.resuming import WORDS, place_of
from tasks.unfinished import FOLDER, MODEL

LESS = "Leave out --resume to begin a run."


@pytest.fixture
def make(tmp_path: Path, make_config):
    """Return a maker of configs whose runs lie in one folder."""
    output = OutputConfig(folder=tmp_path / "runs").model_dump()
    return lambda **sections: make_config(**({"output": output} | sections))


@pytest.fixture(autouse=True)
def quick_code(monkeypatch):
    monkeypatch.setattr(resuming, "code_digest", lambda extra: sha256_bytes(extra.encode()))


def broken_off(config: RunConfig, error: type[BaseException] = KeyboardInterrupt) -> Path:
    with suppress(error), place_of(config, False) as place:
        (place.inner / MODEL).write_text("{}")
        raise error
    return place.folder


def refused(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as caught, place_of(config, True):
        pass
    return str(caught.value)


def test_a_new_place_says_what_it_is_a_run_of(make):
    config, tokens = make(seed=3), set()
    for _ in range(2):
        with place_of(config, False) as place:
            assert place.resumed is False
            assert re.fullmatch(config.name + r"-\d{8}-\d{6}(-\d+)?", place.folder.name)
            assert place.folder.parent == Path(config.output.folder).resolve()
            text = dump_config(public_config(config))
            assert (place.folder / "config.yaml").read_text() == text
            names = sorted(path.name for path in place.inner.iterdir())
            assert names == ["begun.json", "lock"]
            begun = place.begun
            tokens.add(begun.token)
    assert len(tokens) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", token) for token in tokens)
    decides = config.model_dump_json(exclude={"output": True})
    assert begun.config == sha256_bytes(decides.encode())
    assert begun.code == sha256_bytes(b"")
    assert begun.shown == public_config(config).model_dump(mode="json")


def test_the_code_of_timm_counts_where_its_networks_are_used(make):
    assert resuming._code(make()) == sha256_bytes(b"")
    timm = make(model={"architecture": "timm:resnet18"})
    assert resuming._code(timm) == sha256_bytes(b"timm")


def test_going_on_says_where_and_sweeps_what_was_half_written(make, caplog):
    folder = broken_off(make())
    (folder / ".page.x1").touch()
    with caplog.at_level(logging.INFO, "tasks.resuming"), place_of(make(), True) as place:
        assert (place.folder, place.resumed) == (folder, True)
        assert not (folder / ".page.x1").exists()
    said = [(record.message, record.room) for record in caplog.records]
    assert said == [(f"going on in {folder}", "resume")]


def test_where_things_are_written_decides_nothing(make, tmp_path: Path):
    folder = broken_off(make())
    output = OutputConfig(folder=tmp_path / "runs", cache=tmp_path / "another").model_dump()
    with place_of(make(output=output), True) as place:
        assert place.folder == folder


def test_a_run_that_has_nothing_to_go_on_from_leaves_nothing(make, tmp_path: Path):
    with pytest.raises(ValueError, match="early"), place_of(make(), False):
        raise ValueError("early")
    assert list((tmp_path / "runs").glob("*")) == []


def test_a_stop_carries_how_the_run_goes_on(make):
    stop = KeyboardInterrupt()
    with suppress(KeyboardInterrupt), place_of(make(), False) as place:
        (place.inner / MODEL).touch()
        raise stop
    assert stop.__notes__ == [WORDS]
    assert WORDS == "resume: graft run CONFIG --resume goes on"


@pytest.mark.parametrize("named", [False, True])
def test_an_error_is_followed_by_where_the_run_is_kept_unless_it_says_so(make, caplog, named):
    with suppress(DataError), place_of(make(), False) as place:
        (place.inner / MODEL).touch()
        raise DataError(f"odd images in {place.folder}" if named else "odd images")
    kept = f"{place.folder} is kept: the same command with --resume goes on there"
    assert [record.message for record in caplog.records] == ([] if named else [kept])


def test_values_that_differ_are_named_three_at_most(make):
    folder = broken_off(make())
    advice = f"differs.\nResume with the values it was begun with. {LESS}"
    start = f"{folder} was begun with another config:"
    one, three = {"epochs": 9}, {"epochs": 9, "batch_size": 7}
    assert refused(make(training=one)) == f"{start} training.epochs {advice}"
    some = "seed, training.batch_size, training.epochs"
    assert refused(make(training=three, seed=5)) == f"{start} {some} {advice}"
    four = three | {"learning_rate": 0.5}
    assert refused(make(training=four, seed=5)) == f"{start} {some} and more {advice}"


def test_what_differs_in_secret_is_not_shown(make):
    sections = [
        {"data": {"path": f"https://x.org/a.zip?{key}", "sha256": "0" * 64}} for key in ("a", "b")
    ]
    folder = broken_off(make(**sections[0]))
    said = refused(make(**sections[1]))
    assert said.startswith(f"{folder} was begun with another config: a secret differs.\n")


def test_a_run_of_another_name_is_none_of_this_config(make, tmp_path: Path):
    broken_off(make(name="other"))
    nothing = f"There is no unfinished run of this config in {tmp_path / 'runs'}.\n{LESS}"
    assert refused(make()) == nothing


def test_a_finished_run_is_said_the_newest_of_several(make, tmp_path: Path):
    config = make()
    for date in ("20260101-000000", "20260102-000000"):
        folder = tmp_path / "runs" / f"{config.name}-{date}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_config(public_config(config)))
        (folder / "report.json").touch()
    said = f"The run in {folder} is finished: there is nothing to resume.\n{LESS}"
    assert refused(config) == said
    for path in tmp_path.glob("runs/*/report.json"):
        path.unlink()  # what has no report was not finished
    assert refused(config).startswith("There is no unfinished run of this config")


def test_a_run_whose_lock_is_gone_is_finished(make):
    folder = broken_off(make())
    (folder / FOLDER / "lock").unlink()
    said = f"The run in {folder} is finished: there is nothing to resume.\n{LESS}"
    assert refused(make()) == said


def test_messages_of_what_holds_a_run_up_say_what_to_do(make, monkeypatch):
    folder = broken_off(make())
    with place_of(make(), True):
        assert refused(make()) == (
            f"The run in {folder} still goes on in another process.\nWait for it, or stop it first."
        )
    monkeypatch.setattr(resuming, "code_digest", lambda _: "1" * 64)
    assert refused(make()) == (
        f"{folder} was begun with other code of graft, or another torch, than is here.\n"
        "Resume with the version that began it, or leave out --resume."
    )


def test_what_cannot_be_read_is_said_by_one_line(make, caplog):
    folder = broken_off(make())
    (folder / FOLDER / "begun.json").write_bytes(b"{}")
    assert refused(make()).startswith("There is no unfinished run of this config")
    (record,) = caplog.records
    start = f"{folder / FOLDER / 'begun.json'} is not read: 4 validation errors for Begun"
    assert record.message == start
