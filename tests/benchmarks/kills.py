"""Runs killed by SIGKILL at random moments, and resumed until they end: what must be left.

    python -m tests.benchmarks.kills --rounds 30

Each round kills a run in one stage, and now and then again as it is resumed; ``--chain`` kills one
run in every stage in turn. Prints a line a round, then JSON; ends with 1 where a round left another
model than an unbroken run, more or less than one version, an epoch that MLflow has not or has
twice, or a temporary file among the run folders. What a kill leaves half-written in the cache is
counted alone: another run may be writing it, so graft cleanup removes it, after a day. The
processes are forked from one that has imported everything, so that a start costs little; each is a
process of its own, and dies as one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

EPOCHS = 4
# a stage begins with the first line that has one of these words
STAGES: dict[str, tuple[str, ...]] = {
    "download": ("",),
    "preprocess": ("download  ",),
    "pretrained": ("preprocess  ",),
    "finetune": ("fine-tuning ",),
    "evaluate": (f"epoch {EPOCHS}/{EPOCHS}", f"after epoch {EPOCHS} of", "the training was over"),
    "register": ("test accuracy",),
    "end": ("register  ",),
}
IMPORTED = (
    *("flows.cli", "flows.transfer", "tasks.register.predict", "tasks.evaluate.plots"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_svg", "sklearn.model_selection"),
    *("scipy.stats", "pyarrow.parquet", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store"),
    *(
        "mlflow.store.model_registry.sqlalchemy_store",
        "prefect.artifacts",
        "jinja2",
        "torch._dynamo",
    ),
)
AGAIN = 0.3  # share of resumed runs that are killed as well


class Ended(NamedTuple):
    code: int  # negative: killed
    seconds: dict[str, float]  # when each stage began
    said: str


def write_photos(folder: Path, n: int = 30, **changes: object) -> None:
    """Write ``n`` images of each of two classes, and a config with ``changes``, into ``folder``."""
    from tasks.config import RunConfig
    from tasks.configfile import dump_config

    generator = np.random.default_rng(0)
    for channel, name in ((2, "blue"), (0, "red")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(n):
            pixels = generator.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
    settings = {
        "data": {"kind": "folder", "path": "photos"},
        "preprocess": {"resize": 32, "crop": 32},
        "model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
        "strategy": {"kind": "ema", "ema_decay": 0.9},
        "training": {"epochs": EPOCHS, "batch_size": 8, "threads": 1, "learning_rate": 0.01,
                     "augment": "crop_flip", "schedule": "cosine"},
        "evaluation": {"explained_images": 0, "latency_runs": 0, "bootstrap": 100},
        "promotion": {"model": "small"},
    }  # fmt: skip
    (folder / "run.yaml").write_text(dump_config(RunConfig.model_validate(settings | changes)))


def run(name: str, resume: bool, kill: tuple[str, float] | None) -> Ended:
    """Run the main job in a forked process; kill it so many seconds into a stage."""
    given = [f"name={name}", f"promotion.model={name}", f"output.cache=cache-{name}"]
    return watched(*begun(["run", "run.yaml", *given, *(["--resume"] if resume else [])]), kill)


def begun(arguments: list[str], first: Callable[[], object] = lambda: None) -> tuple[int, int]:
    """Start graft in a forked process, after ``first`` there; return its number and its words."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.dup2(writer, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        first()
        _be_graft(arguments)
    os.close(writer)
    os.set_blocking(reader, False)
    return pid, reader


def _be_graft(arguments: list[str]) -> None:
    from flows.cli import main

    sys.stderr = os.fdopen(2, "w", buffering=1)
    try:
        code = main(arguments)
        sys.stderr.flush()
    finally:
        os._exit(code)


def watched(pid: int, reader: int, kill: tuple[str, float] | None = None) -> Ended:
    """Wait for what ``begun`` has started to end, and kill it when that is due."""
    start, text, seen = time.monotonic(), "", dict[str, float]()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        with suppress(BlockingIOError):
            text += os.read(reader, 1 << 16).decode(errors="replace")
        now = time.monotonic() - start
        for stage, words in STAGES.items():
            if any(word in text for word in words):
                seen.setdefault(stage, now)
        if done:
            os.close(reader)
            seen["over"] = now
            return Ended(os.waitstatus_to_exitcode(status), seen, text)
        if kill is not None and _is_time(kill, seen, now):
            os.kill(pid, signal.SIGKILL)
            kill = None
        time.sleep(0.002)


def _is_time(kill: tuple[str, float], seen: dict[str, float], now: float) -> bool:
    """Say whether to kill now: so many seconds into the stage, or when it is over before."""
    stage, seconds = kill
    order = list(STAGES)
    over = any(later in seen for later in order[order.index(stage) + 1 :])
    return over or (stage in seen and now >= seen[stage] + seconds)


