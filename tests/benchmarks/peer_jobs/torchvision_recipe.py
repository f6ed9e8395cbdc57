"""torchvision's reference recipe: the loop and presets of references/classification.

https://github.com/pytorch/vision/tree/main/references/classification, train.py and presets.py,
which no wheel holds, so that its user copies them; train.py cannot put another head on pretrained
weights, so that its user edits them too. What it does is kept: ``train_one_epoch`` with its
metrics a step, ``evaluate``, a checkpoint an epoch, batch 32, SGD with momentum 0.9 and weight
decay 1e-4, a tenth of the rate after 30 epochs. Its README gives networks without batch norm
``--lr 1e-2`` on eight processes of 32 images, an eighth of that for one process, to train from
scratch; with that SqueezeNet's last ReLU dies, and a tenth of it is used, as validation says.
"""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from tests.benchmarks.peer_jobs.instrument import MEAN, STD, AfterEpoch, Spec, run

LEARNING_RATE = 1e-2 / 8 / 10


# user code
def accuracy(output, target):
    with torch.inference_mode():
        return (output.argmax(1) == target).sum() * 100.0 / target.size(0)


def train_one_epoch(model, criterion, optimizer, data_loader, device):
    model.train()
    losses, acc1, rates = [], [], []
    for i, (image, target) in enumerate(data_loader):
        start_time = time.time()
        image, target = image.to(device), target.to(device)
        output = model(image)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        acc1.append(accuracy(output, target).item())
        rates.append(image.shape[0] / (time.time() - start_time))
        if i % 10 == 0:
            print(f"[{i}/{len(data_loader)}] {losses[-1]:.4f} {acc1[-1]:.3f} {rates[-1]:.1f} img/s")


def evaluate(model, criterion, data_loader, device):
    model.eval()
    losses, right = [], 0
    with torch.inference_mode():
        for image, target in data_loader:
            image, target = image.to(device), target.to(device)
            output = model(image)
            losses.append(criterion(output, target).item())
            right += (output.argmax(1) == target).sum().item()
    print(f"Test: Acc@1 {right * 100 / len(data_loader.dataset):.3f}")


def load_data(spec):
    train_preset = transforms.Compose(
        [
            transforms.RandomResizedCrop(spec.crop),
            transforms.RandomHorizontalFlip(0.5),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(MEAN, STD),
        ]
    )
    eval_preset = transforms.Compose(
        [
            transforms.Resize(spec.resize),
            transforms.CenterCrop(spec.crop),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = ImageFolder(str(Path(spec.images) / "train"), train_preset)
    dataset_test = ImageFolder(str(Path(spec.images) / "val"), eval_preset)
    pin = torch.cuda.is_available()
    return (
        DataLoader(
            dataset, 32, sampler=RandomSampler(dataset), num_workers=spec.workers, pin_memory=pin
        ),
        DataLoader(
            dataset_test,
            32,
            sampler=SequentialSampler(dataset_test),
            num_workers=spec.workers,
            pin_memory=pin,
        ),
    )


# end of user code


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    # user code
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data_loader, data_loader_test = load_data(spec)
    model = models.squeezenet1_0(num_classes=spec.classes)
    state = {k: v for k, v in load_file(spec.weights).items() if "classifier" not in k}
    model.load_state_dict(state, strict=False)
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4
    )
    lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    for epoch in range(spec.epochs):
        train_one_epoch(model, criterion, optimizer, data_loader, device)
        lr_scheduler.step()
        evaluate(model, criterion, data_loader_test, device)
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": lr_scheduler.state_dict(),
            "epoch": epoch,
        }
        torch.save(checkpoint, Path(spec.scratch) / "checkpoint.pth")
        after_epoch(model, (epoch + 1) * len(data_loader.dataset))  # instrument
    # end of user code


if __name__ == "__main__":
    run(main)
