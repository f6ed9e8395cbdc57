"""The images that every peer gets: class folders, split once, and the test images decoded."""

from __future__ import annotations

import shutil
import zipfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

SEED = 0  # of the split and of every peer
QUICK = {"train": 20, "val": 4, "test": 8}  # images of a class
QUICK_SIZE = 64  # px
QUICK_EPOCHS = 2  # fastai: one of the head, one of all


@dataclass(frozen=True)
class Dataset:
    """One archive and the work that is done on it."""

    archive: str
    splits: tuple[tuple[str, str], ...]  # the archive's folder and what it is here
    val_share: float  # of the training images, by class
    resize: int  # px, short side
    crop: int  # px
    epochs: int

    def sized(self, crop: int) -> Dataset:
        """Return the same work at another image size."""
        return replace(self, crop=crop, resize=self.resize * crop // self.crop)


TRAIN_TEST = (("train", "train"), ("test", "test"))
DATASETS = {
    # the reference example resizes to 224 px, which is an hour of two cores; at 96 the reference
    # loop takes about eight minutes
    "cifar10-small": Dataset("cifar10-small.zip", TRAIN_TEST, 0.1, 96, 96, 10),
    # val is what the tutorial reports on: the test images here
    "hymenoptera": Dataset(
        "hymenoptera.zip", (("train", "train"), ("val", "test")), 0.2, 256, 224, 25
    ),
    "cifar10": Dataset("cifar10.zip", TRAIN_TEST, 0.1, 224, 224, 10),  # for a GPU
}


@dataclass(frozen=True)
class Images:
    """Where the images of a data set are, and how many."""

    tree: Path  # train/CLASS/*.jpg, val/CLASS/*.jpg, test/CLASS/*.jpg
    test: Path  # images.npy (n, 3, h, w) uint8 and labels.npy
    classes: int
    train: int


def unpack(dataset: Dataset, archive: Path, folder: Path, quick: bool) -> Images:
    """Write the class folders and the decoded test images; JPEGs only.

    (Among hymenoptera's ants there is a placeholder GIF, which half of the peers would skip and
    half would train on.)
    """
    tree, test = folder / "images", folder / "test"
    with zipfile.ZipFile(archive) as file:
        found = _members(file, dict(dataset.splits))
        for (split, label), names in split_off(found, dataset.val_share, quick).items():
            target = tree / split / label
            target.mkdir(parents=True)
            for name in names:
                with (
                    file.open(name) as source,
                    (target / PurePosixPath(name).name).open("wb") as to,
                ):
                    shutil.copyfileobj(source, to)
    _decode(tree / "test", dataset, test)
    return Images(
        tree=tree,
        test=test,
        classes=len(list((tree / "train").iterdir())),
        train=len(list(tree.glob("train/*/*"))),
    )


def _members(file: zipfile.ZipFile, splits: dict[str, str]) -> dict[tuple[str, str], list[str]]:
    found = defaultdict(list)
    for name in sorted(file.namelist()):
        if name.lower().endswith((".jpg", ".jpeg")):
            folder, label, _ = PurePosixPath(name).parts[-3:]
            found[splits[folder], label].append(name)
    return found


def split_off(
    found: dict[tuple[str, str], list[str]], val_share: float, quick: bool = False
) -> dict[tuple[str, str], list[str]]:
    """Split validation off the training images of every class, given and returned by class."""
    rng = np.random.default_rng(SEED)
    parts = {}
    for (split, label), names in found.items():
        if split == "train":
            order = rng.permutation(len(names))
            n = round(val_share * len(names))
            parts["val", label] = [names[i] for i in sorted(order[:n])]
            parts["train", label] = [names[i] for i in sorted(order[n:])]
        else:
            parts[split, label] = names
    if quick:
        return {key: names[: QUICK[key[0]]] for key, names in parts.items()}
    return parts


def _decode(folder: Path, dataset: Dataset, target: Path) -> None:
    from torchvision import transforms

    view = transforms.Compose(
        [transforms.Resize(dataset.resize), transforms.CenterCrop(dataset.crop)]
    )
    images, labels = [], []
    for label, of_class in enumerate(sorted(folder.iterdir())):
        for path in sorted(of_class.iterdir()):
            with Image.open(path) as image:
                images.append(np.asarray(view(image.convert("RGB"))).transpose(2, 0, 1))
            labels.append(label)
    target.mkdir()
    np.save(target / "images.npy", np.stack(images))
    np.save(target / "labels.npy", np.array(labels))
