"""How many items the engine gets at once."""

from __future__ import annotations

import pytest

from pipelines.evaluation.evaluate import next_size


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
