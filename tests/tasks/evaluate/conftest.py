"""Reports with every part in them, made without training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from tasks.config import DataConfig, RunConfig
from tasks.evaluate.metrics import measure
from tasks.evaluate.score import Scores
from tasks.finetune.progress import EpochRecord
from tasks.measures import (
    Calibration,
    Corruption,
    Curve,
    DataCheck,
    Estimate,
    ExplainedImage,
    Novelty,
    Rejection,
    ReliabilityBin,
    Slice,
    Speed,
)
from tasks.outputs import chosen
from tasks.values import (
    EvaluationReport,
    FineTunedModel,
    InputSpec,
    PackedSplit,
    PreparedDataset,
    SkippedImage,
)

SPEC = InputSpec(
    resize=256, crop=224, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bilinear"
)
KINDS = ("gaussian_noise", "jpeg")
DIGESTS = {name: f"{k:x}" * 64 for k, name in enumerate(("train", "val", "test", "model", "raw"))}


@dataclass(frozen=True)
class Sample:
    """What the page, the card and the Markdown report are made of."""

    config: RunConfig
    prepared: PreparedDataset
    model: FineTunedModel
    report: EvaluationReport

    def parts(self):
        return self.config, self.prepared, self.model, self.report


def random_scores(n: int, c: int, multi_label: bool = False) -> Scores:
    """Return scores of a model that is right more often than not."""
    rng = np.random.default_rng(0)
    if multi_label:
        labels = (rng.random((n, c)) < 0.4).astype(np.int64)
        p = np.clip(0.35 * labels + 0.6 * rng.random((n, c)), 0, 1).astype(np.float32)
    else:
        labels = np.arange(n) % c
        logits = rng.normal(size=(n, c)) + 2.5 * np.eye(c)[labels]
        p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    return Scores(
        probabilities_nc=p,
        labels_n=labels,
        predictions_n=chosen(p, multi_label),
        energy_n=np.zeros(n),
        seconds=1.0,
        multi_label=multi_label,
    )


def curve_of(name: str, truth_n: np.ndarray, p_n: np.ndarray) -> Curve:
    """Return one class's curves from scikit-learn, thinned."""
    fpr, tpr, _ = roc_curve(truth_n, p_n)
    precision, recall, _ = precision_recall_curve(truth_n, p_n)
    roc = np.linspace(0, len(fpr) - 1, min(101, len(fpr))).astype(int)
    pr = np.linspace(0, len(recall) - 1, min(101, len(recall))).astype(int)
    return Curve(
        name=name,
        roc_auc=roc_auc_score(truth_n, p_n),
        average_precision=average_precision_score(truth_n, p_n),
        false_positive_rate=tuple(fpr[roc]),
        true_positive_rate=tuple(tpr[roc]),
        recall=tuple(recall[pr]),
        precision=tuple(precision[pr]),
    )


