"""What is a spike and what is noise, and that a skipped batch shifts the rest by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cluster.artifacts import Incident
from pipelines.training.guard import Kept, data_step, suspects, trouble, way_back

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


def incident(step: int, back_to: int = 0) -> Incident:
    return Incident(step=step, reason="", sequences_checksum=0, back_to_step=back_to)


def test_the_same_step_again_makes_the_step_before_suspect() -> None:
    assert suspects(14, 13, (), ()) == (13,)
    assert suspects(14, 15, (incident(9),), (8,)) == (15,)
    assert suspects(14, 14, (incident(14),), (13,)) == (12, 14)
    assert suspects(14, 15, (incident(14), incident(14)), (13, 12)) == (14, 15)
    assert suspects(1, 1, (incident(1),), (0,)) == (1,)


@pytest.mark.parametrize(
    ("kept", "step", "incidents", "place"),
    [
        ([Kept(10, 0), Kept(20, 0)], 25, (), 1),
        ([Kept(10, 0), Kept(20, 0)], 21, (), 0),  # nothing was computed with the weights of 20 yet
        ([Kept(20, 0)], 21, (), 0),  # there is no other
        ([Kept(20, 0)], 21, (incident(21, 20),), None),  # it was tried
        ([], 5, (), None),
        ([Kept(10, 0), Kept(20, 0)], 21, (incident(21, 10),), 0),
        ([Kept(20, 0), Kept(20, 1)], 25, (incident(21, 10),), 1),  # the first one is of before the way back to 10
        ([Kept(20, 0)], 25, (incident(21, 10),), None),
        ([Kept(30, 1), Kept(10, 0)], 35, (incident(21, 10),), 0),
    ],
)
def test_the_way_back_is_to_weights_that_were_seen_to_be_good(
    kept: list[Kept], step: int, incidents: tuple[Incident, ...], place: int | None
) -> None:
    assert way_back(kept, step, incidents) == place
