"""Hugging Face's Trainer, as its image classification example uses it.

https://github.com/huggingface/transformers/tree/main/examples/pytorch/image-classification,
run_image_classification.py and README: RandomResizedCrop and flip, ``remove_unused_columns=False``,
evaluation and checkpoint every epoch, the best kept, a log every 10 steps. Rate 5e-5 (AdamW,
linear to 0) and batch 8 are ``TrainingArguments``' defaults, and so is float32. Its one loading
process is as many as there are cores here. Images come from torchvision's ``ImageFolder``, so that
no data set is built first.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models, transforms
from torchvision.datasets import ImageFolder
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.benchmarks.peer_jobs.instrument import MEAN, STD, AfterEpoch, Spec, run


class Measured(TrainerCallback):
    """Tells the instrument of every epoch, its evaluation done."""

    def __init__(self, after_epoch: AfterEpoch, images: int) -> None:
        self._after_epoch = after_epoch
        self._images = images

    def on_evaluate(self, args, state, control, model, **kwargs):
        self._after_epoch(model.network, round(state.epoch) * self._images)


# user code
class Classifier(nn.Module):
    def __init__(self, weights, classes):
        super().__init__()
        self.network = models.squeezenet1_0(num_classes=classes)
        state = {k: v for k, v in load_file(weights).items() if "classifier" not in k}
        self.network.load_state_dict(state, strict=False)

    def forward(self, pixel_values, labels=None):
        logits = self.network(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(examples):
    images, labels = zip(*examples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def compute_metrics(prediction):
    return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids).mean()}


# end of user code


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    # user code
    normalize = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train_transforms = transforms.Compose(
        [
            transforms.RandomResizedCrop(spec.crop),
            transforms.RandomHorizontalFlip(),
            *normalize,
        ]
    )
    val_transforms = transforms.Compose(
        [transforms.Resize(spec.resize), transforms.CenterCrop(spec.crop), *normalize]
    )
    train = ImageFolder(str(Path(spec.images) / "train"), train_transforms)
    val = ImageFolder(str(Path(spec.images) / "val"), val_transforms)
    trainer = Trainer(
        model=Classifier(spec.weights, spec.classes),
        args=TrainingArguments(
            output_dir=spec.scratch,
            remove_unused_columns=False,
            num_train_epochs=spec.epochs,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_steps=10,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            save_total_limit=3,
            dataloader_num_workers=spec.workers,
            report_to="none",
        ),
        data_collator=collate,
        train_dataset=train,
        eval_dataset=val,
        compute_metrics=compute_metrics,
    )
    trainer.add_callback(Measured(after_epoch, len(train)))  # instrument
    trainer.train()
    # end of user code


if __name__ == "__main__":
    run(main)
