"""E-values: expectation at most 1 by exact sums, the projection against a slow one, and levels by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats

from services.rollout import sequential
from services.rollout.sequential import bet, growth, log_e_mean, log_e_rate_alone, log_e_rates, mix, rate_bound

RATES = st.floats(0.001, 0.95)


def expectation(n_s: int, n_c: int, truth: tuple[float, float], aim: tuple[float, float], margin: float,
                null: sequential.Null) -> float:  # fmt: skip
    """E[e] over every outcome of a block, exactly."""
    k_s, k_c = np.meshgrid(np.arange(n_s + 1), np.arange(n_c + 1), indexing="ij")
    chance = _binomial(k_s, n_s, truth[0]) * _binomial(k_c, n_c, truth[1])
    return float((chance * np.exp(log_e_rates((n_s, k_s), (n_c, k_c), aim, margin, null))).sum())


def _binomial(k: sequential.Array, n: int, p: float) -> sequential.Array:
    """SciPy's own overflows where p is the smallest of numbers."""
    return np.asarray(special.comb(n, k) * p**k * (1 - p) ** (n - k))


@given(
    st.integers(1, 12), st.integers(1, 6), RATES, st.floats(0, 1), RATES, RATES, st.floats(-0.05, 0.2), st.booleans()
)
def test_the_expectation_under_the_null_is_at_most_one(
    n_s: int, n_c: int, p_s: float, place: float, a: float, b: float, margin: float, harm: bool
) -> None:
    border = min(max(p_s + margin, 0.0), 1.0)
    if harm:
        p_c, null = border * place, "at_most"
    else:
        p_c, null = border + (1 - border) * place, "at_least"
    p_c = p_c if p_c > 1e-300 else 0.0  # scipy's pmf overflows on rates that are next to no number at all
    inside = p_c <= p_s + margin if harm else p_c >= p_s + margin
    if inside:
        assert expectation(n_s, n_c, (p_s, p_c), (a, b), margin, null) <= 1 + 1e-9


def test_on_the_border_next_to_nothing_is_given_away() -> None:
    x, _ = sequential._project(np.array(9.0), np.array(3.0), np.array(0.02), np.array(0.2), np.array(0.05))
    assert expectation(9, 3, (float(x), float(x) + 0.05), (0.02, 0.2), 0.05, "at_most") == pytest.approx(1, abs=1e-6)


def test_rates_that_drift_inside_a_block_keep_the_level_if_their_means_do() -> None:
    stable, canary, margin = (0.0, 0.3, 0.6), (0.5, 0.1), 0.0  # means 0.3 and 0.3
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=5):
        chance = math.prod(p if hit else 1 - p for p, hit in zip((*stable, *canary), outcome, strict=True))
        value = log_e_rates((3, sum(outcome[:3])), (2, sum(outcome[3:])), (0.2, 0.6), margin, "at_most")
        total += chance * math.exp(value)
    assert total <= 1


def slow_log_e(n_s: int, k_s: int, n_c: int, k_c: int, a: float, b: float, margin: float) -> float:
    """By the definition: likelihoods, and a general minimiser for the projection."""

    def distance(x: float) -> float:
        def kl(p: float, q: float) -> float:
            return float(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))

        return n_s * kl(a, x) + n_c * kl(b, x + margin)

    ends = max(0.0, -margin) + 1e-12, min(1.0, 1 - margin) - 1e-12
    x = optimize.minimize_scalar(distance, bounds=ends, method="bounded", options={"xatol": 1e-13}).x
    alternative = stats.binom.logpmf(k_s, n_s, a) + stats.binom.logpmf(k_c, n_c, b)
    return float(alternative - stats.binom.logpmf(k_s, n_s, x) - stats.binom.logpmf(k_c, n_c, x + margin))


@given(st.integers(1, 400), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.floats(0.002, 0.4), st.floats(0.01, 0.5),
       st.sampled_from([0.0, 0.005, 0.1]))  # fmt: skip
def test_it_is_the_likelihood_ratio_to_the_projection(
    n_s: int, n_c: int, s: float, c: float, a: float, beyond: float, margin: float
) -> None:
    k_s, k_c, b = round(s * n_s), round(c * n_c), a + margin + beyond * (1 - a - margin)
    expected = slow_log_e(n_s, k_s, n_c, k_c, a, b, margin)
    assert log_e_rates((n_s, k_s), (n_c, k_c), (a, b), margin, "at_most") == pytest.approx(expected, abs=1e-3, rel=1e-3)


