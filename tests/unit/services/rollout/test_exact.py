"""The small exact tests against scipy, and their level by exhaustive sums and by simulation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from services.rollout import exact

SMALL = st.integers(0, 60)


@given(SMALL, SMALL, st.floats(0.001, 0.999))
def test_the_binomial_tail_is_scipys(successes: int, trials: int, rate: float) -> None:
    assert exact.binomial_tail(successes, trials, rate) == pytest.approx(stats.binom.sf(successes - 1, trials, rate))


@given(SMALL, SMALL, st.integers(1, 60), SMALL)
def test_the_hypergeometric_tail_is_scipys(hits: int, marked: int, unmarked: int, draws: int) -> None:
    draws = min(draws, marked + unmarked)
    expected = stats.hypergeom.sf(hits - 1, marked + unmarked, marked, draws)
    assert exact.hypergeometric_tail(hits, marked + unmarked, marked, draws) == pytest.approx(expected, abs=1e-12)


def test_tails_hold_for_counts_of_production_size() -> None:
    assert exact.binomial_tail(1100, 100_000, 0.01) == pytest.approx(stats.binom.sf(1099, 100_000, 0.01), rel=1e-6)
    assert exact.hypergeometric_tail(60, 101_000, 1000, 5050) == pytest.approx(
        stats.hypergeom.sf(59, 101_000, 1000, 5050), rel=1e-6
    )


@given(SMALL, SMALL, st.sampled_from([0.001, 0.01, 0.05]))
def test_the_upper_bound_is_clopper_and_pearsons(successes: int, trials: int, level: float) -> None:
    expected = stats.beta.ppf(1 - level, successes + 1, trials - successes) if successes < trials else 1.0
    assert exact.rate_upper_bound(successes, trials, level) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("canary", "stable"), [(3, 20), (10, 30), (20, 20)])
@pytest.mark.parametrize("stable_rate", [0.0, 0.02, 0.3])
def test_a_canary_worse_by_just_the_margin_fails_with_at_most_the_level(
    canary: int, stable: int, stable_rate: float
) -> None:
    level, margin = 0.05, 0.02
    chance = sum(
        stats.binom.pmf(c, canary, stable_rate + margin) * stats.binom.pmf(s, stable, stable_rate)
        for c in range(canary + 1)
        for s in range(stable + 1)
        if exact.rate_increase_p_value((c, canary), (s, stable), margin, level) < level
    )
    assert chance <= level


@pytest.mark.parametrize(("canary", "stable"), [(3, 20), (20, 20), (50, 200)])
def test_a_canary_as_slow_as_stable_fails_with_at_most_the_level(canary: int, stable: int) -> None:
    generator, level, num_trials = random.Random(7), 0.05, 2000
    rejected = 0
    for _ in range(num_trials):
        stable_s = [generator.lognormvariate(0, 1) for _ in range(stable)]
        quantile_s, rank = exact.quantile(stable_s, 0.95)
        exceeding = sum(generator.lognormvariate(0, 1) > quantile_s for _ in range(canary))
        rejected += exact.exceedance_p_value(exceeding, canary, stable, rank) < level
    assert rejected / num_trials <= level + 3 * (level * (1 - level) / num_trials) ** 0.5


def test_the_exceedance_test_tends_to_the_binomial_one() -> None:
    many = 1_000_000
    assert exact.exceedance_p_value(6, 30, many, int(0.95 * many)) == pytest.approx(
        exact.binomial_tail(6, 30, 0.05), rel=1e-3
    )


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.5, (2.0, 2)), (0.95, (4.0, 4)), (0.01, (1.0, 1)), (0.75, (3.0, 3))]
)
def test_quantiles_are_values_that_were_seen(fraction: float, expected: tuple[float, int]) -> None:
    assert exact.quantile([3.0, 1.0, 4.0, 2.0], fraction) == expected
