"""Run one peer, one process and its children, and say what it took."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path

from tests.benchmarks.peer_images import SEED, Dataset, Images
from tests.benchmarks.peer_jobs.instrument import Spec, accuracy
from tests.benchmarks.peer_watch import REPOSITORY, Cost, watch

JOBS = REPOSITORY / "tests" / "benchmarks" / "peer_jobs"
GRAFT = Path(sys.executable).with_name("graft")
PEERS = {  # as the table names them: the module in peer_jobs
    "reference loop": "reference",
    "PyTorch tutorial": "tutorial",
    "torchvision recipe": "torchvision_recipe",
    "timm engine": "timm_engine",
    "fastai fine_tune": "fastai_job",
    "Hugging Face Trainer": "hf_trainer",
    "Lightning": "lightning_job",
}


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds are on the clock of ``instrument``."""

    peer: str
    seconds_to_target: float | None  # None: not reached
    accuracy: float  # of the test images, at the end
    seconds: float  # to the end
    images_per_second: float  # trained on, over those seconds
    cpu_seconds: float
    peak_mib: float
    lines: int  # that the user writes
    measured: str  # the day, and what graft's config was told
    curve: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """A data set, unpacked, and where the runs on it write."""

    name: str
    dataset: Dataset
    images: Images
    weights: Path
    folder: Path
    threads: int
    most_epochs: int | None  # of any peer, whatever its recipe says
    overrides: tuple[str, ...]  # of graft's config

    def peer(self, name: str, target: float | None, cap: float | None, stops: bool = True) -> Row:
        """Run a peer to its last epoch, the ``cap`` (seconds) or, if it ``stops``, the ``target``.

        Without a target, what it ends with is the target.
        """
        curve, cost = self._job(name, PEERS[name], target if stops else None, cap, None)
        return self._row(name, curve, cost, target, user_lines(JOBS / f"{PEERS[name]}.py"))

    def graft(self, name: str, target: float | None, cache: str) -> Row:
        """Run graft's own steps up to the trained model; ``cache`` names its cache folder."""
        curve, cost = self._job(name, "graft_job", target, None, cache)
        return self._row(name, curve, cost, target, self._graft_lines())

    def graft_command(self, name: str, target: float | None, store: str) -> Row:
        """Run the whole of ``graft run``: test, report, MLflow and registration included."""
        scratch = self._scratch(name)
        home = self.folder / store
        cost = watch(
            [str(GRAFT), "run", str(self._config()), *self._overrides(scratch, store), "--json"],
            scratch,
            OMP_NUM_THREADS=str(self.threads),
            MLFLOW_TRACKING_URI=f"sqlite:///{home}/mlflow.db",
            PREFECT_HOME=str(home / "prefect"),
        )
        folder = Path(json.loads((scratch / "stdout").read_text())["report"]["folder"])
        epochs = len((folder / "history.jsonl").read_text().splitlines())
        line = {
            "epoch": 1,
            "seconds": cost.seconds,
            "cpu_seconds": cost.cpu_seconds,
            "images": epochs * self.images.train,
            "accuracy": self._accuracy(folder / "model.safetensors"),
        }
        return self._row(name, [line], cost, target, self._graft_lines())

    def _accuracy(self, weights: Path) -> float:
        from tasks.pretrained.network import restore_network

        network = restore_network("squeezenet1_0", self.images.classes, weights)
        return accuracy(network, self.images.test)

    def _job(self, name, module, target, cap, cache) -> tuple[list[dict], Cost]:
        scratch = self._scratch(name)
        spec = Spec(
            images=str(self.images.tree),
            test=str(self.images.test),
            weights=str(self.weights),
            classes=self.images.classes,
            resize=self.dataset.resize,
            crop=self.dataset.crop,
            epochs=self.dataset.epochs,
            most_epochs=self.most_epochs,
            workers=self.threads,
            seed=SEED,
            scratch=str(scratch),
            lines=str(scratch / "lines.jsonl"),
            target=target,
            cap_seconds=cap,
            started=time.monotonic(),
            config=str(self._config()),
            overrides=self._overrides(scratch, cache) if cache else (),
        )
        (scratch / "spec.json").write_text(json.dumps(asdict(spec)))
        module = f"tests.benchmarks.peer_jobs.{module}"
        command = [sys.executable, "-m", module, str(scratch / "spec.json")]
        cost = watch(command, scratch, OMP_NUM_THREADS=str(self.threads))
        curve = [json.loads(line) for line in (scratch / "lines.jsonl").read_text().splitlines()]
        peak = max(cost.peak_mib, *(line["peak_mib"] for line in curve))
        return curve, replace(cost, peak_mib=peak)

    def _row(self, name, curve, cost, target, lines) -> Row:
        last = curve[-1]
        return Row(
            peer=name,
            seconds_to_target=seconds_to(last["accuracy"] if target is None else target, curve),
            accuracy=last["accuracy"],
            seconds=last["seconds"],
            images_per_second=last["images"] / last["seconds"],
            cpu_seconds=last["cpu_seconds"],
            peak_mib=cost.peak_mib,
            lines=lines,
            measured=" ".join([f"{date.today():%Y-%m-%d}", *self.overrides]),
            curve=curve,
        )

    def _scratch(self, name: str) -> Path:
        scratch = self.folder / "runs" / name.replace(" ", "_")
        scratch.mkdir(parents=True)
        return scratch

    def _config(self) -> Path:
        named = JOBS / f"graft_{self.name}.yaml"
        return named if named.is_file() else JOBS / "graft_cifar10-small.yaml"

    def _graft_lines(self) -> int:
        return user_lines(self._config()) + 1  # and the command

    def _overrides(self, scratch: Path, store: str) -> tuple[str, ...]:
        """Return what the user's own file would say of paths, and what this benchmark was told."""
        return (
            f"data.path={self.images.tree}",
            f"model.weights={self.weights}",
            f"preprocess.resize={self.dataset.resize}",
            f"preprocess.crop={self.dataset.crop}",
            f"output.folder={scratch / 'graft'}",
            f"output.cache={self.folder / store / 'cache'}",
            *self.overrides,
        )


def seconds_to(target: float, curve: list[dict]) -> float | None:
    """Return when the first epoch of that accuracy or more ended; None where there is none."""
    return next((line["seconds"] for line in curve if line["accuracy"] >= target), None)


def user_lines(path: Path) -> int:
    """Count what the user writes: between the markers of a job, or all of a YAML file.

    Blank lines, comments and the calls of the instrument do not count.
    """
    counting, n = path.suffix == ".yaml", 0
    for line in path.read_text().splitlines():
        text = line.strip()
        if text in ("# user code", "# end of user code"):
            counting = text == "# user code"
        elif counting and text and not text.startswith("#") and "# instrument" not in text:
            n += 1
    return n
