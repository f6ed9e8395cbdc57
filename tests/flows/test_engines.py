"""Work on a Ray cluster of two nodes of this machine: the same figures, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tasks.errors import ConfigError, ResourceError
from tasks.runnerconfig import RunnerConfig
from tests.flows.recorded import Recorded

ray = pytest.importorskip("ray")

GRID = {
    "name": "rays",
    "base": {
        "data": {"kind": "folder", "path": "photos"},
        "preprocess": {"resize": 32, "crop": 32},
        "model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
        "training": {"epochs": 1, "batch_size": 8, "threads": 1, "learning_rate": 0.01},
    },
    "datasets": {"photos": {}},
    "backbones": {"tiny": {}},
    "strategies": {"full": {}, "ema": {"strategy.kind": "ema"}},
    "seeds": [0],
    "parallel": 2,
}
SLOW = 100  # epochs, some seconds
# of each node; a lost one is noticed in three seconds, not in fifteen
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
WATCHFUL = {
    "agent_register_timeout_ms": 120_000,  # processes start slowly where tests run side by side
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 10000,
    "health_check_failure_threshold": 3,
}


def two_nodes(logs: str, tries: int = 3) -> Any:
    """Start two nodes with a processor each; Ray gives its helpers 15 s, too few on a busy machine.

    A cluster whose first node did not come up takes the next for no head: it is given up whole.
    """
    from ray.cluster_utils import Cluster

    started = Cluster()
    try:
        started.add_node(**NODE, temp_dir=logs, _system_config=WATCHFUL)
        started.add_node(**NODE)
    except Exception:
        started.shutdown()
        if tries == 1:
            raise
        return two_nodes(logs, tries - 1)
    return started


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Any]:
    """Give two nodes, and end them."""
    from flows.ray_engine import SETTINGS

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.chdir(home)
        with tempfile.TemporaryDirectory(prefix="graft-ray-", ignore_cleanup_errors=True) as logs:
            started = two_nodes(logs)
            try:
                yield started
            finally:
                ray.shutdown()
                started.shutdown()


@pytest.fixture
def connected(cluster: Any) -> None:
    """Be connected for the rest of the file: processes that were started for one serve the next."""
    if not ray.is_initialized():
        before = signal.getsignal(signal.SIGTERM)
        ray.init(cluster.address, log_to_driver=False, logging_level="CRITICAL")
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def write(workspace: Path, cluster: Any) -> Callable[..., str]:
    """Return a function that writes a grid for the cluster, with changes, and names its file."""

    def write(name: str, **changes: object) -> str:
        runner = {"kind": "ray", "address": cluster.address}
        grid = {**GRID, "name": name, "runner": runner, **changes}
        (workspace / f"{name}.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
        return f"{name}.yaml"

    return write


def digests(comparison: dict) -> dict[str, str]:
    """Return the digest of each cell's weights by its strategy."""
    cells = Path(comparison["folder"]).parent.glob("cells/*/cell.json")
    return {
        path.parent.name.split("-")[2]: json.loads(path.read_text())["model"]["sha256"]
        for path in cells
    }


