"""The reference example's loop: every image decoded in every epoch, SGD 0.001/0.9, batch 100.

The loop that every copy of the CIFAR-10 SqueezeNet example descends from. The bugs of the
published copies are not in it: the head has the right width and torchvision's own small initial
weights (with ``nn.Conv2d``'s the first steps kill the ReLU behind it, and every logit stays 0),
evaluation is in eval mode, the normalisation is the weights' own.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from tests.benchmarks.peer_jobs.instrument import MEAN, STD, AfterEpoch, Spec, run


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    # user code
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
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
            batch_size=100,
            shuffle=split == "train",
            num_workers=spec.workers,
        )
        for split in ("train", "val")
    )
    model = models.squeezenet1_0(num_classes=spec.classes)
    state = {k: v for k, v in load_file(spec.weights).items() if "classifier" not in k}
    model.load_state_dict(state, strict=False)
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    for epoch in range(spec.epochs):
        model.train()
        for images, labels in train:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for images, labels in val:
                images, labels = images.to(device), labels.to(device)
                right += (model(images).argmax(1) == labels).sum().item()
        print(f"epoch {epoch + 1}: validation accuracy {right / len(val.dataset):.2%}")
        after_epoch(model, (epoch + 1) * len(train.dataset))  # instrument
    # end of user code


if __name__ == "__main__":
    run(main)
