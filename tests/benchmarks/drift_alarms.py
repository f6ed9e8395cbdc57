"""How often ``graft monitor`` alerts without cause and with one, on the features of real images.

``python -m tests.benchmarks.drift_alarms`` fine-tunes the shipped backbone on the small CIFAR-10 of
../shared and prints tables in Markdown. New images are drawn from the 9,000 test images of CIFAR-10
that the small one does not hold.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from tasks.artifacts import sha256_bytes
from tasks.config import RunConfig
from tasks.download.source import download
from tasks.evaluate.evaluate import evaluate
from tasks.evaluate.reference import REFERENCE_FILE, Outlook, look_at
from tasks.evaluate.scorer import Scorer, open_scorer
from tasks.evaluate.two_sample import classifier_test, kernel_test
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.index import ImageRecord, read_index
from tasks.preprocess.fresh import pack_fresh
from tasks.preprocess.prepare import prepare
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.values import PreparedDataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
ALPHA = 0.01  # that of configs/monitor_folder.yaml
Picture = Callable[[Image.Image], Image.Image]
DAMAGE: dict[str, Picture] = {
    "80% as bright": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "half as bright": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    "blurred by 0.5 px": lambda image: image.filter(ImageFilter.GaussianBlur(0.5)),
    "blurred by 1 px": lambda image: image.filter(ImageFilter.GaussianBlur(1.0)),
}


class Silent:
    """Watches training and says nothing."""

    def step(self, progress: StepProgress) -> None: ...

    def epoch(self, record: EpochRecord) -> None: ...


class Pool:
    """The features of images that the model has not seen, whole and damaged."""

    def __init__(self, scorer: Scorer, prepared: PreparedDataset, folder: Path) -> None:
        known = {
            record.sha256
            for split in (prepared.train, prepared.val, prepared.test)
            for record in read_index(split.index)
        }
        self.pictures: list[tuple[str, Image.Image]] = []
        with zipfile.ZipFile(SHARED / "cifar10.zip") as archive:
            for name in sorted(n for n in archive.namelist() if "test/" in n and n[-1] != "/"):
                content = archive.read(name)
                if sha256_bytes(content) not in known:
                    image = Image.open(io.BytesIO(content)).convert("RGB")
                    self.pictures.append((name.split("/")[-2], image))
        self.labels = np.array([label for label, _ in self.pictures])
        self._scorer, self._folder = scorer, folder
        self.whole = self.features(lambda image: image)
        self.damaged = {name: self.features(change) for name, change in DAMAGE.items()}

    def features(self, change: Picture) -> np.ndarray:
        """Return the features of all pictures, changed."""
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            root, records = Path(scratch), []
            for number, (_, image) in enumerate(self.pictures):
                path = root / f"{number:05d}.png"
                change(image).save(path)
                records.append(ImageRecord(path.name, 0, "", "", sha256_bytes(path.read_bytes())))
            classes = len(set(self.labels))
            split, _ = pack_fresh(root, root, records, self._scorer.spec, classes, False, "fail")
            return look_at(self._scorer, split, np.ones(split.n, dtype=bool))[1].features_nd


def alerts(pairs: Iterable[tuple[np.ndarray, np.ndarray]], permutations: int) -> str:
    """Return how often each test, and both together as shipped, call pairs of sets different."""
    found = np.array(
        [
            (
                kernel_test(reference, batch, permutations, seed).p_value,
                classifier_test(reference, batch, seed).p_value,
            )
            for seed, (reference, batch) in enumerate(pairs)
        ]
    )
    counts = [*(found <= ALPHA).sum(axis=0), (found.min(axis=1) <= ALPHA / 2).sum()]
    return " | ".join(f"{count} of {len(found)}" for count in counts)


def table(pool: Pool, kept: np.ndarray, train: np.ndarray, given: argparse.Namespace) -> None:
    """Print alerts of each kind of new images, by size of the batch."""
    draw = np.random.default_rng(0)

    def drawn(rows: np.ndarray, size: int) -> np.ndarray:
        return rows[draw.permutation(len(rows))[:size]]

    def cats(size: int) -> np.ndarray:
        some = drawn(pool.whole[pool.labels == "cat"], round(0.3 * size))
        return np.concatenate((some, drawn(pool.whole, size - len(some))))

    def apart(size: int) -> tuple[np.ndarray, np.ndarray]:
        rows = drawn(pool.whole, len(kept) + size)
        return rows[: len(kept)], rows[len(kept) :]

    def say(what: str, size: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        print(f"| {what} | {size} | {alerts(pairs, given.permutations)} |", flush=True)

    print("| new images | in a check | kernel | classifier | both |\n|" + " --- |" * 5)
    for size in given.sizes:
        null, shifted = range(given.null), range(given.shifted)
        say("the same", size, ((kept, drawn(pool.whole, size)) for _ in null))
        say("the same, a new reference each time", size, (apart(size) for _ in null))
        training = ((train, drawn(pool.whole, size)) for _ in shifted)
        say("the same, against training images", size, training)
        for name, features in pool.damaged.items():
            damaged = ((kept, drawn(features, size)) for _ in shifted)
            say(name, size, damaged)
        say("30% more cats", size, ((kept, cats(size)) for _ in shifted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300], help="images a check")
    parser.add_argument("--null", type=int, default=200, help="checks of unchanged images")
    parser.add_argument("--shifted", type=int, default=50, help="checks of changed ones")
    parser.add_argument("--permutations", type=int, default=1999)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = RunConfig.model_validate(
            {
                "data": {"path": str(SHARED / "cifar10-small.zip")},
                "preprocess": {"resize": 32, "crop": 32},
                "model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
                # the last epoch, by when it fits its training images far better than others
                "training": {
                    "epochs": given.epochs,
                    "batch_size": 64,
                    "learning_rate": 0.05,
                    "choose": "last",
                },
                "evaluation": {"explained_images": 0, "latency_runs": 0},
            }
        )
        raw = download(config.data, folder)
        prepared = prepare(
            config.data, config.seed, raw, input_spec(config.model, config.preprocess), folder
        )
        backbone = load_pretrained(config, prepared.classes, None, folder)
        (folder / "run").mkdir()
        model = finetune(config, prepared, backbone, folder / "run", Silent())
        report = evaluate(config, prepared, model, folder / "run")
        kept = Outlook.from_bytes((folder / "run" / REFERENCE_FILE).read_bytes()).features_nd
        with open_scorer(config, model) as scorer:
            rows = np.random.default_rng(0).permutation(prepared.train.n) < 1000
            scores, learned = look_at(scorer, prepared.train, rows)
            print(
                f"accuracy: training images {scores.accuracy:.1%}, test {report.accuracy:.1%}; "
                f"alpha {ALPHA}\n"
            )
            table(Pool(scorer, prepared, folder), kept, learned.features_nd, given)


if __name__ == "__main__":
    main()