def child_runs(name: str) -> list[Any]:
    """Return the MLflow runs of a comparison's cells."""
    from tasks.register.client import connect

    client = connect()
    experiments = [one.experiment_id for one in client.search_experiments()]
    (parent,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    return list(
        client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    )


def working(name: str, strategy: str, root: Path) -> psutil.Process | None:
    """Return the process that trains a cell now, if it does."""
    if not list(root.glob(f"*-{strategy}-*/history.jsonl")):
        return None
    for run in child_runs(name):
        if run.info.status == "RUNNING" and f"-{strategy}-" in run.data.tags["graft.cell"]:
            number = int(run.data.tags["graft.process"].split()[-2])
            return psutil.Process(number) if psutil.pid_exists(number) else None
    return None


def at_work(name: str, strategies: tuple[str, ...], root: Path) -> list[psutil.Process]:
    """Return the processes that train cells, once all of them do."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        found = [working(name, strategy, root) for strategy in strategies]
        if None not in found:
            return [process for process in found if process is not None]
        time.sleep(0.1)
    raise AssertionError(f"{strategies} did not all begin in {root}")


def raylet(process: psutil.Process) -> psutil.Process:
    """Return the process of Ray's that keeps the node of a cell's process."""
    return next(each for each in process.parents() if each.name().startswith("raylet"))


@contextmanager
def meanwhile(do: Callable[[], None]) -> Iterator[None]:
    """Do something while the block runs; what goes wrong in it is the test's error."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(do)
        yield
        done.result()


def test_two_nodes_give_the_figures_that_this_process_gives(graft, write):
    here = graft("compare", write("raysless", runner={}, parallel=1), "--json")
    assert here.code == 0, here.err
    there = graft("compare", write("rays"), "--json")
    assert there.code == 0, there.err
    assert set(there.err.splitlines()[0].split()) >= {"download", "40"}
    assert " 2/2 " in there.err
    assert not ray.is_initialized()
    found = digests(json.loads(there.out))
    assert found == digests(json.loads(here.out))
    assert set(found) == {"full", "ema"}
    assert [run.info.status for run in child_runs("rays")] == ["FINISHED"] * 2


@pytest.mark.usefixtures("connected")
def test_a_ranking_is_the_same_on_the_cluster(workspace: Path, graft, cluster):
    tiny = {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"}
    settings = {"base": GRID["base"], "candidates": [tiny, {**tiny, "weights": None}]}
    (workspace / "ray_rank.yaml").write_text(yaml.safe_dump(settings))
    away = ["runner.kind=ray", f"runner.address={cluster.address}", "parallel=2"]
    answers = []
    for overrides in ([], away):
        result = graft("rank", "ray_rank.yaml", "--verify", "--json", *overrides)
        assert result.code == 0, result.err
        rows = json.loads(result.out)["backbones"]
        answers.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
        assert not list(Path(json.loads(result.out)["folder"]).glob(".*"))
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("connected")
def test_sigterm_ends_the_cells_on_the_cluster_too(workspace: Path, graft, write):
    config = write("terms", strategies={"full": {"training.epochs": SLOW}})
    cells = workspace / "mlruns" / "runs" / "terms" / "cells"

    def stop() -> None:
        at_work("terms", ("full",), cells)
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(stop):
        result = graft("compare", config)
    assert (result.code, result.message.count("\n")) == (143, 1), result.err
    assert [run.info.status for run in child_runs("terms")] == ["KILLED"]
    assert list(cells.glob("*")) == []  # nor a token of the cluster's check


@pytest.mark.usefixtures("connected")
def test_what_is_lost_too_often_is_a_failure(
    workspace: Path, graft, write, monkeypatch, recorded: Recorded
):
    monkeypatch.setattr("flows.ray_engine.TRIES", 0)
    config = write("lost", strategies={"full": {"training.epochs": SLOW}, "ema": {}})
    cells = workspace / "mlruns" / "runs" / "lost" / "cells"
    with meanwhile(lambda: at_work("lost", ("full",), cells)[0].kill()):
        result = graft("compare", config, "--json")
    assert result.code == 8, result.err
    outcomes = {one["strategy"]: one for one in json.loads(result.out)["outcomes"]}
    assert outcomes["ema"]["failure"] is None
    assert "was lost" in outcomes["full"]["failure"]["message"]
    assert [path.name.split("-")[2] for path in cells.glob("*")] == ["ema"]
    assert sorted(run.info.status for run in child_runs("lost")) == ["FINISHED", "KILLED"]
    crashed = ("photos · tiny · full · seed 0", "Crashed")
    assert crashed in recorded.task_runs("lost", lambda runs: crashed in runs)


@pytest.mark.usefixtures("connected")
def test_a_killed_process_and_a_lost_node_cost_no_finished_cell(
    workspace: Path, graft, write, cluster
):
    name = "killed-on-a-cluster"  # other files' tests have killed ones in the same registry
    slow = {"training.epochs": 2 * SLOW}  # that neither ends before all is broken
    strategies = {"full": {}, "slow": slow, "late": {**slow, "strategy.kind": "ema"}}
    config = write(name, strategies=strategies)
    cells = workspace / "mlruns" / "runs" / name / "cells"
    whole: dict[Path, int] = {}
    nodes: dict[int, psutil.Process] = {}

    def break_things() -> None:
        processes = at_work(name, ("slow", "late"), cells)
        whole.update({path: path.stat().st_mtime_ns for path in cells.glob("*/cell.json")})
        nodes.update({raylet(process).pid: process for process in processes})
        other = next(iter(cluster.worker_nodes)).all_processes["raylet"][0].process.pid
        assert other in nodes, (other, nodes)
        next(process for pid, process in nodes.items() if pid != other).kill()
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    with meanwhile(break_things):
        result = graft("compare", config, "--json")
    assert result.code == 0, result.err
    assert len(nodes) == 2  # both worked
    assert [path.parent.name.split("-")[2] for path in whole] == ["full"]
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    assert set(digests(json.loads(result.out))) == {"full", "slow", "late"}
    assert len(list(cells.glob("*"))) == 3
    assert result.err.count("begins again: its process had been killed") == 2
    statuses = sorted(run.info.status for run in child_runs(name))
    assert statuses == ["FINISHED"] * 3 + ["KILLED"] * 2


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("runner.address=", 2, "RAY_ADDRESS"),
        ("runner.address=auto", 2, "HOST:PORT"),
        ("runner.address=127.0.0.1:1", 8, "No Ray cluster answers at 127.0.0.1:1"),
        ("runner.cpus=1000", 2, "1000 processors"),
    ],
)
def test_a_cluster_that_cannot_be_used(graft, write, monkeypatch, override, code, words):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if "127.0.0.1" in override:
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
    result = graft("compare", write("unusable"), override)
    assert (result.code, words in result.message) == (code, True), result.err
    assert result.message.count("\n") <= 2


