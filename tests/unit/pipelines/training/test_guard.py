"""What is a spike and what is noise, and that a skipped batch shifts the rest by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.training.guard import data_step, trouble

NOISY = (3.0 + 0.1 * np.random.default_rng(0).standard_normal(500)).tolist()


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_stands(loss: float) -> None:
    assert trouble(loss, [], None) == "the loss is not a number"


def test_noise_passes_and_a_spike_does_not() -> None:
    assert not [n for n in range(len(NOISY)) if trouble(NOISY[n], NOISY[:n], 10)]
    assert trouble(4.5, NOISY, 10) == f"the loss rose to 4.500, where {np.median(NOISY[-32:]):.3f} was usual"
    assert trouble(4.5, NOISY, None) is None
    assert trouble(4.5, NOISY[:15], 10) is None  # too few to know


def test_one_earlier_outlier_does_not_hide_the_next() -> None:
    assert trouble(4.5, [*NOISY[:31], 50.0], 10)


def test_a_flat_or_falling_curve_is_no_reason_to_be_strict() -> None:
    assert trouble(2.15, [2.0] * 40, 10) is None
    assert trouble(2.25, [2.0] * 40, 10)
    assert not [n for n in range(1, 200) if trouble(9 / n**0.5, [9 / k**0.5 for k in range(1, n)], 10)]


def test_the_data_of_skipped_steps_is_left_out() -> None:
    assert [data_step(step, ()) for step in range(4)] == [0, 1, 2, 3]
    assert [data_step(step, (2, 5, 3)) for step in range(6)] == [0, 1, 4, 6, 7, 8]
    assert [data_step(step, (0,)) for step in range(3)] == [1, 2, 3]
