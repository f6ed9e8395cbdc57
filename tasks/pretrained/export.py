"""Turn a model that this project trained into weights that it ships, with a model card."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.artifacts import write_atomic
from tasks.config import RunConfig
from tasks.pretrained.shipped import SCHEME
from tasks.values import EvaluationReport, FineTunedModel, PreparedDataset


def export_backbone(
    config: RunConfig,
    prepared: PreparedDataset,
    model: FineTunedModel,
    report: EvaluationReport,
    target: Path,
) -> Path:
    """Write ``graft_NAME.safetensors``, ``.json`` and ``.md`` into ``target``; return the first.

    NAME is the run's name, underscores for dashes: ``tiny-cifar10`` is later named
    ``graft:tiny-cifar10``. Raises ``ResourceError`` when the disk is full.
    """
    stem = target / f"graft_{config.name.replace('-', '_')}"
    facts = {
        "architecture": model.architecture,
        "sha256": model.sha256,
        "input": model.input.model_dump(mode="json"),
        "classes": list(model.classes),
        "parameters": model.parameters,
        "test_accuracy": report.accuracy,
        "data_digest": prepared.raw_digest,
        "seed": config.seed,
        "training": config.training.model_dump(mode="json"),
    }
    write_atomic(stem.with_suffix(".safetensors"), model.weights.read_bytes())
    write_atomic(stem.with_suffix(".md"), _card(config, prepared, model, report).encode())
    # the JSON comes last: weights without it are not found
    write_atomic(stem.with_suffix(".json"), (json.dumps(facts, indent=2) + "\n").encode())
    return stem.with_suffix(".safetensors")


def _card(
    config: RunConfig, prepared: PreparedDataset, model: FineTunedModel, report: EvaluationReport
) -> str:
    recipe, data = config.training, Path(config.data.path or config.data.kind).name
    spec = model.input
    return f"""# graft:{config.name}

A small backbone for small images, trained by this project so that its first example needs no
download.

| what | value |
| --- | --- |
| architecture | `{model.architecture}`, {model.parameters:,} parameters, float32 |
| data | `{data}`: train {prepared.train.n:,}, val {prepared.val.n:,}, test {report.n:,} images |
| classes | {", ".join(model.classes)} |
| input | RGB, {spec.crop} px, mean {_triple(spec.mean)}, std {_triple(spec.std)} |
| recipe | {recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.optimizer} \
{recipe.learning_rate:g}, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}, \
{recipe.schedule}, augment {recipe.augment}, label smoothing {recipe.label_smoothing:g}, \
seed {config.seed} |
| chosen | epoch {model.chosen_epoch}, validation accuracy {model.val_accuracy:.2%} |
| **test accuracy** | **{report.accuracy:.2%}** (95% interval {report.accuracy_low:.2%} to \
{report.accuracy_high:.2%}), scored once |
| trained on | {model.device}, {model.precision}, {model.seconds / 60:.0f} minutes |
| sha256 | `{model.sha256}` |

Remake it, with the archive at hand:

```
graft pretrain configs/pretrain_{config.name.replace("-", "_")}.yaml data.path={data}
```

Use: `model.architecture: {model.architecture}` and `model.weights: {SCHEME}{config.name}`.

Limits: {spec.crop} px photographs of {len(model.classes)} things teach edges, colours and simple
shapes; for photographs of a normal size, ImageNet weights are the better start.
"""


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:g}" for value in values)
