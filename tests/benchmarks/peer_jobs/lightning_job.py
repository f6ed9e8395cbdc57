"""Lightning's transfer learning: a frozen backbone, a new head, fine-tuned after ten epochs.

https://lightning.ai/docs/pytorch/stable/advanced/transfer_learning.html, "Automated Finetuning with
Callbacks" and "Example: Computer Vision with ResNet": Adam 1e-3 on the head, ``BackboneFinetuning``
that lets the backbone go at epoch 10 with a tenth of the head's rate, everything else as
``Trainer`` has it by default. The page names no batch size or augmentation: 32, and none.
"""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from tests.benchmarks.peer_jobs.instrument import MEAN, STD, AfterEpoch, Spec, run


class Measured(Callback):
    """Tells the instrument of every epoch, its validation done."""

    def __init__(self, after_epoch: AfterEpoch, images: int) -> None:
        self._after_epoch = after_epoch
        self._images = images

    def on_train_epoch_end(self, trainer, pl_module):
        self._after_epoch(pl_module, (trainer.current_epoch + 1) * self._images)


# user code
class SqueezeNetClassifier(LightningModule):
    def __init__(self, weights, classes, learning_rate=1e-3):
        super().__init__()
        self.save_hyperparameters()
        network = models.squeezenet1_0(num_classes=classes)
        state = {k: v for k, v in load_file(weights).items() if "classifier" not in k}
        network.load_state_dict(state, strict=False)
        self.backbone = network.features
        self.head = nn.Sequential(network.classifier, nn.Flatten())

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_accuracy", (self(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=self.hparams.learning_rate)


# end of user code


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    # user code
    transform = transforms.Compose(
        [
            transforms.Resize(spec.resize),
            transforms.CenterCrop(spec.crop),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    train, val = (
        DataLoader(
            ImageFolder(str(Path(spec.images) / split), transform),
            batch_size=32,
            shuffle=split == "train",
            num_workers=spec.workers,
        )
        for split in ("train", "val")
    )
    callbacks = [
        BackboneFinetuning(
            unfreeze_backbone_at_epoch=10,
            lambda_func=lambda epoch: 1.5,
            backbone_initial_ratio_lr=0.1,
            should_align=True,
            verbose=True,
        )
    ]
    callbacks.append(Measured(after_epoch, len(train.dataset)))  # instrument
    model = SqueezeNetClassifier(spec.weights, spec.classes)
    trainer = Trainer(callbacks=callbacks, max_epochs=spec.epochs, default_root_dir=spec.scratch)
    trainer.fit(model, train, val)
    # end of user code


if __name__ == "__main__":
    run(main)
