"""Which code computes: graft's own, and that of the packages whose versions change results."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

import tasks
from tasks.artifacts import sha256_bytes, sha256_parts

COMPUTES = ("torch", "torchvision", "pillow", "numpy", "scikit-learn")


@cache
def code_digest(extra: str = "") -> str:
    """Digest graft's own sources and shipped weights, the packages that compute, and ``extra``.

    The weights for their name is all that a config says of them; ``extra`` is one more package.
    """
    root = Path(tasks.__file__).parent
    parts = []
    for path in sorted([*root.rglob("*.py"), *root.glob("pretrained/shipped/*.safetensors")]):
        parts += [path.relative_to(root).as_posix(), sha256_bytes(path.read_bytes())]
    packages = (*COMPUTES, extra) if extra else COMPUTES
    return sha256_parts(*parts, *(f"{name} {metadata.version(name)}" for name in packages))
