"""Images of a tar with dots in their names: a part of another sample, or lost if nobody said so."""

from __future__ import annotations

from collections.abc import Collection

from tasks.errors import DataError

MOST = 1_000  # images with dots that one sample may have; their names are held


class Dots:
    """Looks at a tar's members in order, and refuses images that no sample would have.

    To WebDataset ``a.b.jpg`` is part ``b.jpg`` of sample ``a``: a mask of ``a.jpg``, say, which is
    passed over. Where there is no ``a.jpg``, or ``a.b.cls`` or ``a.b.json`` says that it is a
    sample by itself, it is an image whose name nobody meant so.
    """

    def __init__(self, where: str, images: Collection[str], labels: Collection[str]) -> None:
        self._where, self._images, self._labels = where, images, labels
        self._begin("")

    def _begin(self, key: str) -> None:
        self._key, self._pictured = key, False
        self._dotted: dict[str, str] = {}  # names of images, by what stands before their suffix
        self._labelled: set[str] = set()

    def see(self, name: str, key: str, suffix: str) -> None:
        """Note a member; ``suffix``, in lower case, is what follows its ``key`` and first dot.

        Raises ``DataError`` where the sample before has lost an image, or this one has.
        """
        if key != self._key:
            self.end()
            self._begin(key)
        inner, dot, last = suffix.rpartition(".")
        if not dot:
            self._pictured |= last in self._images
        elif last in self._images:
            self._dotted.setdefault(inner, name)
        elif last in self._labels:
            self._labelled.add(inner)
        if max(len(self._dotted), len(self._labelled)) > MOST:
            self._refuse(name)

    def end(self) -> None:
        """Look at the last sample."""
        for inner, name in self._dotted.items():
            if not self._pictured or inner in self._labelled:
                self._refuse(name)

    def _refuse(self, name: str) -> None:
        key = self._key.removesuffix(".")
        raise DataError(
            f"{self._where} has an image {name!a} that no sample would have: to WebDataset a "
            f"sample's name ends at its first dot, here as {key!a}.\n"
            "Write the tar anew without further dots in its names, or by graft shards --output."
        )