@pytest.mark.parametrize(("ratio", "margin"), [(1, 0.005), (50, 0.005), (1e6, 0.005), (1e6, 0.0), (99, -0.01)])
def test_the_projection_is_found_to_the_last_digits(ratio: float, margin: float) -> None:
    _, rest = sequential._project(np.array(ratio), np.array(1.0), np.array(0.02), np.array(0.1), np.array(margin))
    assert abs(float(rest)) < 1e-6


@pytest.mark.parametrize("sides", [((0, 0), (3, 3)), ((5, 0), (0, 0))])
def test_a_side_without_requests_tells_nothing(sides: tuple[tuple[int, int], tuple[int, int]]) -> None:
    assert log_e_rates(*sides, (0.01, 0.5), 0.0, "at_most") == 0


def test_an_alternative_inside_the_null_tells_nothing() -> None:
    assert log_e_rates((10, 0), (10, 9), (0.1, 0.1), 0.02, "at_most") == 0
    assert log_e_rates((10, 9), (10, 0), (0.1, 0.2), 0.02, "at_least") == 0


def test_without_a_margin_and_with_all_of_stable_known_the_growth_is_the_relative_entropy() -> None:
    kl = special.rel_entr(0.05, 0.01) + special.rel_entr(0.95, 0.99)
    assert growth(1e9, (0.01, 0.05), (0.01, 0.05), 0.0, "at_most") == pytest.approx(kl, rel=1e-5)


def test_a_mixture_is_the_logarithm_of_the_average() -> None:
    assert mix(np.log([1.0, 9.0]), (0.75, 0.25)) == pytest.approx(math.log(3))
    assert mix(np.array([[-800.0, 800.0]]), (0.5, 0.5)) == pytest.approx(800 + math.log(0.5))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.floats(0, 0.3), st.floats(0.01, 0.9))
def test_a_bet_on_a_mean_is_fair_at_best(values: list[float], margin: float, effect: float) -> None:
    mean = float(np.mean(values))
    shifted = [v - max(0.0, mean - margin) for v in values]  # uniform on these, with a mean of at most `margin`
    stake = bet(effect, 0.1, margin)
    inside = [v for v in shifted if v >= -1]
    if len(inside) == len(shifted):
        assert np.mean(np.exp(log_e_mean(shifted, stake, margin))) <= 1 + 1e-9


def test_bets_never_lose_everything() -> None:
    assert np.isfinite(log_e_mean([-1.0], bet(1.0, 0.0, 0.5), 0.5)).all()


@given(st.integers(1, 30), st.floats(0.01, 0.9), st.floats(0.01, 0.95))
def test_alone_the_canary_is_tested_against_a_fixed_border(n: int, border: float, rate: float) -> None:
    hits = np.arange(n + 1)
    for null in ("at_most", "at_least"):
        values = np.exp(log_e_rate_alone((n, hits), rate, border, null))
        assert (stats.binom.pmf(hits, n, border) * values).sum() <= 1 + 1e-9


def test_a_bound_on_a_rate_holds_at_all_times_together() -> None:
    generator, rate, level = np.random.default_rng(5), 0.03, 0.1
    hits = np.cumsum(generator.random((400, 1500)) < rate, axis=1)[:, 9::10]
    number = np.broadcast_to(np.arange(10, 1501, 10), hits.shape)
    missed = (rate_bound(number, hits, level, "upper") < rate).any(axis=1).mean()
    assert missed <= level
    assert (rate_bound(number, hits, level, "lower") > rate).any(axis=1).mean() <= level
    assert rate_bound(0, 0, level, "upper") > 0.999
    assert rate_bound(10_000, 300, level, "upper") == pytest.approx(0.0365, abs=0.002)


@pytest.mark.parametrize("rate", [1e-7, 1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 99.0, 5000.0])
@pytest.mark.parametrize("margin", [0.0, 0.005, 0.3])
def test_the_projection_is_found_though_stable_hardly_ever_fails(rate: float, ratio: float, margin: float) -> None:
    """What is not found is paid for: a test of a service without errors would be blind."""
    _, rest = sequential._project(np.array(10 * ratio), np.array(10.0), np.array(rate), np.array(0.5), np.array(margin))
    assert abs(rest) < 1e-5