def split_of(name: str, n: int, c: int, multi_label: bool) -> PackedSplit:
    """Return a split whose files nobody opens."""
    return PackedSplit(
        name=name,
        images=Path(f"{name}.u8"),
        labels=Path(f"{name}.labels.npy"),
        multi_label=multi_label,
        index=Path(f"{name}.index.csv"),
        n=n,
        height=256,
        width=256,
        counts=(n // c,) * c,
        digest=DIGESTS[name],
    )


def save_pictures(folder: Path, names: tuple[str, ...], words: str, count: int):
    """Write noisy photographs with a heat map each into folder/explained."""
    (folder / "explained").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for row in range(count):
        coarse = rng.integers(0, 255, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC)
        image.save(folder / "explained" / f"{row}.png")
        warm = Image.new("RGB", (224, 224), (255, 80, 0))
        Image.blend(image, warm, 0.4).save(folder / "explained" / f"{row}-heat.png")
        yield ExplainedImage(
            path=f"{words}/{row}.png",
            label=names[row % len(names)],
            prediction=names[(row + 1) % len(names)],
            confidence=0.99 - row / 100,
            row=row,
            image=f"{row}.png",
            overlay=f"{row}-heat.png",
            method="grad-cam",
        )


@pytest.fixture
def make_sample(tmp_path: Path) -> Callable[..., Sample]:
    """Return a maker of samples: whole ones, of given class names and a word for all else."""

    def make(
        names: tuple[str, ...] = ("ants", "bees", "wasps"),
        words: str = "site A",
        whole: bool = True,
        multi_label: bool = False,
        n: int = 300,
    ) -> Sample:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        scores = random_scores(n, len(names), multi_label)
        model = model_of(folder, names, words if whole else None, multi_label)
        report = EvaluationReport(
            folder=folder,
            model_sha256=model.sha256,
            test_digest=DIGESTS["test"],
            n=n,
            predictions=folder / "predictions.parquet",
            report=folder / "report.json",
            seconds=1.0,
            images_per_second=300.0,
            **asdict(measure(scores, names)),
            **(whole_parts(folder, scores, names, words) if whole else {}),
        )
        return Sample(
            config=config_of(words if whole else None, multi_label),
            prepared=prepared_of(names, words if whole else None, n, multi_label),
            model=model,
            report=report,
        )

    return make


def config_of(words: str | None, multi_label: bool) -> RunConfig:
    data = {"kind": "manifest", "path": "photos.csv", "multi_label": multi_label}
    if words is not None:
        data |= {"slice_columns": (words,), "path": "https://me:secret@host/a.zip?token=secret"}
        data |= {"sha256": "0" * 64}
    return RunConfig(name="wings", data=DataConfig(**data))


def prepared_of(
    names: tuple[str, ...], words: str | None, n: int, multi_label: bool
) -> PreparedDataset:
    train, val, test = (
        split_of(name, images, len(names), multi_label)
        for name, images in (("train", 4 * n), ("val", n), ("test", n))
    )
    checks = (
        DataCheck(name="near_duplicates", policy="warn", status="warned", found=2, unit="image",
                  examples=(f"{words} is {words}",)),
        DataCheck(name="exact_duplicates", policy="fail", status="ok", found=0, unit="image"),
        DataCheck(name="class_drift", policy="warn", status="ok", found=0, unit="distribution",
                  statistic=0.01, p_value=0.42),
        DataCheck(name="tiny_classes", policy="drop", status="dropped", found=1, unit="class",
                  dropped=9, examples=(str(words),)),
    )  # fmt: skip
    return PreparedDataset(
        folder=Path("prepared"),
        classes=names,
        input=SPEC,
        train=train,
        val=val,
        test=test,
        skipped=() if words is None else (SkippedImage(path=words, reason=words),),
        warnings=() if words is None else (f"warning of {words}",),
        checks=() if words is None else checks,
        raw_digest=DIGESTS["raw"],
        digest=DIGESTS["train"],
    )


def model_of(
    folder: Path, names: tuple[str, ...], words: str | None, multi_label: bool
) -> FineTunedModel:
    records = [
        EpochRecord(
            epoch=epoch,
            epochs=5,
            train_loss=1 / epoch,
            train_accuracy=1 - 1 / (1 + epoch),
            val_loss=1 / epoch,
            val_accuracy=1 - 1 / (1 + epoch),
            learning_rate=0.01,
            seconds=1.0,
            images_per_second=100.0,
        )
        for epoch in range(1, 6)
    ]
    history = folder / "history.jsonl"
    history.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    return FineTunedModel(
        folder=folder,
        weights=folder / "model.safetensors",
        sha256=DIGESTS["model"],
        architecture="resnet18",
        classes=names,
        input=SPEC,
        multi_label=multi_label,
        strategy="head",
        history=history,
        epochs=5,
        chosen_epoch=4,
        val_accuracy=0.8,
        val_loss=0.25,
        trainable_parameters=1000,
        parameters=11_000_000,
        device="cpu",
        precision="float32",
        seconds=61.0,
        images_per_second=120.0,
        data_digest=DIGESTS["raw"],
        backbone_sha256=None,
        notes=() if words is None else (f"note of {words}",),
    )


def slice_estimates(a: float) -> Iterator[Estimate]:
    """Yield the figures of a slice of accuracy ``a``, each with an interval of its own width."""
    figures = {"accuracy": a, "balanced_accuracy": a, "macro_f1": a, "log_loss": 0.4}
    for k, (name, v) in enumerate(figures.items()):
        wide = 0.05 + 0.01 * k
        yield Estimate(name=name, value=v, low=v - wide, high=v + wide, resamples=1000)


def whole_parts(folder: Path, scores: Scores, names: tuple[str, ...], words: str) -> dict:
    """Return every part of a report that a setting can ask for."""
    labels, p = scores.labels_n, scores.probabilities_nc
    truth_nc = labels if scores.multi_label else np.eye(len(names), dtype=int)[labels]
    listed = {"accuracy": scores.accuracy, "log_loss": scores.log_loss, "brier": 0.31, "ece": 0.041}
    listed |= {"mean_roc_auc": 0.953, "mean_average_precision": 0.875}
    of_class = {"recall": 0.5, "f1": 0.5, "roc_auc": 0.95, "average_precision": 0.85}
    listed |= {f"{figure}[{name}]": v for name in names for figure, v in of_class.items()}
    # a thousand classes share the curves of ten, which would take their time
    drawn = [curve_of(name, truth_nc[:, k], p[:, k]) for k, name in enumerate(names[:10])]
    parts = {
        "estimates": tuple(
            Estimate(name=name, value=v, low=v - 0.02, high=v + 0.02, resamples=1000)
            for name, v in listed.items()
        ),
        "slices": tuple(
            Slice(column=words, value=f"{words} {k}", n=50 * k, accuracy=a, low=a - 0.05,
                  high=a + 0.05, balanced_accuracy=a, macro_f1=a, log_loss=0.4,
                  estimates=tuple(slice_estimates(a)))
            for k, a in ((1, 0.62), (2, 0.9))
        ),
        "curves": tuple(
            drawn[k % len(drawn)].model_copy(update={"name": name}) for k, name in enumerate(names)
        ),
        "calibration": Calibration(
            temperature=1.4, val_log_loss_before=0.5, val_log_loss=0.4, val_ece_before=0.1,
            val_ece=0.03,
        ),
        "rejection": Rejection(
            wanted_error=0.05, threshold=0.8, val_coverage=0.7, val_error=0.05, test_coverage=0.68,
            test_error=0.06,
        ),
        "novelty": Novelty(
            threshold=-3.2, kept=0.95, test_flagged=0.06, noise_flagged=0.99, noise_auroc=0.997
        ),
        "corruptions": tuple(
            Corruption(name=name, severity=k, accuracy=0.9 - 0.1 * k, n=100)
            for name, k in (("none", 0), *itertools.product(KINDS, range(1, 6)))
        ),
        "speed": Speed(
            device="cpu", latency_p50_ms=12.3, latency_p95_ms=15.0, images_per_second=110.0,
            batch_size=64, size_mib=42.7, parameters=11_000_000, gflops=3.64,
        ),
        "explained": tuple(save_pictures(folder, names, words, 6)),
    }  # fmt: skip
    edges = np.linspace(0, 1, 16)
    bins = tuple(
        ReliabilityBin(low=low, high=high, n=20 * k, confidence=(low + high) / 2 if k else None,
                       accuracy=low if k else None)
        for k, (low, high) in enumerate(itertools.pairwise(edges))
    )  # fmt: skip
    return parts | {"reliability": bins}
