"""No token is lost, and the data's order is a function of (seed, epoch, step, rank) alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.packing import (
    Share,
    Stream,
    checksum,
    epoch_order,
    mixed,
    num_sequences,
    positions,
    sequence_ids,
)


def stream(*lengths: int) -> tuple[Stream, list[int]]:
    """Shards of those lengths that count up, and the same as one list."""
    ends = np.cumsum([0, *lengths])
    shards = [np.arange(a, b, dtype="<u2") for a, b in pairwise(ends)]
    return Stream(shards), list(range(int(ends[-1])))


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda lengths: sum(lengths) > 0), st.integers(1, 50)
)
def test_sequences_are_the_stream_and_its_beginning_again(lengths: list[int], length: int) -> None:
    tokens, flat = stream(*lengths)
    num = num_sequences(len(tokens), length)
    packed = [token for index in range(num) for token in tokens.sequence(index, length).tolist()]
    assert len(packed) == num * length
    assert packed[: len(flat)] == flat
    assert packed[len(flat) :] == [flat[i % len(flat)] for i in range(num * length - len(flat))]
    assert num * length - len(flat) < length


def test_a_sequence_crosses_shards() -> None:
    tokens, _ = stream(5, 0, 2, 6)
    assert tokens.sequence(1, 4).tolist() == [4, 5, 6, 7]
    assert tokens.sequence(3, 4).tolist() == [12, 0, 1, 2]
    assert tokens.sequence(0, 4).dtype == np.int64


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (2, 3), (3, 2)])
def test_an_epoch_visits_each_sequence_once(world: int, accumulation: int) -> None:
    steps, num = 4, 4 * world * accumulation * 2
    seen = Counter(
        sequence
        for step in range(steps)
        for rank in range(world)
        for micro in range(accumulation)
        for sequence in sequence_ids(Share(rank, world, 2, accumulation), step, micro, num, seed=7)
    )
    assert seen == Counter(range(num))


def test_epochs_and_seeds_differ_and_repeat_exactly() -> None:
    first, second, other = epoch_order(100, 0, 0), epoch_order(100, 0, 1), epoch_order(100, 1, 0)
    assert sorted(first) == sorted(second) == sorted(other) == list(range(100))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    epoch_order.cache_clear()
    assert np.array_equal(first, epoch_order(100, 0, 0))


def test_a_step_s_data_does_not_depend_on_the_steps_before() -> None:
    share = Share(rank=1, world_size=2, sequences=3)
    whole = [sequence_ids(share, step, 0, 10, seed=3) for step in range(9)]
    epoch_order.cache_clear()
    assert [sequence_ids(share, step, 0, 10, seed=3) for step in range(5, 9)] == whole[5:]
    assert whole[0] != whole[5]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_positions_count_from_each_document_s_beginning(tokens: list[int]) -> None:
    expected, place = [], 0
    for token in tokens:
        expected.append(place)
        place = 0 if token == 0 else place + 1
    assert positions(np.array(tokens), end=0).tolist() == expected


def test_checksums_add_up_over_ranks_and_tell_sets_with_one_sum_apart() -> None:
    assert (checksum([5, 1]) + checksum([9])) % 2**32 == checksum([9, 5, 1])
    assert len({checksum([a, 100 - a]) for a in range(51)}) == 51
    assert checksum([4, 4]) != checksum([4])


@given(st.floats(0.001, 0.999), st.integers(0, 10_000))
def test_two_sources_share_the_places_evenly_and_in_order(fraction: float, first: int) -> None:
    for place in range(first, first + 50):
        is_second, own = mixed(place, fraction)
        seconds = int(place * fraction)
        assert own == (seconds if is_second else place - seconds)
        assert abs((seconds + is_second) - (place + 1) * fraction) <= 1 + 1e-9
