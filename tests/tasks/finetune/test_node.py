"""The program of a node: what it is told, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.errors import ConfigError, ResourceError
from tasks.finetune import host as host_module
from tasks.finetune.follow import follow
from tasks.finetune.host import host
from tasks.finetune.meeting import END, Meeting, Place, open_store
from tasks.finetune.node import main

NODE = [sys.executable, "-m", "tasks.finetune.node"]
LEVEL = "TORCH_CPP_LOG_LEVEL"
TALK = (
    "import os, sys; have = os.environ.get; "
    f"print(have('GRAFT_MEETING'), have('{LEVEL}')); sys.exit(5)"
)
WAIT = f"import os, time; print(os.environ.get('{LEVEL}'), flush=True); time.sleep(60)"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def place() -> Place:
    return Place(host="127.0.0.1", port=free_port(), nodes=2, patience=0.3, silence=2)


def test_one_node_is_the_command_itself():
    done = subprocess.run([*NODE, "--", sys.executable, "-c", TALK], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (5, "None None\n", "")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "has no command"),
        (["--nodes=2", "--", "true"], "GRAFT_NODE_HOST"),
        (["--nodes=2", "--rank=2", "--host=localhost"], "number them from 0"),
        (["--rank=1"], "--rank 1 with --nodes 1 is no node"),
        (["--nodes=0", "--", "true"], "--rank 0 with --nodes 0 is no node"),
        (["--nodes=2", "--rank=1", "--host=h", "--silence=1"], "Set it from 2 to 604800"),
        (["--nodes=2", "--rank=1", "--host=h", "--patience=0"], "--patience 0 is out of range"),
        (["--nodes=2", "--rank=1", "--host=h", "--patience=inf"], "--patience inf is out of"),
        (["--nodes=2", "--rank=1", "--host=h", "--silence=nan"], "--silence nan is out of"),
        (["--nodes=2", "--rank=1", "--host=h", "--port=65536"], "Set it from 1 to 65535"),
        (["--", "/no/such/program"], "/no/such/program cannot be run: No such file"),
        (["--nodes=2", "--host=192.0.2.1", "--", "true"], "cannot listen on 192.0.2.1:29400"),
    ],
)
def test_what_is_wrong_is_said(given: list[str], words: str, capsys, monkeypatch):
    for name in ("GRAFT_NODES", "GRAFT_NODE_RANK", "GRAFT_NODE_HOST", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(given) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("graft: ")
    assert len(said.splitlines()) == 2


def test_the_first_node_returns_what_the_command_does_and_tells_the_others(
    place: Place, capfd, monkeypatch: pytest.MonkeyPatch
):
    told = []
    monkeypatch.setattr(
        "tasks.finetune.host._wait_for_farewells", lambda meeting, _: told.append(meeting.hear(END))
    )
    assert host(place, [sys.executable, "-c", TALK]) == 5
    assert f'"port":{place.port}' in capfd.readouterr().out
    with pytest.raises(ConfigError, match="cannot be run"):
        host(place.model_copy(update={"port": free_port()}), ["/no/such/program"])
    assert told == ["5", "2"]


def test_the_commands_own_code_stands_when_the_wait_for_the_others_is_cut_short(
    place: Place, tmp_path: Path
):
    def come_and_say_no_farewell() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        meeting = Meeting(place)
        meeting.count("beat/1")
        (tmp_path / "go").touch()
        while meeting.hear(END) is None:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    other = threading.Thread(target=come_and_say_no_farewell, daemon=True)
    other.start()
    wait = f"cd '{tmp_path}'; touch begun; until [ -e go ]; do sleep 0.02; done; exit 6"
    begun = time.monotonic()
    assert host(place, ["sh", "-c", wait]) == 6
    assert time.monotonic() - begun < 9  # of the 10 s that it would have waited
    other.join(5)


def test_a_node_that_is_none_of_those_waited_for(place: Place):
    with pytest.raises(ResourceError, match=f"Nobody listens at {place.address}"):
        follow(place, 1)
    listener = socket.create_server((place.host, place.port))
    meeting = Meeting(place, open_store(place, listener))
    with pytest.raises(ConfigError, match="was started for 3 nodes, the first for 2"):
        follow(place.model_copy(update={"nodes": 3}), 1)
    meeting.say(END, "0")
    assert follow(place, 1) == 0
    same = f"{socket.gethostname()}, process {os.getpid()}"  # as in a container started again
    with pytest.raises(ConfigError, match=f"Node 1 is there already: {same}"):
        follow(place, 1)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(place: Place, rank: int, *command: str) -> subprocess.Popen[str]:
    environment = {
        "GRAFT_NODES": "2",
        "GRAFT_NODE_HOST": place.host,
        "GRAFT_NODE_PORT": str(place.port),
        "JOB_COMPLETION_INDEX": str(rank),
    }
    return subprocess.Popen(
        [*NODE, "--silence=3", "--", *command],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def heard(place: Place, key: str, process: subprocess.Popen[str]) -> Meeting:
    assert process.stdout.readline() == "None\n"  # started, and with the user's own level
    meeting = Meeting(place)
    for _ in range(300):
        if meeting.hear(key):
            return meeting
        signal.sigtimedwait([], 0.1)
    raise AssertionError(key)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, 8)]
)
def test_signals_end_all_nodes(place: Place, started, number: signal.Signals, code: int):
    first, second = (start(place, rank, sys.executable, "-c", WAIT) for rank in (0, 1))
    started += [first, second]
    heard(place, "beat/1", first)
    if number == signal.SIGTERM:
        first.send_signal(number)  # passed on
    else:
        os.killpg(first.pid, number)  # as a terminal does, or want of memory
    assert second.wait(20) == code
    assert first.wait(20) == (-9 if number == signal.SIGKILL else code)
    assert ("does not answer any more" in second.stderr.read()) == (number == signal.SIGKILL)


def test_every_option_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert Path(__file__).stem.removeprefix("test_") in said
    for name in ("--nodes", "--rank", "--host", "--port", "--patience", "--silence"):
        assert name in said


@pytest.mark.parametrize("failures", [2, 99])
def test_a_name_that_nobody_knows_yet_is_waited_for(failures: int, place: Place, monkeypatch):
    found, asked, slept = socket.getaddrinfo, [], []

    def look_up(*given: object, **more: object) -> object:
        asked.append(given[0])
        if len(asked) <= failures:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(*given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    clock = SimpleNamespace(monotonic=lambda: len(slept) * 0.2, sleep=slept.append)
    monkeypatch.setattr(host_module, "time", clock)
    if failures == 2:
        with host_module._listener(place) as listener:
            assert listener.getsockname() == (place.host, place.port)
        assert len(asked) == 3
        return
    with pytest.raises(ConfigError, match=f"on {place.address}: Name or service not known"):
        host_module._listener(place)
    assert slept == [1] * 2  # 0.3 s are over at the third look
