"""The paired tests: their levels by enumeration and simulation, hand-computed values, and how many items they say they need."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from pipelines.evaluation.paired.binary import Binary
from pipelines.evaluation.paired.bounded import Bounded
from pipelines.evaluation.paired.likelihood import MIN_ITEMS, RESAMPLES, Likelihood
from pipelines.evaluation.paired.sample import Sample, highest, lowest


def trinomial(n: int, lost: int, gained: int, losing: float, gaining: float) -> float:
    ways = math.comb(n, lost) * math.comb(n - lost, gained)
    return ways * losing**lost * gaining**gained * (1 - losing - gaining) ** (n - lost - gained)


# --- right or wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.05, 0.2])
def test_at_its_limit_the_exact_test_errs_at_most_at_its_level_whatever_the_discordance(limit: float) -> None:
    n = 24
    tables = [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]
    excluded = np.array([Binary(n, *table).p_at_least(limit) for table in tables])
    established = np.array([Binary(n, *table).p_at_most(limit) for table in tables])
    for gaining in (0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.35):
        chances = np.array([trinomial(n, lost, gained, gaining + limit, gaining) for lost, gained in tables])
        for level in (0.05, 0.01, 0.003):
            assert chances[excluded <= level].sum() <= level + 1e-9
            assert chances[established <= level].sum() <= level + 1e-9


def test_without_a_margin_it_is_mcnemars_test() -> None:
    # At a limit of 0 the items that differ decide: about Binomial(20, 1/2) at 4 or less, 0.0059, where so many differ.
    assert Binary(4000, 4, 16).p_at_least(0) == pytest.approx(0.0059, rel=0.4)
    assert Binary(100, 5, 5).p_at_least(0) > 0.5


def test_none_lost_of_n_excludes_no_more_than_the_binomial_does() -> None:
    # If all harm is loss, P(none lost) = (1 - D)^n: the rule of three.
    assert 0.95**96 <= Binary(96, 0, 0).p_at_least(0.05) <= 2 * 0.95**96
    assert Binary(50, 3, 0).p_at_most(0.01) >= 1 - sum(trinomial(50, k, 0, 0.01, 0) for k in range(3))


def test_limits_that_no_harm_reaches() -> None:
    assert Binary(10, 5, 0).p_at_least(1.0) == 0
    assert Binary(10, 0, 5).p_at_most(-1.0) == 0


def test_ten_thousand_items_take_no_time_to_speak_of() -> None:
    assert Binary(10_000, 300, 290).p_at_least(0.01) < 0.001


# --- bounded scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rare", [0.01, 0.05, 0.5])
def test_betting_errs_at_most_at_its_level_also_when_harm_is_rare_and_large(rare: float) -> None:
    drawer, n, wrong = np.random.default_rng(1), 60, np.zeros(2)
    for _ in range(600):
        harms = np.where(drawer.random(n) < rare, 0.8, 0.0) + drawer.normal(0, 0.02, n).clip(-0.1, 0.1)
        sample = Bounded(harms)
        wrong += sample.p_at_least(0.8 * rare) <= 0.05, sample.p_at_most(0.8 * rare) <= 0.05
    assert (wrong / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)).all()


def test_betting_does_not_take_the_unseen_for_impossible() -> None:
    # (1 - D)^n: of 58 items without any harm a mean of 5 % can just be excluded at 5 %, a t-test would say so of two items.
    assert Bounded(np.zeros(10)).p_at_least(0.05) > 0.5
    assert Bounded(np.zeros(100)).p_at_least(0.05) < 0.05 < Bounded(np.zeros(55)).p_at_least(0.05)


def test_the_order_of_items_does_not_matter() -> None:
    harms = np.random.default_rng(0).normal(0, 0.1, 50)
    assert Bounded(harms).p_at_least(0.05) == pytest.approx(Bounded(harms[::-1]).p_at_least(0.05))


# --- log-likelihoods --------------------------------------------------------------------------------------------------


def likelihood(drawer: np.random.Generator, n: int, log_ratio: float, spread: float = 3.0) -> Likelihood:
    tokens = drawer.integers(150, 300, n).astype(float)
    return Likelihood(log_ratio * tokens + drawer.normal(0, spread, n), tokens)


def test_the_bootstrap_keeps_about_its_level_at_the_limit() -> None:
    drawer, wrong = np.random.default_rng(2), np.zeros(2)
    for _ in range(400):
        sample = likelihood(drawer, 30, math.log(1.05))
        wrong += sample.p_at_least(0.05) <= 0.05, sample.p_at_most(0.05) <= 0.05
    assert (wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)).all()


def test_perplexity_harm_is_the_ratio_and_a_handful_of_items_says_nothing() -> None:
    sample = Likelihood(np.full(MIN_ITEMS, 10.0), np.full(MIN_ITEMS, 100.0))
    assert sample.harm == pytest.approx(math.exp(0.1) - 1)
    assert sample.p_at_least(0.2) == pytest.approx(1 / (RESAMPLES + 1))  # no scatter at all
    assert sample.p_at_least(0.05) == 1
    few = Likelihood(np.full(MIN_ITEMS - 1, 10.0), np.full(MIN_ITEMS - 1, 100.0))
    assert few.p_at_least(0.2) == few.p_at_most(0.0) == 1


# --- all three --------------------------------------------------------------------------------------------------------


def binary(drawer: np.random.Generator, n: int) -> Sample:
    lost, gained, _ = drawer.multinomial(n, [0.04, 0.04, 0.92])
    return Binary(n, int(lost), int(gained))


DRAWS: dict[str, Callable[[np.random.Generator, int], Sample]] = {
    "binary": binary,
    "bounded": lambda drawer, n: Bounded(drawer.normal(0, 0.1, n).clip(-1, 1)),
    "likelihood": lambda drawer, n: likelihood(drawer, n, 0.0, 30.0),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_on_as_many_items_as_it_says_a_model_as_good_passes_about_as_often_as_declared(kind: str) -> None:
    drawer = np.random.default_rng(3)
    needed = math.ceil(DRAWS[kind](drawer, 4000).items_needed(0.05, 0.0, 0.05, 0.8))
    passed = np.mean([DRAWS[kind](drawer, needed).p_at_least(0.05) <= 0.05 for _ in range(300)])
    assert 0.7 <= passed <= 0.93


@pytest.mark.parametrize("kind", DRAWS)
def test_bounds_are_where_the_test_turns(kind: str) -> None:
    sample = DRAWS[kind](np.random.default_rng(4), 200)
    high, low = highest(sample, 0.05), lowest(sample, 0.01)
    assert low < sample.harm < high
    assert sample.p_at_least(high) <= 0.05 < sample.p_at_least(high - 0.001)
    assert sample.p_at_most(low) <= 0.01 < sample.p_at_most(low + 0.001)


def test_the_bound_of_a_perplexity_four_times_as_high_lies_beyond_it() -> None:
    drawer = np.random.default_rng(0)
    tokens = np.full(60, 100.0)
    sample = Likelihood(math.log(4) * tokens + drawer.normal(0, 5, 60), tokens)
    assert sample.harm == pytest.approx(3, rel=0.1)
    assert lowest(sample, 0.01) < sample.harm < highest(sample, 0.05) < 4
    assert highest(Binary(30, 30, 0), 0.05) == 1