def lengths(ended: Ended) -> dict[str, float]:
    """Return how long each stage took."""
    begins = [*(ended.seconds[stage] for stage in STAGES), ended.seconds["over"]]
    return dict(zip(STAGES, np.diff(begins).tolist(), strict=True))


def broken(name: str, stages: list[str], took: dict[str, float], dice: random.Random) -> Counter:
    """Run until it ends, killed in each of ``stages`` in turn; return how often in which."""
    kills, resume = Counter(), False
    while True:
        kill = None
        if stages:
            stage = stages.pop(0)
            kill = (stage, dice.random() * took[stage])
        elif resume and dice.random() < AGAIN and sum(kills.values()) < 10:
            stage = dice.choice(list(STAGES))
            kill = (stage, dice.random() * took[stage])
        ended = run(name, resume, kill)
        if ended.code == -signal.SIGKILL:
            kills[stage] += 1
        elif ended.code == 2 and "There is no unfinished run" in ended.said:
            resume = False  # killed before it had a folder
            continue
        elif ended.code == 2 and "is finished" in ended.said and kills:
            return kills  # killed when all was done
        elif ended.code == 0:
            return kills
        else:
            raise SystemExit(f"{name} ended with {ended.code} after {dict(kills)}:\n{ended.said}")
        resume = True


def found(name: str) -> dict[str, object]:
    """Return what a run has left, in the registry, in MLflow and on the disk."""
    from mlflow import MlflowClient

    from tasks.artifacts import sha256_file

    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    versions = client.search_model_versions(f"name='{name}'")
    root = Path("mlruns/runs")
    folders = list(root.glob(f"{name}-*"))
    weights = [folder / "model.safetensors" for folder in folders]
    dotted = [*root.glob(f".{name}-*"), *root.glob(f"..{name}-*")]
    dotted += [path for folder in folders for path in folder.rglob(".*")]
    return {
        "weights": [sha256_file(path) if path.exists() else "none" for path in weights],
        "versions": [(v.status, v.tags.get("promotion.promoted")) for v in versions],
        "logged": [m.status.value for m in client.search_logged_models([experiment])
                   if m.source_run_id in {run.info.run_id for run in runs}],
        "runs": [run.info.status for run in runs],
        "epochs": [[m.step for m in client.get_metric_history(run.info.run_id, "val_loss")]
                   for run in runs],
        "temporary": sorted(map(str, dotted)),
    }  # fmt: skip


def main() -> int:
    """Kill and compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="kills a stage")
    parser.add_argument("--chain", action="store_true", help="one run, killed in every stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then no more rounds")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-kills-") as folder:
        os.chdir(folder)
        import_all(Path(folder))
        write_photos(Path(folder))
        return _rounds(given)


def import_all(folder: Path) -> None:
    """Import all that a run needs, and see to a Prefect server."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if "PREFECT_API_URL" not in os.environ:
        from flows.server import LocalServer

        server = LocalServer(folder / "prefect")
        server.wait()
        os.environ["PREFECT_API_URL"] = server.url
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    for name in IMPORTED:
        importlib.import_module(name)
    # these epochs are over before a checkpoint is worth its time: the forked would begin anew.
    # So one is written after each step, and a kill may come within an epoch as well as between two
    keeper = importlib.import_module("tasks.finetune.keeper")
    keeper.SPARED = keeper.WITHIN = 0.0


def _rounds(given: argparse.Namespace) -> int:
    dice, start = random.Random(given.seed), time.monotonic()
    # the first one makes MLflow's database as well
    for name in ("whole",) if given.chain else ("first", "whole"):
        whole = run(name, False, None)
        if whole.code != 0:
            raise SystemExit(whole.said)
    expected, took = found("whole"), lengths(whole)
    print("whole ", {stage: round(seconds, 2) for stage, seconds in took.items()}, flush=True)
    plans = [[stage] for _ in range(given.rounds) for stage in STAGES]
    kills, bad = Counter(), []
    for number, plan in enumerate([list(STAGES)] if given.chain else plans):
        if time.monotonic() - start > given.seconds:
            break
        name = f"r{number}"
        mine = broken(name, list(plan), took, dice)
        kills += mine
        left = found(name)
        if left != expected:
            bad.append({"name": name, "kills": dict(mine), "left": left})
        print(name, dict(mine), "as expected" if left == expected else left, flush=True)
    half = len([path for cache in Path().glob("cache-*") for path in cache.glob("*/.*")])
    told = {"expected": expected, "kills": dict(kills), "half_in_cache": half, "bad": bad}
    print(json.dumps(told))
    return 1 if bad else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
