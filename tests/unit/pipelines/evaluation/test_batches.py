"""How many items the engine gets at once."""

from __future__ import annotations

import pytest

from pipelines.evaluation.reference import batches
from pipelines.evaluation.sharing import next_size


@pytest.mark.parametrize(
    ("num_items", "took_s", "expected"),
    [
        (24, 60.0, 12),  # too long: a smaller one
        (24, 30.0, 24),
        (24, 15.0, 48),
        (24, 0.1, 192),  # a fast engine: eight times as many, not all at once
        (24, 0.0, 192),  # a clock that did not move
        (1, 4000.0, 1),  # never none
    ],
)
def test_a_batch_takes_about_half_a_minute(num_items: int, took_s: float, expected: int) -> None:
    assert next_size(num_items, took_s) == expected


def test_what_is_padded_together_is_of_like_length_and_bounded() -> None:
    lengths = [3, 100, 4, 90, 2000, 5]
    found = list(batches(lengths, 200))
    assert found == [[4], [1, 3], [5, 2, 0]], "one that is too long goes alone"
    assert list(batches([], 200)) == []
