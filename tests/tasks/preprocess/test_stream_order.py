"""The order of a stream: every image once, nothing held beyond its bounds, and how random it is."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tasks.preprocess.stream_order import Limits, deal, interleaved, through_buffer


class Numbered(NamedTuple):
    number: int
    image: bytes = b"12345678"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_parts_are_of_equal_size_and_share_no_image(processes, seed):
    sizes = np.random.default_rng(seed).integers(1, 40, 9).tolist()
    order = deal(sizes, 5, processes, generator(seed))
    parts = [
        [(piece.shard, i) for piece in part for i in range(piece.start, piece.stop)]
        for part in order.parts
    ]
    images = list(itertools.chain(*parts))
    assert len(set(images)) == len(images)
    assert {len(part) for part in parts} == {sum(sizes) // processes}
    assert all(0 <= i < sizes[shard] for shard, i in images)
    assert len(order) == 5 * processes
    # only a shard that a cut goes through is read twice
    pieces = Counter(piece.shard for part in order.parts for piece in part)
    assert sum(pieces.values()) <= len(sizes) + processes - 1


def test_every_shard_is_as_often_in_every_place():
    draws = generator()
    first = Counter(deal([10] * 5, 10, 2, draws).parts[0][0].shard for _ in range(2_000))
    assert chisquare(list(first.values())).pvalue > 1e-4


def test_the_order_follows_from_the_generator_alone():
    assert deal([3, 4, 5], 6, 2, generator(1)) == deal([3, 4, 5], 6, 2, generator(1))
    draws = generator(1)
    assert deal([3] * 9, 6, 2, draws) != deal([3] * 9, 6, 2, draws)


def test_a_buffer_that_holds_all_gives_every_order_alike():
    orders = Counter(
        tuple(each.number for each in through_buffer(map(Numbered, range(4)), random, Limits()))
        for random in map(Random, range(4_800))
    )
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 1e-4


@pytest.mark.parametrize("limits", [Limits(images=10), Limits(size=85)])
def test_a_buffer_holds_no_more_than_it_may(limits):
    came: list[int] = []

    def coming() -> Iterator[Numbered]:
        for number in range(100):
            came.append(number)
            yield Numbered(number)

    left = []
    for each in through_buffer(coming(), Random(0), limits):
        left.append(each.number)
        assert len(came) - len(left) <= 10  # of eight bytes
    assert sorted(left) == list(range(100))
    # an image can wait long, but none comes before it was there
    assert all(number <= place + 10 for place, number in enumerate(left))


def test_an_image_larger_than_the_buffer_goes_through():
    large = [Numbered(i, bytes(100)) for i in range(3)]
    through = through_buffer(large, Random(0), Limits(size=50))
    assert sorted(each.number for each in through) == [0, 1, 2]


class Streams:
    """Streams of 10 numbers each; notes which are open, and how many at once."""

    def __init__(self, n: int, slow: bool = False) -> None:
        self.n, self.slow = n, slow
        self.opened: set[int] = set()
        self.most = 0

    def stream(self, which: int) -> Iterator[Numbered]:
        self.opened.add(which)
        self.most = max(self.most, len(self.opened))
        try:
            for i in range(10):
                if self.slow:
                    time.sleep(0.002 * Random(which * 10 + i).random())
                yield Numbered(10 * which + i, bytes(300_000))  # four fill a chunk
        finally:
            self.opened.discard(which)

    def all(self):
        return (lambda which=which: self.stream(which) for which in range(self.n))


def test_a_few_streams_are_open_at_once_and_each_comes_whole_and_in_order():
    streams = Streams(12)
    with ThreadPoolExecutor(4) as pool:
        numbers = [each.number for each in interleaved(streams.all(), 3, Random(0), pool)]
    assert sorted(numbers) == list(range(120))
    for which in range(12):
        assert [n for n in numbers if n // 10 == which] == list(range(10 * which, 10 * which + 10))
    assert streams.most == 4  # the next one is begun already
    assert len({n // 10 for n in numbers[:12]}) == 3
    assert streams.opened == set()


def test_the_order_is_the_same_however_long_reading_takes():
    found = []
    for slow in (False, True):
        with ThreadPoolExecutor(4) as pool:
            streams = interleaved(Streams(6, slow).all(), 3, Random(5), pool)
            found.append([each.number for each in streams])
    assert found[0] == found[1]


def test_what_is_left_early_is_closed():
    streams = Streams(12)
    with ThreadPoolExecutor(4) as pool:
        mixed = interleaved(streams.all(), 3, Random(0), pool)
        next(mixed)
        assert len(streams.opened) >= 1
        mixed.close()
        assert streams.opened == set()
