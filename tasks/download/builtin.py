"""The datasets that need no folder of the user's: written once as PNG class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.artifacts import sha256_bytes, sha256_file, sha256_parts
from tasks.config import DataConfig
from tasks.download.archives import extract
from tasks.download.fetch import fetch
from tasks.download.sealed import sealed
from tasks.errors import ConfigError, DataError
from tasks.formats import versions_of
from tasks.words import printable

FORMAT = "builtin-1"  # change it when the same images would be written as other files
CIFAR10_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_CLASSES = 10
CIFAR10_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes
DIGITS_WHITE = 16.0  # scikit-learn's digits go from 0 to 16


def digits_folder(config: DataConfig, cache: Path) -> Path:
    """Return the folder of scikit-learn's digits: 1,797 grey 8 x 8 PNGs in folders ``0`` to ``9``.

    The values 0 to 16 are put on the scale 0 to 255 and rounded, which can be undone exactly.
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its
    test set). Raises ``ConfigError`` where ``data.path`` is set, ``ResourceError``.
    """
    if config.path is not None:
        raise ConfigError("data.path goes with no data.kind=digits: they come with scikit-learn.")
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images_nhw = np.rint(values.reshape(-1, 8, 8) * 255 / DIGITS_WHITE).astype(np.uint8)
    digest = sha256_bytes(images_nhw.tobytes() + labels.astype(np.uint8).tobytes())
    names = [str(label) for label in labels]
    return sealed(
        _place(cache, "digits", digest), lambda folder: _write_classes(folder, images_nhw, names)
    )


def cifar10_folder(config: DataConfig, cache: Path) -> Path:
    """Return the folder of CIFAR-10: RGB 32 x 32 PNGs in ``train/CLASS`` and ``test/CLASS``.

    Reads the binary release (no pickle) from ``data.path``, by default its publisher's address.
    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. Raises
    ``DataError``, ``TransientDataError``, ``ResourceError``.
    """
    location, sha256 = config.path, config.sha256
    if location is None:
        location, sha256 = CIFAR10_ADDRESS, config.sha256 or CIFAR10_SHA256
    archive = fetch(location, sha256, cache, config.timeout_seconds, DataError)
    digest = sha256 or sha256_file(archive)

    def write(folder: Path) -> None:
        _write_cifar10(_binary_release(extract(archive, digest, cache), archive), folder)

    return sealed(_place(cache, "cifar10", digest), write)


def _place(cache: Path, name: str, digest: str) -> Path:
    """Return the folder of the files that this Pillow writes; another's bytes may be others."""
    return cache / "builtin" / f"{name}-{sha256_parts(FORMAT, versions_of('pillow'), digest)}"


def _binary_release(unpacked: Path, archive: Path) -> Path:
    for folder in (unpacked, unpacked / "cifar-10-batches-bin"):
        if (folder / "test_batch.bin").is_file():
            return folder
    raise DataError(
        f"{printable(archive)} is not CIFAR-10's binary release: it has no test_batch.bin.\n"
        "For CIFAR-10 as class folders use data.kind=folder."
    )


def _write_cifar10(binary: Path, target: Path) -> None:
    names = _class_names(binary / "batches.meta.txt")
    batches = {
        "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
        "test": ["test_batch.bin"],
    }
    for split, files in batches.items():
        read = [_read_batch(binary / file) for file in files]
        images_nhwc = np.concatenate([images for images, _ in read])
        labels_n = np.concatenate([labels for _, labels in read])
        _write_classes(target / split, images_nhwc, [names[label] for label in labels_n])


def _class_names(path: Path) -> list[str]:
    names = path.read_bytes().decode("ascii", "replace").split()
    if len(set(names)) != CIFAR10_CLASSES or not all(name.isalnum() for name in names):
        raise DataError(f"{path} does not name CIFAR-10's ten classes.")
    return names


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 images (n, 32, 32, 3) and uint8 labels (n,) of a batch file."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size == 0 or content.size % CIFAR10_RECORD:
        raise DataError(f"{path} is cut off: records of CIFAR-10 have {CIFAR10_RECORD} bytes.")
    records = content.reshape(-1, CIFAR10_RECORD)
    labels_n, images_nchw = records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32)
    if labels_n.max() >= CIFAR10_CLASSES:
        raise DataError(f"{path} has the label {labels_n.max()}: CIFAR-10's go from 0 to 9.")
    return images_nchw.transpose(0, 2, 3, 1), labels_n


def _write_classes(folder: Path, images: np.ndarray, labels: Sequence[str]) -> None:
    """Write uint8 images (n, h, w) or (n, h, w, 3) as ``folder/LABEL/NUMBER.png``."""
    for label in set(labels):
        (folder / label).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / label / f"{number:05d}.png")