def test_a_piece_of_work_has_the_threads_that_it_reserves():
    import torch

    from flows.engines import fitted
    from tasks.config import RunConfig

    config = RunConfig.model_validate(GRID["base"] | {"training": {"threads": None}})
    away = RunnerConfig(kind="ray", cpus=3.5)
    assert fitted(config, away, 8).training.threads == 3
    assert fitted(config, RunnerConfig(kind="ray", cpus=0.5), 1).training.threads == 1
    assert fitted(config, RunnerConfig(), 1).training.threads is None
    shared = max(1, torch.get_num_threads() // 2)
    assert fitted(config, RunnerConfig(), 2).training.threads == shared
    output = config.output.model_copy(update={"cache": Path("here")})
    placed = fitted(config.model_copy(update={"output": output}), away, 1)
    assert placed.output.cache == Path.cwd() / "here"


def test_what_answers_may_be_no_cluster(prefect_url: str, monkeypatch):
    from flows.ray_engine import open_ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    address = prefect_url.removeprefix("http://").removesuffix("/api")
    engine = open_ray(RunnerConfig(kind="ray", address=address), (), tracked=False)
    with pytest.raises(ResourceError, match="speaks no gRPC"):
        engine.__enter__()


def test_without_the_extra_the_command_says_what_to_install(monkeypatch):
    from flows.engines import open_engine

    monkeypatch.setitem(sys.modules, "ray", None)
    runner = RunnerConfig(kind="ray", address="127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"graft\[ray\]"):
        open_engine(runner, 1).__enter__()


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////shared/mlflow.db",
        "/shared/mlruns",
        "http://127.0.0.1:5000",
        "http://u:secret@localhost:1",
    ],
)
def test_several_machines_need_a_tracking_server(monkeypatch, uri: str):
    from flows.ray_nodes import _check_store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    _check_store(several=False)
    with pytest.raises(ConfigError, match="mlflow server") as raised:
        _check_store(several=True)
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example:5000")
    _check_store(several=True)


def test_several_machines_need_a_prefect_server_that_all_reach():
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.ray_nodes import _prefect

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        assert _prefect(several=False)
        with pytest.raises(ConfigError, match="PREFECT_API_URL"):
            _prefect(several=True)
    with temporary_settings({PREFECT_API_URL: "http://prefect.example:4200/api"}):
        assert _prefect(several=True)


def test_tokens_of_killed_commands_do_not_pile_up(tmp_path: Path):
    from flows.ray_nodes import LONGEST_SECONDS, TOKEN, _tidy

    old, new, other = (tmp_path / name for name in (f"{TOKEN}-a", f"{TOKEN}-b", "cell.json"))
    for path in (old, new, other):
        path.touch()
    before = time.time() - LONGEST_SECONDS - 60
    for path in (old, other):
        os.utime(path, (before, before))
    _tidy(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([new, other])


def test_a_machine_is_refused_for_what_it_lacks(tmp_path: Path, prefect_url: str, monkeypatch):
    from dataclasses import replace

    from flows.ray_worker import TOKEN, Away, Terms, fault, versions

    monkeypatch.chdir(tmp_path)
    good = Terms(versions(), (tmp_path,), "abc", False, prefect_url, {}, tmp_path)
    assert "No such file" in fault(good)
    for other in (b"other", b"\xff"):
        (tmp_path / f"{TOKEN}-abc").write_bytes(other)
        assert "another folder" in fault(good)
    (tmp_path / f"{TOKEN}-abc").write_text("abc")
    torch = replace(good, versions={**versions(), "torch": "1.0"})
    assert "the command has 1.0" in fault(torch)
    assert "PREFECT_API_URL" in fault(replace(good, prefect="http://127.0.0.1:1/api"))
    away = Away(torch).doing(len)
    with pytest.raises(ConfigError, match=r"cannot do the work: it has torch"):
        away("four")
    assert fault(good) == ""
    assert Away(good).doing(len)("four").result == 4
    assert [path.name for path in tmp_path.iterdir()] == [f"{TOKEN}-abc"]
