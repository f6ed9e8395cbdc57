"""PyTorch's "Transfer Learning for Computer Vision Tutorial": fine-tuning the ConvNet.

https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html, sections "Load Data",
"Training the model" and "Finetuning the ConvNet": RandomResizedCrop and flip, batch 4, SGD with
momentum 0.9, a tenth of the rate every 7 epochs, the weights of the best validation epoch kept in a
file. Its 25 epochs are a cap here; its four worker processes are as many as there are cores. Its
rate of 0.001 is for a network with batch norm: with it, SqueezeNet's last ReLU dies in the first
epoch and validation accuracy stays at chance. A tenth of it learns, as validation says: that is it.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from tests.benchmarks.peer_jobs.instrument import MEAN, STD, AfterEpoch, Spec, run

EPOCHS = 25
LEARNING_RATE = 0.001 / 10


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    # user code
    data_transforms = {
        "train": transforms.Compose(
            [
                transforms.RandomResizedCrop(spec.crop),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        ),
        "val": transforms.Compose(
            [
                transforms.Resize(spec.resize),
                transforms.CenterCrop(spec.crop),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        ),
    }
    image_datasets = {
        x: datasets.ImageFolder(str(Path(spec.images) / x), data_transforms[x])
        for x in ["train", "val"]
    }
    dataloaders = {
        x: DataLoader(image_datasets[x], batch_size=4, shuffle=True, num_workers=spec.workers)
        for x in ["train", "val"]
    }
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = models.squeezenet1_0(num_classes=spec.classes)
    state = {k: v for k, v in load_file(spec.weights).items() if "classifier" not in k}
    model.load_state_dict(state, strict=False)
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best_path = Path(tempfile.mkdtemp(dir=spec.scratch)) / "best_model_params.pt"
    best_acc = 0.0
    for epoch in range(EPOCHS):
        for phase in ["train", "val"]:
            model.train(phase == "train")
            running_loss, running_corrects = 0.0, 0
            for inputs, labels in dataloaders[phase]:
                inputs, labels = inputs.to(device), labels.to(device)
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    preds = outputs.argmax(1)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(preds == labels.data)
            if phase == "train":
                scheduler.step()
            epoch_loss = running_loss / len(image_datasets[phase])
            epoch_acc = running_corrects.double() / len(image_datasets[phase])
            print(f"{phase} Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}")
            if phase == "val" and epoch_acc > best_acc:
                best_acc = epoch_acc
                torch.save(model.state_dict(), best_path)
        after_epoch(model, (epoch + 1) * len(image_datasets["train"]))  # instrument
    model.load_state_dict(torch.load(best_path, weights_only=True))
    # end of user code


if __name__ == "__main__":
    run(main)
