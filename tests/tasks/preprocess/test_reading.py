"""Parallel reading: in order, bounded ahead, errors passed on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from tasks.index import read_index
from tasks.preprocess.reading import AHEAD, read_images
from tasks.register.serving_decoders import Decoders
from tasks.values import RawDataset

MakeRaw = Callable[..., RawDataset]


def test_images_come_in_the_order_of_the_records(
    make_raw: MakeRaw, photographs: dict[str, bytes]
) -> None:
    raw = make_raw(photographs)
    records = read_index(raw.index)[::-1]
    read = list(read_images(raw.root, records, lambda pixels: pixels))
    assert [record for record, _ in read] == records
    sizes = [pixels.shape[0] for _, pixels in read]
    assert sizes == [40 + int(record.path[-6:-4]) for record in records]


def test_no_more_threads_decode_than_a_container_may_have_processors(
    make_raw: MakeRaw, photographs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container of two processors on a machine of 64 would decode 64 images at once."""
    raw = make_raw(photographs)
    records = read_index(raw.index) * 10

    def threads() -> int:
        names = (read for _, read in read_images(raw.root, records, _name))
        return len(set(names))

    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # as a limit of cgroups, which joblib reads too
    assert threads() == 1
    assert Decoders(50)._ordinary._max_workers == 1


def _name(_: np.ndarray) -> str:
    return threading.current_thread().name


def test_no_more_than_a_window_is_decoded_ahead(
    make_raw: MakeRaw, photographs: dict[str, bytes]
) -> None:
    raw = make_raw(photographs)
    records = read_index(raw.index) * 20
    viewed, lock = 0, threading.Lock()

    def view(pixels: np.ndarray) -> np.ndarray:
        nonlocal viewed
        with lock:
            viewed += 1
        return pixels[:1, :1]

    reading = read_images(raw.root, records, view)
    for taken in range(1, 200):
        next(reading)
        assert viewed <= taken + AHEAD
    reading.close()


def test_an_error_of_the_view_is_not_swallowed(
    make_raw: MakeRaw, photographs: dict[str, bytes]
) -> None:
    raw = make_raw(photographs)

    def view(_: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_images(raw.root, read_index(raw.index), view))
