"""The reference example's loop, written plainly, as the thing to beat.

It is the tutorial every copy of this example descends from: ImageFolder-like loading that decodes
every image in every epoch, resize to the network's size, SGD 0.001/0.9, batch 100, one loop. The
bugs of the published copies are not in it: the head has the right width, evaluation is in eval
mode, the normalisation is the weights' own. To be comparable it trains on the same images as graft
(the index files of graft's splits), validates after every epoch and scores the test set once.

Run as ``python -m tests.benchmarks.reference_loop SPEC.json``; prints one JSON object.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms


class IndexedImages(Dataset):
    """Images of one index file, decoded when asked for."""

    def __init__(self, root: Path, index: Path, transform) -> None:
        with index.open(newline="") as file:
            self.rows = [(root / row["path"], int(row["label"])) for row in csv.DictReader(file)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        path, label = self.rows[i]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    return right / len(loader.dataset)


def main(spec: dict) -> dict:
    torch.manual_seed(spec["seed"])
    transform = transforms.Compose(
        [
            transforms.Resize(spec["resize"]),
            transforms.CenterCrop(spec["crop"]),
            transforms.ToTensor(),
            transforms.Normalize(spec["mean"], spec["std"]),
        ]
    )
    train, val, test = (
        DataLoader(
            IndexedImages(Path(spec["root"]), Path(spec[name]), transform),
            batch_size=100,
            shuffle=name == "train",
            num_workers=spec["workers"],
        )
        for name in ("train", "val", "test")
    )
    model = models.squeezenet1_0()
    model.load_state_dict(load_file(spec["weights"]))
    model.classifier[1] = nn.Conv2d(512, spec["classes"], kernel_size=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=spec["learning_rate"], momentum=0.9)
    for _ in range(spec["epochs"]):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        val_accuracy = accuracy(model, val)
    return {"val_accuracy": val_accuracy, "test_accuracy": accuracy(model, test)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
