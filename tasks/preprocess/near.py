"""Nearly the same picture in two splits: re-encoded, resized, brightened, a neighbouring frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.index import ImageRecord
from tasks.measures import Policy
from tasks.preprocess.findings import Finding, Splits, judged
from tasks.preprocess.reading import Pixels
from tasks.values import SplitName
from tasks.words import printable

SIDE = 32  # px, of the picture that the hash looks at
HASHED = 8  # frequencies of each direction that it holds
BLOCK = 1 << 16  # distances computed at once: what fits into a core's cache
NONE = -1
FAR = 255  # bits; more than any two hashes differ by

Hashes = Mapping[str, int]  # of each image by its path
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Pictures(NamedTuple):
    """Some images as the search sees them; equal numbers mean equal files, or labels."""

    hashes: npt.NDArray[np.uint64]  # (n,)
    files: Positions  # (n,)
    labels: Positions  # (n,)


class Matches(NamedTuple):
    """What is near to each of q images among n others."""

    nearest: Positions  # (q,) position among the others, or NONE
    disputed: Positions  # (q,) the nearest with other labels, or NONE
    hit: Mask  # (n,) whether it is near to any


def perceptual_hash(pixels: Pixels) -> int:
    """Return the 64-bit DCT hash of a picture of shape (h, w, 3): that of imagehash's ``phash``.

    Of the grey picture at 32 px, which of the 64 lowest frequencies are above their median. Written
    out, since the library converts and copies the picture once more, which takes longer than the
    rest. The picture is shrunk by Pillow in two steps first (``reducing_gap``): a third of the time
    on a photograph, and no less alike to its copies. A picture of one colour is told from no other
    such.
    """
    from scipy.fft import dctn

    gray = Image.fromarray(pixels).convert("L")
    small = gray.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    low = dctn(np.asarray(small, dtype=np.float64))[:HASHED, :HASHED].ravel()
    above = low > np.sort(low)[len(low) // 2 - 1 : len(low) // 2 + 1].mean()
    return int.from_bytes(np.packbits(above).tobytes(), "big")


def near_duplicates(
    splits: Splits, classes: tuple[str, ...], hashes: Hashes, policy: Policy, distance: int
) -> Finding:
    """Find images of train near to one of val or test, and of val near to one of test.

    Near are different files whose hashes differ by ``distance`` bits at most; the same file is
    another check's. Examples name pairs with different labels first. Under ``drop`` the images
    found are left out, never one of the test.
    """
    val_test = _search("val", ("test",), splits, hashes, distance)
    train_rest = _search("train", ("val", "test"), splits, hashes, distance)
    found = [*train_rest.pairs(splits, classes), *val_test.pairs(splits, classes)]
    found.sort(key=lambda pair: not pair.disputed)
    return judged(
        "near_duplicates",
        policy,
        "image",
        _text(found, val_test.hit_tests | train_rest.hit_tests, len(splits["test"])),
        [pair.example for pair in found],
        [pair.path for pair in found],
    )


def find_near(queries: Pictures, others: Pictures, distance: int) -> Matches:
    """Compare every query with every other image, in blocks: exact at any distance, flat in memory.

    XOR and a count of bits of all pairs; 80,000 images against 20,000 others are 1.6e9 pairs, two
    seconds of one core. Bands of bits (pigeonhole), which prune at 4 bits, prune none at 16.
    """
    q, n = len(queries.hashes), len(others.hashes)
    matches = Matches(np.full(q, NONE), np.full(q, NONE), np.zeros(n, dtype=bool))
    step = max(1, BLOCK // max(1, n))
    for start in range(0, q if n else 0, step):
        rows = slice(start, start + step)
        bits_qn = np.bitwise_count(queries.hashes[rows, None] ^ others.hashes)
        close = np.flatnonzero(bits_qn.min(axis=1) <= distance)
        if len(close):
            _note(matches, start + close, bits_qn[close], queries, others, distance)
    return matches


def _note(
    matches: Matches,
    rows: Positions,
    bits_kn: npt.NDArray[np.uint8],
    queries: Pictures,
    others: Pictures,
    distance: int,
) -> None:
    """Fill in the matches of some rows, each of which has a near hash."""
    near_kn = (bits_kn <= distance) & (queries.files[rows, None] != others.files)
    other_kn = near_kn & (queries.labels[rows, None] != others.labels)
    matches.hit[:] |= near_kn.any(axis=0)
    for target, mask_kn in ((matches.nearest, near_kn), (matches.disputed, other_kn)):
        first = np.where(mask_kn, bits_kn, FAR).argmin(axis=1)
        target[rows] = np.where(mask_kn.any(axis=1), first, NONE)


class _Pair(NamedTuple):
    path: str
    example: str
    disputed: bool  # under other labels


class _Search(NamedTuple):
    """Images of one split that are near to one of later splits."""

    split: SplitName
    others: list[tuple[SplitName, ImageRecord]]
    matches: Matches

    @property
    def hit_tests(self) -> set[str]:
        """Return the paths of the test images that are near to one of this split."""
        hit = (self.others[i] for i in np.flatnonzero(self.matches.hit).tolist())
        return {record.path for name, record in hit if name == "test"}

    def pairs(self, splits: Splits, classes: tuple[str, ...]) -> list[_Pair]:
        """Return each image found, with what it is near to: where it can be, of other labels."""
        records = splits[self.split]
        return [
            self._pair(records[row], row, classes)
            for row in np.flatnonzero(self.matches.nearest != NONE).tolist()
        ]

    def _pair(self, record: ImageRecord, row: int, classes: tuple[str, ...]) -> _Pair:
        disputed = self.matches.disputed[row] != NONE
        places = self.matches.disputed if disputed else self.matches.nearest
        name, other = self.others[places[row]]
        one, two = (
            f"{printable(each.path)} ({split}{_labels(each, classes) if disputed else ''})"
            for split, each in ((self.split, record), (name, other))
        )
        return _Pair(record.path, f"{one} ~ {two}", bool(disputed))


def _labels(record: ImageRecord, classes: tuple[str, ...]) -> str:
    return "".join(f", {classes[label]!r}" for label in record.labels) or ", no label"


def _search(
    split: SplitName, later: Sequence[SplitName], splits: Splits, hashes: Hashes, distance: int
) -> _Search:
    others = [(name, record) for name in later for record in splits[name]]
    numbers: dict[object, int] = {}

    def pictures(records: Sequence[ImageRecord]) -> Pictures:
        columns = (
            [numbers.setdefault(key, len(numbers)) for key in keys]
            for keys in ([r.sha256 for r in records], [r.labels for r in records])
        )
        files, labels = (np.array(column, dtype=np.int64) for column in columns)
        codes = np.array([hashes[record.path] for record in records], dtype=np.uint64)
        return Pictures(codes, files, labels)

    matches = find_near(pictures(splits[split]), pictures([r for _, r in others]), distance)
    return _Search(split, others, matches)


def _text(found: Sequence[_Pair], hit_tests: set[str], tests: int) -> str:
    disputed = sum(pair.disputed for pair in found)
    labels = f", {disputed:,} of them under other labels" if disputed else ""
    return (
        f"{len(found):,} image(s) of train or val have a near copy in a later split{labels}, and "
        f"{len(hit_tests):,} of {tests:,} test images are near copies"
    )
