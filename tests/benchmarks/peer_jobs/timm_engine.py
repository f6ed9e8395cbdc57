"""timm's training engine: its datasets, loader, optimiser, schedule and loss, as its train.py.

https://github.com/huggingface/pytorch-image-models/blob/main/train.py and
https://huggingface.co/docs/timm/training_script: RandomResizedCrop, flip, colour jitter 0.4,
random interpolation, SGD with Nesterov momentum 0.9 and weight decay 2e-5, cosine from
``--lr-base`` 0.1 for 256 images, label smoothing 0.1. Those are for training from scratch over 300
epochs, and its documentation gives no rate for fine-tuning: here the rate is a hundredth of that
(with a tenth SqueezeNet's last ReLU dies and validation accuracy stays at chance), the warm-up is
one epoch and not five, and a batch has 32 images and not 128, since hymenoptera would make one step
an epoch. SqueezeNet is not among timm's networks, so that its user writes the loop.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, accuracy
from torchvision import models

from tests.benchmarks.peer_jobs.instrument import MEAN, STD, AfterEpoch, Spec, run

BATCH = 32
LEARNING_RATE = 0.1 * BATCH / 256 / 100


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    # user code
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    common = {
        "input_size": (3, spec.crop, spec.crop),
        "batch_size": BATCH,
        "mean": MEAN,
        "std": STD,
        "num_workers": spec.workers,
        "device": device,
    }
    train = create_loader(
        create_dataset("", root=spec.images, split="train", is_training=True),
        is_training=True,
        color_jitter=0.4,
        interpolation="random",
        **common,
    )
    val = create_loader(
        create_dataset("", root=spec.images, split="val"),
        crop_pct=spec.crop / spec.resize,
        interpolation="bilinear",
        **common,
    )
    model = models.squeezenet1_0(num_classes=spec.classes)
    state = {k: v for k, v in load_file(spec.weights).items() if "classifier" not in k}
    model.load_state_dict(state, strict=False)
    model.to(device)
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=LEARNING_RATE, momentum=0.9, weight_decay=2e-5
    )
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=spec.epochs,
        warmup_epochs=1 if spec.epochs > 1 else 0,
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=len(train),
    )
    train_loss = LabelSmoothingCrossEntropy(smoothing=0.1)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(Path(spec.scratch)), max_history=1)
    updates = seen = 0
    for epoch in range(epochs):
        model.train()
        losses = AverageMeter()
        for step, (images, labels) in enumerate(train):
            loss = train_loss(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
            seen += len(images)
            if step % 50 == 0:
                losses.update(loss.item(), len(images))
                print(f"train {epoch} [{step}/{len(train)}] loss {losses.val:.3f}")
            scheduler.step_update(updates, metric=losses.avg)
        model.eval()
        top1 = AverageMeter()
        with torch.inference_mode():
            for images, labels in val:
                top1.update(accuracy(model(images), labels)[0].item(), len(images))
        print(f"validation {epoch}: {top1.avg:.2f}%")
        saver.save_checkpoint(epoch, metric=top1.avg)
        scheduler.step(epoch + 1, top1.avg)
        after_epoch(model, seen)  # instrument
    # end of user code


if __name__ == "__main__":
    run(main)
