"""A canary has the replicas of its share before it gets the share."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.room import replicas_needed

PERCENT = st.floats(0, 100)
COUNT = st.integers(0, 100)


@pytest.mark.parametrize(
    ("num_stable", "before", "weight", "needed"),
    [
        (4, 0, 1, 1),
        (4, 0, 25, 2),  # 4 x 1/3
        (4, 0, 50, 4),
        (3, 25, 50, 3),
        (2, 50, 100, 4),  # stable's two carry half of the users
        (4, 0, 100, 4),
        (0, 0, 5, 1),  # stable is asleep
        (4, 100, 100, 1),
        (4, 5, 0, 0),
    ],
)
def test_examples(num_stable: int, before: float, weight: float, needed: int) -> None:
    assert replicas_needed(num_stable, before, weight) == needed


@given(COUNT, st.floats(0.001, 99.9))
def test_at_its_own_weight_a_canary_has_what_its_share_takes(num_stable: int, weight: float) -> None:
    share = weight / 100
    assert replicas_needed(num_stable, weight, weight) >= math.floor(share / (1 - share) * num_stable)


@given(COUNT, PERCENT, PERCENT, PERCENT)
def test_more_users_never_need_fewer(num_stable: int, before: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert replicas_needed(num_stable, before, low) <= replicas_needed(num_stable, before, high)


@given(st.integers(1, 100), st.floats(0, 99), PERCENT)
def test_never_more_than_all_users_need(num_stable: int, before: float, weight: float) -> None:
    assert replicas_needed(num_stable, before, weight) <= math.ceil(num_stable / (1 - before / 100) + 1e-6)
